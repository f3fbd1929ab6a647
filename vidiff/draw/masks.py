"""Masks in pixels, true where new content is wanted, and what they leave known of the latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_pixels(mask: Tensor, clip: Tensor) -> None:
    """Refuse a mask that does not fit a clip `(b, 3, f, h, w)`.

    Raises:
        ValueError: unless `mask` is bool and `(1 or b, 1, 1 or f, h, w)`; 1 for h and w means whole frames.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is of {mask.dtype}; expected bool, true where content is to be new: try mask > 0")
    batch, _, frames, height, width = clip.shape
    sizes = (batch, 1, frames, height, width)
    if mask.ndim != 5 or any(n not in (1, m) for n, m in zip(mask.shape, sizes, strict=True)):
        raise ValueError(
            f"the mask is {tuple(mask.shape)}; expected (1 or {batch}, 1, 1 or {frames}, {height}, {width}), "
            "as the clip: resize it"
        )


def known_latents(mask: Tensor, size: tuple[int, int], factor: int) -> Tensor:
    """Which latents of a codec that shrinks by `factor` are known for sure, where `mask` wants new pixels.

    A latent is known only if no pixel of it or of its eight neighbours is to be new: the codec looks a little further
    than the pixels of a latent. With a factor of 1 a latent is a pixel, and has no neighbours to mind.

    Args:
        mask: bool `(b, 1, f, h, w)`, where h and w may be 1.
        size: height and width in pixels.

    Returns:
        bool `(b, 1, f, h / factor, w / factor)`, true where known; `(b, 1, f, 1, 1)` if all frames are known or
        unknown as a whole.
    """
    new = mask.expand(*mask.shape[:3], *size).flatten(0, 2).float()[:, None]  # n 1 h w
    new = F.max_pool2d(new, factor)  # n 1 h/factor w/factor
    if factor > 1:
        new = F.max_pool2d(new, 3, stride=1, padding=1)
    known = (new == 0).view(*mask.shape[:3], *new.shape[2:])  # b 1 f h/factor w/factor
    whole = known[..., :1, :1]
    return whole if bool((known == whole).all()) else known


def hide(clip: Tensor, mask: Tensor) -> Tensor:
    """Each frame with the mean of its known pixels wherever `mask` is true: nothing there leaks through a codec.

    Args:
        clip: `(b, 3, f, h, w)`; a frame without any known pixel becomes 0.
        mask: bool, broadcastable to `(b, 1, f, h, w)`.
    """
    known = (~mask).expand(len(clip), 1, *clip.shape[2:]).sum((3, 4), keepdim=True)  # b 1 f 1 1
    mean = torch.where(mask, 0.0, clip).sum((3, 4), keepdim=True) / known.clamp(min=1)  # b 3 f 1 1
    return torch.where(mask, mean, clip)
