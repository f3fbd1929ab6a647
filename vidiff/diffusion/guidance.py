"""Guidance makes a denoiser from a denoiser, so that it works with every sampler and every task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.known import check_mask
from vidiff.diffusion.process import draw_noise, expand_time, transition
from vidiff.diffusion.schedule import Schedule

CONVENTIONS = {"cfg": 0.0, "ho": 1.0}  # what to add to the number given, so that 1 is the plain model


@dataclass(frozen=True)
class Projected:
    """How `ClassifierFree` changes `difference = conditional - null`, against oversaturation (Sadat et al. 2025,
    adaptive projected guidance, algorithm 1).

    First it is given momentum, then shortened to the radius, then its part parallel to the conditional estimate,
    which mostly raises contrast, is weighted by `eta`: `x0 = conditional + (scale - 1) * difference`. Lengths and
    angles are those of a sample, `(c, f, h, w)` as one vector.

    Args:
        eta: weight of the parallel part; 1 keeps it, 0 leaves it out.
        radius: the largest length of the difference; None is no limit.
        momentum: weight of the differences before it, negative to push away from them; 0 is none. A run begins with
            the first call, and again where no voxel's clock is below that call's; make a new `ClassifierFree` for
            a run that begins later than the one before.

    Raises:
        ValueError: a radius that is not positive, or a momentum outside (-1, 0].
    """

    eta: float = 0.0
    radius: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0.0:
            raise ValueError(f"radius = {self.radius} must be positive, or None for no limit")
        if not -1.0 < self.momentum <= 0.0:
            raise ValueError(f"momentum = {self.momentum} must be above -1 and at most 0, which is none")

    def __call__(self, difference: Tensor, plain: Tensor, free: Tensor) -> Tensor:
        """The difference, shortened and projected, `(b, c, f, h, w)`.

        Args:
            difference: `(b, c, f, h, w)`, with its momentum.
            plain: the conditional estimate, `(b, c, f, h, w)`.
            free: bool, broadcastable to `(b, 1, f, h, w)`: the voxels that count towards lengths and angles.
        """
        if self.radius is not None:
            length = _dot(difference, difference, free).clamp(min=self.radius**2).sqrt()  # b 1 1 1 1
            difference = difference * (self.radius / length)
        tiny = torch.finfo(plain.dtype).tiny
        along = _dot(difference, plain, free) / _dot(plain, plain, free).clamp(min=tiny)  # b 1 1 1 1
        return difference + (self.eta - 1.0) * along * plain


def rescaled(guided: Tensor, plain: Tensor, phi: float, free: Tensor) -> Tensor:
    """`guided`, brought by the share `phi` to the standard deviation of `plain`, each sample on its own (Lin et al.
    2024, common diffusion noise schedules, eqs. 15 and 16).

    Args:
        guided: `(b, c, f, h, w)`.
        plain: the conditional estimate, `(b, c, f, h, w)`.
        phi: 0 leaves `guided` as it is, 1 gives it the standard deviation of `plain`.
        free: bool, broadcastable to `(b, 1, f, h, w)`: the voxels that are measured and changed.
    """
    spread = _std(guided, free)  # b 1 1 1 1
    ratio = torch.where(spread > 0.0, _std(plain, free) / spread, 1.0)
    return guided * torch.where(free, phi * ratio + (1.0 - phi), 1.0)


def forget(
    schedule: Schedule, x_t: Tensor, clock: Tensor, hidden: Tensor, noise: Tensor, level: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Noise the voxels of `hidden` up to `level`, where their clock is below it; at 1 nothing of them is left.

    Args:
        x_t: `(b, c, f, h, w)`.
        clock: broadcastable to `(b, 1, f, h, w)`.
        hidden: bool, broadcastable to `(b, 1, f, h, w)`.
        noise: `(b, c, f, h, w)`, standard normal.
        level: a diffusion time in [0, 1].

    Returns:
        `x_t` and the clock, changed where hidden.
    """
    if level == 1.0:
        _, sigma = schedule(clock.new_ones(()))
        return torch.where(hidden, (sigma * noise).to(x_t.dtype), x_t), torch.where(hidden, 1.0, clock)
    later = clock.clamp(min=level)
    scale, variance = transition(schedule, later, clock)
    noised = (scale * x_t + variance.sqrt() * noise).to(x_t.dtype)
    return torch.where(hidden, noised, x_t), torch.where(hidden, later, clock)


