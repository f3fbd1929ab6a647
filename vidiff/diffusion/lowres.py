"""A low-resolution video as a condition, noised so that a model does not trust its finest traits.

What conditions a super-resolution model in training is a shrunken real clip; when it is used, another model's work.
Noise hides how they differ (Ho et al. 2022, cascaded diffusion models, section 4.2).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.process import add_noise, draw_noise
from vidiff.diffusion.schedule import Schedule


def with_lowres(
    condition: Condition, lowres: Tensor, schedule: Schedule, level: Tensor, generator: torch.Generator | None = None
) -> Condition:
    """The condition with a low-resolution video that is noised, and told how far.

    Args:
        lowres: `(b, c, f, h, w)` of unit variance, enlarged to the size of `x`.
        level: `(b,)`, the time of each sample's noise on `schedule`; at 0 the video stays as it is.
        generator: where the noise comes from.

    Raises:
        ValueError: a level outside [0, 1].
    """
    noised = add_noise(schedule, lowres, draw_noise(lowres, generator), level)
    alpha, sigma = schedule(level)
    scale = (alpha.square() + sigma.square()).sqrt().view(-1, 1, 1, 1, 1)  # to unit variance, as x is scaled
    clean = (level == 0).view(-1, 1, 1, 1, 1)
    return replace(
        condition,
        lowres=torch.where(clean, lowres, (noised / scale).to(lowres.dtype)),
        lowres_log_snr=schedule.log_snr(level),
    )


def draw_level(batch: int, noise: float, device: torch.device) -> Tensor:
    """Each sample's level in training, `(b,)`: 0 for half of them, else uniform up to `noise`."""
    return noise * (2 * torch.rand(batch, device=device) - 1).clamp(min=0)
