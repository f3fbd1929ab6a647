"""Scores of a classifier: how well its gradient guides a model that is not told the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.evaluate.protocol import ShapesProtocol, score_generation
from vidiff.evaluate.score_shapes import check_labels
from vidiff.metrics.objects import LABELS
from vidiff.pipeline.pipeline import Pipeline
from vidiff.video.writer import sheet, write_image, write_video


def score_run(run: Path, pipeline: Pipeline, protocol: ShapesProtocol) -> dict[str, Any]:
    """Score a model of the shapes set with its classifier, and leave what was drawn in the classifier's samples.

    Args:
        run: of the model.
        pipeline: the model, with a classifier.

    Returns:
        "unguided", the scores of clips that no label was asked of, which are right by chance, one in 12; "guided",
        those of as many that the classifier guided; the protocol and the sampling settings.

    Raises:
        ValueError: a pipeline without a classifier, or of another set.
    """
    check_labels(run, pipeline)
    if pipeline.classifier is None:
        raise ValueError(f"{run} was loaded without a classifier: name its run as classifier")

    def draw(names: Sequence[str], seed: int) -> Tensor:
        return pipeline.generate(label=names, count=len(names), seed=seed, progress=True).cpu()

    def draw_unguided(names: Sequence[str], seed: int) -> Tensor:
        return pipeline.generate(count=len(names), seed=seed, progress=True).cpu()

    scores: dict[str, Any] = {"protocol": asdict(protocol), "sampling": pipeline.settings(), "run": str(run)}
    folder = Path(pipeline.classifier.name) / "samples"
    for name, make in (("unguided", draw_unguided), ("guided", draw)):
        scores[name], made = score_generation(make, LABELS, protocol)
        write_video(folder / f"evaluated-{name}.mp4", made, fps=pipeline.fps)
        rows = [sheet(clip) for clip in made[:: protocol.per_label]]  # one of each label
        write_image(folder / f"evaluated-{name}.png", torch.cat(rows, dim=1))
    return scores
