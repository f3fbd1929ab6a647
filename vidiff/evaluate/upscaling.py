"""Scores of super-resolution: held-out clips are shrunk, enlarged again, and compared with what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.data.index import index_of, other_data
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.evaluate.shapes import label_numbers
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import label_score, read_shapes
from vidiff.metrics.prediction import overall_psnr
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config, runs_of
from vidiff.video.fit import Fit
from vidiff.video.writer import write_image


@dataclass(frozen=True)
class UpscalingProtocol:
    """Which held-out clips are enlarged. The scores of two models compare only under one protocol."""

    clips: int = 48  # evenly chosen
    frames: int = 12  # of each, from the first on: more than a window, so that windows join
    batch: int = 8  # clips enlarged at once


def score_upscaling(
    upscale: Callable[[Tensor, int], Tensor],
    decoded: Tensor,
    truth: Tensor,
    small: Tensor,
    bicubic: Tensor,
    label: Tensor | None,
    protocol: UpscalingProtocol,
) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """Score a super-resolution model against bicubic enlargement.

    Args:
        upscale: (small clips, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        decoded: the true clips after the model's codec, which it cannot beat.
        truth: `(n, 3, f, h, w)`; small: the same shrunk; bicubic: that enlarged again.
        label: `(n,)`, index into the shapes set's LABELS, for the oracle; None where it cannot read the clips.

    Returns:
        scores of "upscaled", "bicubic" and "codec": `psnr` in dB, and what the oracle reads; for "upscaled" also its
        `gain` over bicubic in dB; and the clips.
    """
    parts = small.split(protocol.batch)
    upscaled = torch.cat([upscale(part, seed) for seed, part in enumerate(parts)])
    scores: dict[str, dict[str, Any]] = {}
    for name, video in (("upscaled", upscaled), ("bicubic", bicubic), ("codec", decoded)):
        scores[name] = {"psnr": overall_psnr(video, truth)}
        if label is not None:
            scores[name] |= label_score(read_shapes(video), label)
    scores["upscaled"]["gain"] = scores["upscaled"]["psnr"] - scores["bicubic"]["psnr"]
    return scores, upscaled


def side_by_side(small: Tensor, bicubic: Tensor, upscaled: Tensor, truth: Tensor, columns: int = 6) -> Tensor:
    """A picture `(3, 4 h, columns * w)` of one frame each: given (pixel by pixel), bicubic, upscaled, true."""
    every = max(len(truth) // columns, 1)
    chosen = slice(every // 2, every // 2 + every * columns, every)
    frame = truth.shape[2] // 2
    given = F.interpolate(small[chosen, :, frame], truth.shape[3:], mode="nearest")  # n 3 h w
    rows = [given, *(video[chosen, :, frame] for video in (bicubic, upscaled, truth))]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


def score_upscaler(run: Path, pipeline: Pipeline, data: Path | None, protocol: UpscalingProtocol) -> dict[str, Any]:
    """Scores a super-resolution run, and leaves a picture in its samples: `evaluated-upscaled.png`.

    Args:
        data: folder of videos, laid out as those that the run was trained on; by default those.

    Returns:
        as `score_upscaling`, with the protocol. The oracle reads clips of the shapes set alone.

    Raises:
        ValueError: a run that enlarges nothing; no held-out clips of `protocol.frames` frames.
    """
    config = read_config(run)
    if data is not None:
        config.data = other_data(config.data, data)
    index = index_of(config.data, runs_of(run, config), config.data.test_split)
    stride = config.data.stride[0]
    seen = range(0, protocol.frames * stride, stride)
    files = [number for number, file in enumerate(index.files) if file.frames > seen[-1]]
    files = files[:: max(len(files) // protocol.clips, 1)][: protocol.clips]
    if not files:
        raise ValueError(f"no held-out clip in {config.data.root} has the {protocol.frames} frames that are scored")
    clips = []
    for file in (index.files[number] for number in files):
        with file.place.held() as here, index.manner(file).open(here) as reader:
            clips.append(Fit(reader.size, (pipeline.size, pipeline.size)).read(reader, seen)[None])
    truth, factor = torch.cat(clips), pipeline.facts.enlarges
    small = shrink(truth, factor)
    bicubic = enlarge(small, factor)
    names = [index.class_of(index.files[number]) for number in files] if index.labels else []
    shapes = bool(names) and set(names) <= set(LABELS)
    scores, upscaled = score_upscaling(
        lambda clips, seed: pipeline.upscale(clips, seed=seed, progress=True).cpu(),
        torch.cat([pipeline.reconstruct(part) for part in truth.split(protocol.batch)]),
        truth,
        small,
        bicubic,
        label_numbers([name for name in names if name is not None]) if shapes else None,
        protocol,
    )
    write_image(run / "samples" / "evaluated-upscaled.png", side_by_side(small, bicubic, upscaled, truth))
    return {"protocol": asdict(protocol), **scores}
