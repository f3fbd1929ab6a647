"""Scores of editing with a run of the shapes set: what was hidden or left out comes back where it really was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.evaluate.editing import EditingProtocol, score_editing
from vidiff.evaluate.score_shapes import check_labels, held_out_clips
from vidiff.metrics.objects import LABELS
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import DiffusionRun
from vidiff.video.reader import read_video
from vidiff.video.writer import sheet, write_image, write_video


def score_edits(run: Path, pipeline: Pipeline, config: DiffusionRun, data: Path | None) -> dict[str, Any]:
    """Inpaint, interpolate and loop held-out clips, told their labels. The results go to `run/samples/evaluated-*`.

    Args:
        data: the shapes set; by default the one that the run was trained on.

    Raises:
        ValueError: a run without the set's labels, and as `held_out_clips`.
    """
    check_labels(run, pipeline)
    protocol = EditingProtocol()
    files, truth = held_out_clips(Path(config.data.root) if data is None else data, pipeline.size, run)
    every = max(len(files) // protocol.clips, 1)
    chosen = range(every // 2, len(files), every)
    frames = pipeline.frames
    clips = torch.stack([read_video(files[i], range(frames)) for i in chosen])
    label = torch.tensor([LABELS.index(truth[i].label) for i in chosen])
    made: dict[str, Tensor] = {}

    def batched(name: str, task: Callable[..., Tensor], *given: Tensor, rest: tuple[Any, ...] = ()) -> Tensor:
        parts = zip(label.split(protocol.batch), *(x.split(protocol.batch) for x in given), strict=True)
        made[name] = torch.cat(
            [
                task(*part, *rest, [LABELS[i] for i in which], seed=seed, progress=True).cpu()
                for seed, (which, *part) in enumerate(parts)
            ]
        )
        return made[name]

    scores = score_editing(
        lambda clips, mask: batched("inpainting", pipeline.inpaint, clips, mask),
        lambda first, last, between: batched("interpolation", pipeline.interpolate, first, last, rest=(between,)),
        lambda clips, between: batched("loop", pipeline.loop, clips, rest=(between,)),
        clips,
        label,
        torch.stack([truth[i].path(frames) for i in chosen]),
        torch.tensor([truth[i].size for i in chosen]),
    )
    for name, videos in made.items():
        write_video(run / "samples" / f"evaluated-{name}.mp4", videos, fps=pipeline.fps)
        rows = torch.cat([sheet(clip) for clip in videos[::4]], dim=1)
        write_image(run / "samples" / f"evaluated-{name}.png", rows)
    return {"protocol_editing": asdict(protocol), **scores}
