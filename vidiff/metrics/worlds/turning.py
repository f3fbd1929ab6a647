"""Which way a view turns, told from how far what is seen goes sideways."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vidiff.metrics.motion import GREY
from vidiff.pixels import check_video

BLOCK = 1 / 8  # side of a block, of the frame's height
REACH = 1 / 3  # the farthest that is looked for, of the frame's width
CHANGED = 4 / 255  # mean change of a block, in shares of the range, below which it is still, or of one colour
LEAST = 4  # blocks that must have changed


def sideways(video: Tensor) -> Tensor:
    """How far what is seen moves to the right from each frame to the next: `(b, f - 1)`, in pixels.

    By block matching (Jain and Jain 1981, full search), along rows alone: of each block that changed, the shift that
    leaves the least absolute difference; then the median over blocks, 0 where too few changed. What stands still on the
    screen, such as a weapon or a bar of figures, does not count.

    Args:
        video: `(b, 3, f, h, w)` in [-1, 1].
    """
    check_video(video, "video", one=False)
    grey = torch.einsum("bcfhw, c -> bfhw", video.float().cpu() / 2, torch.tensor(GREY))
    before, after = (rearrange(x, "b f h w -> (b f) 1 h w") for x in (grey[:, :-1], grey[:, 1:]))
    height, width = grey.shape[-2:]
    block, reach = max(2, round(BLOCK * height)), max(1, round(REACH * width))
    shifts = sorted(range(-reach, reach + 1), key=abs)  # of several as good, the least
    left = []
    for shift in shifts:
        moved = torch.roll(before, shift, -1)
        off = (moved - after).abs()
        columns = torch.arange(width)
        outside = (columns < shift) | (columns >= width + shift)  # what came round from the other side
        off = off.masked_fill(outside, torch.inf)
        left.append(avg_pool2d(off, block, max(1, block // 2))[:, 0])  # n h' w'
    found = torch.stack(left)  # shifts n h' w'
    best = torch.tensor(shifts)[found.argmin(0)].flatten(1).float()  # n blocks
    changed = (found[0] > CHANGED).flatten(1)
    median = best.masked_fill(~changed, torch.nan).nanmedian(1).values
    median = torch.where(changed.sum(1) >= LEAST, median, 0.0)
    return median.unflatten(0, (len(video), -1))
