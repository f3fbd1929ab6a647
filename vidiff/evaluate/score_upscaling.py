"""Scores of a super-resolution run on the held-out clips of its data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vidiff.data.index import index_of, other_data
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.evaluate.upscaling import UpscalingProtocol, score_upscaling, side_by_side
from vidiff.metrics.objects import LABELS
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.video.fit import read_fitted
from vidiff.video.writer import write_image


def score_run(run: Path, pipeline: Pipeline, data: Path | None, protocol: UpscalingProtocol) -> dict[str, Any]:
    """Score a run, and leave a picture in its samples: `evaluated-upscaled.png`.

    Args:
        data: folder of videos, laid out as those that the run was trained on; by default those.

    Returns:
        as `score_upscaling`, with the protocol and the sampling settings. The oracle reads clips of the shapes set
        alone.

    Raises:
        ValueError: a run that enlarges nothing; no held-out clips of `protocol.frames` frames.
    """
    config = read_config(run)
    if data is not None:
        config.data = other_data(config.data, data)
    index = index_of(config.data, run.parent, config.data.test_split)
    files = [number for number, file in enumerate(index.files) if file.frames >= protocol.frames]
    files = files[:: max(len(files) // protocol.clips, 1)][: protocol.clips]
    if not files:
        raise ValueError(f"no held-out clip in {config.data.root} has the {protocol.frames} frames that are scored")
    clips = [
        read_fitted(index.path(n), pipeline.size, index.fps, index.files[n].decoder)[0][:, :, : protocol.frames]
        for n in files
    ]
    truth, factor = torch.cat(clips), pipeline.lowres.factor
    small = shrink(truth, factor)
    bicubic = enlarge(small, factor)
    names = [index.labels[index.files[number].label] for number in files] if index.labels else []
    shapes = bool(names) and set(names) <= set(LABELS)
    scores, made = score_upscaling(
        lambda clips, seed: pipeline.upscale(clips, seed=seed, progress=True).cpu(),
        torch.cat([pipeline.reconstruct(part) for part in truth.split(protocol.batch)]),
        truth,
        small,
        bicubic,
        torch.tensor([LABELS.index(name) for name in names]) if shapes else None,
        protocol,
    )
    write_image(run / "samples" / "evaluated-upscaled.png", side_by_side(small, bicubic, made, truth))
    return {"protocol": asdict(protocol), "sampling": pipeline.settings(), "run": str(run), **scores}
