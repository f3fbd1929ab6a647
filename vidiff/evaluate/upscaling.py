"""The super-resolution protocol: held-out clips are shrunk, enlarged again, and compared with what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.metrics.oracle import label_score, read_shapes


@dataclass(frozen=True)
class UpscalingProtocol:
    """Which held-out clips are enlarged. The scores of two models compare only under one protocol."""

    clips: int = 48  # evenly chosen
    frames: int = 12  # of each, from the first on: more than a window, so that windows join
    batch: int = 8  # clips enlarged at once


def psnr(video: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio in dB over all of two videos in [-1, 1]; 126 where they are equal."""
    error = (video - truth).square().mean().clamp(min=1e-12)
    return float(10 * torch.log10(4 / error))


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
    made = torch.cat([upscale(part, seed) for seed, part in enumerate(parts)])
    scores: dict[str, dict[str, Any]] = {}
    for name, video in (("upscaled", made), ("bicubic", bicubic), ("codec", decoded)):
        scores[name] = {"psnr": psnr(video, truth)}
        if label is not None:
            scores[name] |= label_score(read_shapes(video), label)
    scores["upscaled"]["gain"] = scores["upscaled"]["psnr"] - scores["bicubic"]["psnr"]
    return scores, made


def side_by_side(small: Tensor, bicubic: Tensor, made: Tensor, truth: Tensor, columns: int = 6) -> Tensor:
    """A picture `(3, 4 h, columns * w)` of one frame each: given (pixel by pixel), bicubic, made, true."""
    every = max(len(truth) // columns, 1)
    chosen = slice(every // 2, every // 2 + every * columns, every)
    frame = truth.shape[2] // 2
    given = F.interpolate(small[chosen, :, frame], truth.shape[3:], mode="nearest")  # n 3 h w
    rows = [given, *(video[chosen, :, frame] for video in (bicubic, made, truth))]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
