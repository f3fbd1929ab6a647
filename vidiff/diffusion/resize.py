"""Videos made smaller and larger, frame by frame."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shrink(video: Tensor, factor: int) -> Tensor:
    """`(b, c, f, h, w)` in [-1, 1] to `(b, c, f, h / factor, w / factor)`: bicubic, without aliasing.

    Raises:
        ValueError: a height or width that `factor` does not divide.
    """
    height, width = video.shape[3:]
    if height % factor or width % factor:
        raise ValueError(f"frames of {height}x{width} cannot be shrunk by {factor}: it must divide both")
    return _resize(video, (height // factor, width // factor))


def enlarge(video: Tensor, factor: int) -> Tensor:
    """`(b, c, f, h, w)` in [-1, 1] to `(b, c, f, factor * h, factor * w)`: bicubic."""
    height, width = video.shape[3:]
    return _resize(video, (factor * height, factor * width))


def _resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    frames = video.transpose(1, 2).flatten(0, 1)  # (b f) c h w
    frames = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2).contiguous()
