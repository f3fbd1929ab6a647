"""How a long video drifts: colour, sharpness and motion of each stretch against the first, and whether seams show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.pixels import check_values

MOVED = 20 / 255  # a pixel that changes by more, in units of [-1, 1], moves: ten grey levels
STILL = 0.25  # of the mean change in a clip's first stretch: what changes less than that from frame to frame is frozen

STRETCH = 16
"""Frames of a stretch at the end of new frames, which is compared with the first."""


@dataclass(frozen=True)
class Looks:
    """The looks of each frame of b clips.

    Attributes:
        mean: (b, f, c), of each channel.
        std: (b, f, c), over the pixels of a channel.
        sharpness: (b, f), how fast moving edges bend, in 1 / pixel: the norm of the Laplacian over that of the
            gradient, in pixels that moved and their neighbours. Contrast and the length of edges cancel; a blurred edge
            has less, by the factor by which it is wider. NaN where nothing moved.
        change: (b, f), mean absolute difference to the frame before; NaN where there is none.
    """

    mean: Tensor
    std: Tensor
    sharpness: Tensor
    change: Tensor


def look(video: Tensor, before: Tensor | None = None) -> Looks:
    """Look at the frames of `video` (b, c, f, h, w) in [-1, 1].

    Args:
        before: (b, c, 1, h, w), the frame before the first, where a video comes piece by piece.

    Raises:
        ValueError: another number of dimensions, or frames of less than 3 x 3 pixels.
    """
    if video.ndim != 5 or min(video.shape[3:]) < 3 or not video.numel():
        raise ValueError(f"video has shape {tuple(video.shape)}; expected (b, c, f, h, w) of 3 x 3 pixels or more")
    check_values(video, "video")
    video = video.detach().float().cpu()
    whole = video if before is None else torch.cat([before.detach().float().cpu(), video], dim=2)
    difference = whole.diff(dim=2).abs()  # b c f-1 h w, or b c f h w
    missing = video.shape[2] - difference.shape[2]
    difference = F.pad(difference, (0, 0, 0, 0, missing, 0), value=torch.nan)
    moved = F.max_pool2d((difference > MOVED).any(1).float(), 3, 1, 1)[..., 1:-1, 1:-1]  # b f h-2 w-2
    inner = video[..., 1:-1, 1:-1]
    right, down = video[..., 1:-1, 2:] - inner, video[..., 2:, 1:-1] - inner
    left, up = inner - video[..., 1:-1, :-2], inner - video[..., :-2, 1:-1]
    gradient = (right**2 + down**2).sum(1)  # b f h-2 w-2
    laplacian = ((right - left + down - up) ** 2).sum(1)
    sharpness = ((moved * laplacian).sum((2, 3)) / (moved * gradient).sum((2, 3))).sqrt()
    flat = video.flatten(3)
    return Looks(flat.mean(3).mT, flat.std(3, correction=0).mT, sharpness, difference.mean((1, 3, 4)))


def join(parts: Sequence[Looks], dim: int = 1) -> Looks:
    """The looks of pieces that follow each other, or with `dim=0`, of other clips."""
    return Looks(*(torch.cat([getattr(part, field.name) for part in parts], dim) for field in fields(Looks)))


def after(looks: Looks, frame: int) -> Looks:
    """The looks from a frame on."""
    return Looks(*(getattr(looks, field.name)[:, frame:] for field in fields(Looks)))


def drift(looks: Looks, chunk: int, seams: Sequence[int] = ()) -> dict[str, Any]:
    """Compare each stretch of `chunk` frames with the first of its clip. What cannot be measured is NaN.

    Args:
        looks: of b clips.
        chunk: frames of a stretch; the last may have fewer.
        seams: frames at which a window began.

    Returns:
        for each stretch, as means over clips: `mean`, by how much the mean of each channel is off, and `std`, times
        that its standard deviation is as large, lists of c; `colour`, the root mean square of the former over channels;
        `contrast`, the mean of the latter; `sharpness` and `motion`, times that they are as large; `frozen`, share of
        frames that hardly differ from the one before. And `seam`, how much frames at seams differ from the one before,
        over the same of their neighbours: 1 is seamless.

    Raises:
        ValueError: a chunk below 2; a seam outside the clips.
    """
    frames = looks.change.shape[1]
    if chunk < 2:
        raise ValueError(f"chunk is {chunk}; give 2 or more frames, so that something can move in them")
    outside = [seam for seam in seams if not 0 <= seam < frames]
    if outside:
        raise ValueError(f"frame {outside[0]} is no seam of clips of {frames} frames")
    mean, std, sharpness, change = (
        torch.stack([part.double().nanmean(1) for part in getattr(looks, field.name).split(chunk, dim=1)], dim=1)
        for field in fields(Looks)
    )  # b n c, b n c, b n, b n
    off, ratio = mean - mean[:, :1], _times(std)
    still = looks.change <= STILL * change[:, :1]
    frozen = torch.where(looks.change.isnan(), torch.nan, still.double())  # b f
    frozen = torch.stack([part.nanmean(1) for part in frozen.split(chunk, dim=1)], dim=1)  # b n
    return {
        "chunk": chunk,
        "mean": off.mean(0).tolist(),
        "std": ratio.nanmean(0).tolist(),
        "colour": off.square().mean(2).sqrt().mean(0).tolist(),
        "contrast": ratio.nanmean((0, 2)).tolist(),
        "sharpness": _times(sharpness).nanmean(0).tolist(),
        "motion": _times(change).nanmean(0).tolist(),
        "frozen": frozen.nanmean(0).tolist(),
        "seam": _seam(looks.change.double(), seams),
    }


def drift_at_end(looks: Looks, given: int) -> dict[str, float]:
    """The last stretch of the new frames against the first of them; see `drift`. What cannot be measured is left out.

    Args:
        given: frames that the clips began with.

    Raises:
        ValueError: fewer than two stretches of new frames.
    """
    new = looks.change.shape[1] - given
    if new < 2 * STRETCH:
        raise ValueError(f"{new} new frames: give at least {2 * STRETCH}, two stretches of {STRETCH}")
    parts = drift(after(looks, given), STRETCH)
    last = {name: parts[name][new // STRETCH - 1] for name in ("colour", "contrast", "sharpness", "motion", "frozen")}
    return {name: value for name, value in last.items() if math.isfinite(value)}


def by_frame(looks: Looks, given: int) -> dict[str, list[float]]:
    """Means over clips for each frame: `colour`, how far channels' means are off those of the given frames (root mean
    square, of a range of 2), `sharpness` and `motion`, as `Looks` has them; NaN where there is none.
    """
    off = looks.mean - looks.mean[:, :given].mean(1, keepdim=True)
    return {
        "colour": off.square().mean(2).sqrt().mean(0).tolist(),
        "sharpness": looks.sharpness.nanmean(0).tolist(),
        "motion": looks.change.nanmean(0).tolist(),
    }


def _times(stretches: Tensor) -> Tensor:
    """Stretches (b, n, ...), each in the first; NaN where that is 0, of which nothing is a multiple."""
    times = stretches / stretches[:, :1]
    return times.where(times.isfinite(), torch.nan)


def _seam(change: Tensor, seams: Sequence[int]) -> float:
    """Change (b, f) at seams over the mean of the changes one frame before and one after; NaN beside no change."""
    inner = [seam for seam in seams if 2 <= seam < change.shape[1] - 1]
    if not inner:
        return float("nan")
    at = torch.tensor(inner)
    beside = float(0.5 * (change[:, at - 1] + change[:, at + 1]).sum())
    return float(change[:, at].sum()) / beside if beside else float("nan")