class ClassifierFree(nn.Module):
    """Classifier-free guidance: `x0 = null + scale * (conditional - null)` (Ho & Salimans 2022, eq. 6).

    Since `eps` is affine in `x0` this is the same as guiding `eps`. Both branches are one call of the
    network, and where the scale is neutral the plain denoiser is called, once, so its estimate comes back bit
    for bit.

    Args:
        scale: 1 is the plain model under "cfg"; under "ho", the paper's own `w`, 0 is.
        convention: "cfg" or "ho".
        interval: times `(low, high)` in which to guide; outside, the model is plain (Kynkäänniemi et al.
            2024).
        history: mask as `Known` has it, of the known voxels that the null branch forgets as well: their clock
            goes to `history_level` and their content to noise, which is drawn with `generator` (Song et al. 2025,
            history guidance). Put it inside: `Known(ClassifierFree(denoiser, scale, history=mask), frames, mask)`.
        history_level: the diffusion time at which the null branch sees history; below 1 it sees it noised (the same
            paper's fractional history guidance).
        rescale: share by which the standard deviation of the guided estimate is brought to the conditional one's,
            as in `rescaled`; 0 is none.
        apg: what to do to the difference of the branches; None is nothing.

    `rescale` and `apg` measure the voxels that are guided and not known: a clock above 0, within the interval, and
    outside `history`.

    Raises:
        ValueError: an unknown convention, an interval that is not within [0, 1], a history level or a share outside
            [0, 1].
    """

    history: Tensor | None

    def __init__(
        self,
        denoiser: Denoises,
        scale: float,
        convention: str = "cfg",
        *,
        interval: tuple[float, float] | None = None,
        history: Tensor | None = None,
        generator: torch.Generator | None = None,
        history_level: float = 1.0,
        rescale: float = 0.0,
        apg: Projected | None = None,
    ) -> None:
        super().__init__()
        check_interval(interval)
        check_level(history_level)
        check_rescale(rescale)
        self.denoiser = denoiser
        self.scale = scale + choose("guidance convention", convention, CONVENTIONS)
        self.interval = interval
        self.generator = generator
        self.history_level = history_level
        self.rescale = rescale
        self.apg = apg
        self.noise: Tensor | None = None
        self._begun: Tensor | None = None  # the clock at which the run began
        self._running: Tensor | None = None  # the difference and its momentum
        self.register_buffer("history", history, persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        t = expand_time(t, x_t)
        scale: float | Tensor = self.scale
        free = t > 0.0
        if self.interval is not None:
            inside = within(t, self.interval)
            scale = torch.where(inside, t.new_tensor(scale), 1.0) if inside.any() else 1.0
            free = free & inside
        if self.scale == 1.0 or (not isinstance(scale, Tensor) and scale == 1.0):
            return self.denoiser(x_t, t, condition)
        clock = t.expand(x_t.shape[0], *t.shape[1:])
        null_x, null_clock = x_t, clock
        if self.history is not None:
            check_mask(self.history, x_t)
            self.noise = same_noise(self.noise, x_t, self.generator)
            null_x, null_clock = forget(self.schedule, x_t, clock, self.history, self.noise, self.history_level)
            free = free & ~self.history
        both = self.denoiser(
            torch.cat([x_t, null_x]),
            torch.cat([clock.expand_as(null_clock), null_clock]),
            condition.cat(condition.null()),
        )
        plain, null = both.x0.chunk(2)
        difference = plain - null
        x0 = null + scale * difference
        if self.apg is not None:
            change = self.apg(self._with_momentum(difference, clock, self.apg.momentum), plain, free) - difference
            x0 = x0 + (scale - 1.0) * change
        if self.rescale:
            x0 = rescaled(x0, plain, self.rescale, free)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return Estimate(x0, variance)

    def _with_momentum(self, difference: Tensor, clock: Tensor, momentum: float) -> Tensor:
        if not momentum:
            return difference
        before, begun = self._running, self._begun
        if before is None or begun is None or before.shape != difference.shape or bool((clock >= begun).all()):
            self._begun = clock
        else:
            difference = difference + momentum * before
        self._running = difference.detach()
        return difference


def same_noise(noise: Tensor | None, x_t: Tensor, generator: torch.Generator | None) -> Tensor:
    """Drawn once: the same noise at every step keeps the path smooth."""
    return draw_noise(x_t, generator) if noise is None or noise.shape != x_t.shape else noise


def within(t: Tensor, interval: tuple[float, float]) -> Tensor:
    """Bool, of the shape of `t`: the clocks in an interval, its ends included."""
    return (t >= interval[0]) & (t <= interval[1])


def check_interval(interval: tuple[float, float] | None) -> None:
    """Raises ValueError for an `interval` that is not within [0, 1], or does not rise."""
    if interval is not None and not 0.0 <= interval[0] <= interval[1] <= 1.0:
        raise ValueError(f"interval = {interval} must satisfy 0 <= low <= high <= 1, in diffusion time")


def check_rescale(rescale: float) -> None:
    """Raises ValueError for a share `rescale` outside [0, 1]."""
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"rescale = {rescale} is outside [0, 1]; 0 is none, 1 the conditional standard deviation")


def check_level(level: float) -> None:
    """Raises ValueError for a `history_level` outside [0, 1]."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"history_level = {level} is outside [0, 1]; 1 forgets history, below 1 it is noised")


def _dot(a: Tensor, b: Tensor, free: Tensor) -> Tensor:
    return torch.where(free, a * b, 0.0).sum(tuple(range(1, a.ndim)), keepdim=True)  # b 1 1 1 1


def _std(x: Tensor, free: Tensor) -> Tensor:
    count = free.expand_as(x).sum(tuple(range(1, x.ndim)), keepdim=True).clamp(min=1)  # b 1 1 1 1
    off = x - _dot(x, torch.ones_like(x), free) / count
    return (_dot(off, off, free) / count).sqrt()
