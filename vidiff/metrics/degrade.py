"""Clips made worse by a known amount, to see what a feature network notices.

Each takes clips `(b, 3, f, h, w)` in [-1, 1], a strength from 0 (nothing is done) to 1, and a generator, and returns
clips of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Degradation = Callable[[Tensor, float, torch.Generator], Tensor]


def noise(video: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of standard deviation `strength` on every pixel, clamped to [-1, 1]."""
    drawn = torch.randn(video.shape, generator=generator).to(video)
    return (video + strength * drawn).clamp(-1, 1)


def blur(video: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A Gaussian blur whose standard deviation is `strength` / 16 of the height: 4 of 64 pixels at strength 1."""
    sigma = strength * video.shape[-2] / 16
    if sigma == 0:
        return video
    reach = min(math.ceil(3 * sigma), min(video.shape[-2:]) - 1)  # reflection has no more to give
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square()).to(video)
    weight = weight / weight.sum()
    x = rearrange(video, "b c f h w -> (b c f) 1 h w")
    x = F.conv2d(F.pad(x, (reach,) * 4, mode="reflect"), weight.view(1, 1, 1, -1))
    return F.conv2d(x, weight.view(1, 1, -1, 1)).view(video.shape)


def shuffled(video: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """`strength` of each clip's frames, chosen at random, change places, and none of them stays where it was."""
    count = round(strength * video.shape[2])
    clips = []
    for clip in video:
        order = torch.arange(video.shape[2])
        chosen = torch.randperm(len(order), generator=generator)[:count]
        order[chosen] = order[chosen.roll(1)]
        clips.append(clip[:, order])
    return torch.stack(clips)


def frozen(video: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """`strength` of each clip's frames after the first, chosen at random, show what the frame before them shows."""
    count = round(strength * (video.shape[2] - 1))
    clips = []
    for clip in video:
        moves = torch.ones(video.shape[2], dtype=torch.long)
        moves[1 + torch.randperm(video.shape[2] - 1, generator=generator)[:count]] = 0
        index = torch.arange(video.shape[2]) * moves
        clips.append(clip[:, index.cummax(0).values])
    return torch.stack(clips)


def backwards(video: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """`strength` of the clips, the first of the batch, play backwards."""
    count = round(strength * len(video))
    return torch.cat([video[:count].flip(2), video[count:]])


DEGRADATIONS: dict[str, Degradation] = {
    "noise": noise,
    "blur": blur,
    "shuffled": shuffled,
    "frozen": frozen,
    "reversed": backwards,
}
