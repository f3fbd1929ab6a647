"""A low-resolution video as a condition: how one is made, and noised so that a model does not trust its finest traits.

What conditions a super-resolution model in training is a shrunken real clip; when it is used, another model's work.
Noise hides how they differ (Ho et al. 2022, cascaded diffusion models, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.process import add_noise, draw_noise
from vidiff.diffusion.schedule import Schedule


@dataclass
class LowresConfig:
    """What a super-resolution model enlarges, and how far it trusts that."""

    factor: int = 0  # by which it enlarges height and width to data.size; 0 for a model that makes clips by itself
    noise: float = 0.1  # largest time to which the low-resolution video is noised in training
    level: float = 0.0  # time to which it is noised when clips are enlarged, unless a call says otherwise
    crop: int = 0  # side in pixels, at data.size, of the random squares of frames to train on; 0 for whole frames

    def check(self, sides: Sequence[tuple[str, int]]) -> None:
        """Raises ValueError for values that do not go together, or with the heights and widths of clips.

        Args:
            sides: how messages call each, and its pixels.
        """
        for name, side in sides:
            if self.factor < 0 or self.factor == 1 or (self.factor and side % self.factor):
                raise ValueError(
                    f"lowres.factor is {self.factor}; give 2 or more, such that it divides {name}, which is {side}, or "
                    "0 for a model that makes clips by itself"
                )
            if self.crop and not (self.factor and 0 < self.crop <= side):
                raise ValueError(
                    f"lowres.crop is {self.crop}; give pixels up to {name}, which is {side}, or 0 for whole frames"
                    + ("" if self.factor else "; only a model that enlarges clips (lowres.factor) is trained on parts")
                )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"lowres.noise is {self.noise}; give a time from 0 to 1, such as 0.1")
        if not 0 <= self.level <= self.noise:
            raise ValueError(
                f"lowres.level is {self.level}; give 0 to {self.noise}, which is lowres.noise: the model was not "
                "trained on more"
            )


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


def augment(condition: Condition, schedule: Schedule, noise: float) -> Condition:
    """The condition with its low-resolution video, if it has one, noised as in training, up to the time `noise`."""
    if condition.lowres is None:
        return condition
    level = draw_level(len(condition.lowres), noise, condition.lowres.device)
    return with_lowres(condition, condition.lowres, schedule, level)


def _resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    frames = video.transpose(1, 2).flatten(0, 1)  # (b f) c h w
    frames = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2).contiguous()
