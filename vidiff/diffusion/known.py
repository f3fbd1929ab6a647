"""Every voxel has its own clock: known content is content whose clock stands at 0.

`Known` does continuation, interpolation, inpainting and outpainting with any sampler; only the mask differs. `Held` is
for what is known but for an error: its clock falls with the others from where noise is as large as that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.process import add_noise, draw_noise, expand_time
from vidiff.diffusion.schedule import Schedule


class Known(nn.Module):
    """A denoiser that knows part of the clip.

    Wherever `mask` is true, the inner denoiser sees `frames` with the clock at `level`, and the estimate is
    `frames` itself, so every sampler returns them bit for bit.

    Args:
        denoiser: the inner denoiser, guided or not.
        frames: `(b, c, f, h, w)`; what it holds outside the mask is not used.
        mask: bool, broadcastable to `(b, 1, f, h, w)`, true where known.
        level: the time at which the context is shown; above 0 it is noise-augmented (Ho et al. 2022, cascaded
            diffusion), which hides its flaws.
        replace: show it at the sampler's own time instead, for a model never trained on context (Lugmayr et
            al. 2022, RePaint, eq. 8).
        noise: the noise for a `level` above 0 or for `replace`, like `frames`; drawn once with `generator` if
            not given.

    Raises:
        ValueError: a mask or frames of the wrong kind or shape, a level outside [0, 1], `replace` with a
            level.
    """

    frames: Tensor
    mask: Tensor
    noise: Tensor | None

    def __init__(
        self,
        denoiser: Denoises,
        frames: Tensor,
        mask: Tensor,
        level: float = 0.0,
        *,
        replace: bool = False,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_mask(mask, frames)
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level = {level} is outside [0, 1]; 0 shows the known frames as they are")
        if replace and level:
            raise ValueError(f"replace shows known frames at the sampler's time, so level = {level} must be 0")
        if noise is None and (replace or level):
            noise = draw_noise(frames, generator)
        self.denoiser = denoiser
        self.level = level
        self.replace = replace
        self.register_buffer("frames", frames, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("noise", noise, persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        check_frames(x_t, self.frames, "guidance goes inside: Known(ClassifierFree(denoiser, ...), frames, mask)")
        t = expand_time(t, x_t)
        clock = t if self.replace else torch.where(self.mask, self.level, t)
        content = self.frames
        if self.noise is not None:
            content = add_noise(self.schedule, self.frames, self.noise, clock).to(x_t.dtype)
        estimate = self.denoiser(torch.where(self.mask, content, x_t), clock, condition)
        return Estimate(torch.where(self.mask, self.frames, estimate.x0), estimate.variance)


class Held(nn.Module):
    """A denoiser that knows part of the clip until the clock comes down to a time of each voxel's own.

    Until then it is `Known` at that time, noised as far; from there on it is made with the rest. So content that is
    right but for an error `e` is of use, and need not be kept: its time is that at which noise is as large, `sigma /
    alpha = e`.

    Args:
        denoiser: the inner denoiser, guided or not; `Known` may be inside or outside.
        frames: `(b, c, f, h, w)`, like what is drawn.
        until: times, broadcastable to `(b, 1, f, h, w)`; 1 is never held.
        replace: show what is held at the sampler's own time, as `Known` has it.
        generator: of the noise.

    Raises:
        ValueError: times of another shape, or outside [0, 1].
    """

    frames: Tensor
    until: Tensor
    noise: Tensor

    def __init__(
        self,
        denoiser: Denoises,
        frames: Tensor,
        until: Tensor,
        *,
        replace: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.replace = denoiser, replace
        low, high = float(until.min()), float(until.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"until has the time {high if low >= 0.0 else low:g}, which is outside [0, 1]")
        self.register_buffer("frames", frames, persistent=False)
        self.register_buffer("until", expand_time(until, frames), persistent=False)
        self.register_buffer("noise", draw_noise(frames, generator), persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        check_frames(x_t, self.frames, "guidance goes inside: Held(ClassifierFree(denoiser, ...), frames, until)")
        t = expand_time(t, x_t)
        held = t > self.until
        clock = t if self.replace else torch.where(held, self.until, t)
        content = add_noise(self.schedule, self.frames, self.noise, clock).to(x_t.dtype)
        estimate = self.denoiser(torch.where(held, content, x_t), clock, condition)
        return Estimate(torch.where(held, self.frames, estimate.x0), estimate.variance)


def check_frames(x_t: Tensor, frames: Tensor, advice: str) -> None:
    """Raises ValueError, with advice, unless `x_t` has the shape of the known `frames`."""
    if x_t.shape != frames.shape:
        raise ValueError(f"x of shape {tuple(x_t.shape)} does not match known frames {tuple(frames.shape)}; {advice}")


def check_mask(mask: Tensor, frames: Tensor) -> None:
    """Raises ValueError unless `mask` is bool and broadcasts to the voxels `(b, 1, f, h, w)` of `frames`."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, true where known; this one is {mask.dtype}")
    voxels = (frames.shape[0], 1, *frames.shape[2:])
    if mask.ndim != frames.ndim or any(n not in (1, m) for n, m in zip(mask.shape, voxels, strict=True)):
        raise ValueError(f"mask of shape {tuple(mask.shape)} does not broadcast to {voxels}")


def first_frames(frames: int, count: int | Tensor) -> Tensor:
    """The first `count` frames known: `(1, 1, f, 1, 1)`, or `(b, 1, f, 1, 1)` for counts `(b,)`."""
    count = _counts(frames, count)
    return torch.arange(frames, device=count.device).view(1, 1, -1, 1, 1) < count


def last_frames(frames: int, count: int | Tensor) -> Tensor:
    """The last `count` known: to extend a clip backwards. Shapes as in `first_frames`."""
    return first_frames(frames, count).flip(2)


def end_frames(frames: int, first: int | Tensor, last: int | Tensor) -> Tensor:
    """`first` frames and the `last` frames known: to interpolate. Shapes as in `first_frames`."""
    return first_frames(frames, first) | last_frames(frames, last)


def some_frames(frames: int, index: Sequence[int]) -> Tensor:
    """The frames numbered in `index` known, `(1, 1, f, 1, 1)`; negative numbers count from the end.

    Raises:
        ValueError: a number outside the clip.
    """
    bad = [i for i in index if not -frames <= i < frames]
    if bad:
        raise ValueError(f"frame {bad[0]} is outside a clip of {frames} frames")
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(index)] = True
    return mask.view(1, 1, -1, 1, 1)


def box(height: int, width: int, *, top: int, left: int, bottom: int, right: int) -> Tensor:
    """A box known in every frame, `(1, 1, 1, h, w)`, rows top..bottom and columns left..right, ends excluded.

    To outpaint use it as it is; to inpaint the box use its complement `~box(...)`.

    Raises:
        ValueError: a box that is empty or leaves the frame.
    """
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(f"box rows {top}..{bottom}, columns {left}..{right} must lie within {height} x {width}")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask.view(1, 1, 1, height, width)


def _counts(frames: int, count: int | Tensor) -> Tensor:
    if isinstance(count, int) and not 0 <= count <= frames:
        raise ValueError(f"cannot know {count} frames of a clip of {frames}")
    return torch.as_tensor(count).reshape(-1, 1, 1, 1, 1)
