"""Grids: the times at which a sampler asks the denoiser, a choice of its own beside schedule and sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vidiff.diffusion.choice import choose
from vidiff.diffusion.schedule import Schedule

ENDS = (-12.0, 10.0)
RHO = 7.0
CENTRE, WIDTHS = -0.3, (2.0, 2.4)  # of the bell of "logistic", below and above; of tools/compare_samplers.py
LEAST, MOST = -14.0, 6.0  # between which half of the data is looked for
HIDDEN = -6.0  # log-SNR from which on pure noise stands for a clip
DISCRETE = 1000  # steps of a schedule that is not a table itself


@dataclass(kw_only=True)
class Grid:
    """How the times of a draw are spaced.

    Each option is a key of a config, and of the keyword `grid` of a call.

    Args:
        kind: "logistic", log-SNR at even quantiles of a bell, so that most times lie where content is decided; even in
            "log_snr"; "uniform" or "quadratic" in t; "karras", where a power of the noise-to-signal ratio is
            even; or of the schedule's discrete steps `t = (i + 1) / T` (T is the table's length, or 1000) those that
            diffusers calls "linspace", "leading" and "trailing".
        ends: log-SNR of the first and of the last time, as far as the schedule reaches. By default -12 and 10; of
            "logistic" they depend on the number of times: -6.3 and 3.2 for 5, -9.1 and 6.8 for 20. Finite, since the
            step to sigma = 0 is infinite in log-SNR. Discrete steps have their own.
        rho: of "karras", by default 7: the larger, the more of the times lie where there is little noise.
        half: of "logistic", the log-SNR at which the model knows half of what its data vary in, as
            `vidiff.diffusion.half.half_known` measures it, which the bell's centre and widths follow. A trained run
            knows its own. Without, the bell is a compromise between data of 1 to 64 dimensions.

    Raises:
        ValueError: an unknown kind, ends that do not rise or a rho that is not positive, or options that the kind has
            no use for.
    """

    kind: str = "logistic"
    ends: list[float] | None = None
    rho: float | None = None
    half: float | None = None

    def __post_init__(self) -> None:
        choose("grid kind", self.kind, KINDS)
        if self.ends is not None:
            if self.kind in SUBSEQUENCES:
                raise ValueError(f"ends is {list(self.ends)}, but a grid of kind {self.kind} has its own: leave it out")
            if len(self.ends) != 2 or not -math.inf < self.ends[0] < self.ends[1] < math.inf:
                raise ValueError(
                    f"ends is {list(self.ends)}; give log-SNR of the first time and a higher one of the last, such as "
                    "[-8, 6]"
                )
        if self.rho is not None:
            if self.kind != "karras":
                raise ValueError(f"rho is {self.rho}, but a grid of kind {self.kind} has none: leave it out")
            if not 0.0 < self.rho < math.inf:
                raise ValueError(f"rho is {self.rho}; give a positive number, such as 7")
        if self.half is not None:
            if self.kind != "logistic":
                raise ValueError(f"half is {self.half}, but a grid of kind {self.kind} does not ask: leave it out")
            if not LEAST <= self.half <= MOST:
                raise ValueError(f"half is {self.half}; give a log-SNR from {LEAST:g} to {MOST:g}, such as -2")

    def measured(self, half: float | None) -> Grid:
        """The same, with what was measured of a model, where it is a bell and was told nothing else."""
        return self if self.kind != "logistic" or self.half is not None or self.ends else replace(self, half=half)

    def __call__(self, schedule: Schedule, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Falling times, `(count,)`.

        Raises:
            ValueError: a count below 1, more than the schedule's discrete steps for a subsequence of them, or ends
                between which the schedule leaves no time.
        """
        if count < 1:
            raise ValueError(f"steps is {count}; give 1 or more times at which the denoiser is asked")
        if self.kind in SUBSEQUENCES:
            total = discrete_steps(schedule)
            if count > total:
                raise ValueError(f"steps is {count}, but the schedule has {total} discrete steps: give no more")
            return ((SUBSEQUENCES[self.kind](total, count) + 1) / total).to(dtype)
        bell = Bell() if self.half is None else Bell.of(self.half, count)
        ends = torch.tensor(self.ends or (bell.ends(count) if self.kind == "logistic" else ENDS), dtype=torch.float64)
        first, last = schedule.time_of(ends)
        if not first > last:
            raise ValueError(f"ends is {ends.tolist()}, which leaves no time between them on {schedule}")
        u = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
        if self.kind == "karras":
            return _karras(schedule, first, last, u, self.rho or RHO).to(dtype)
        if self.kind == "logistic":
            return _logistic(schedule, first, last, u, bell).to(dtype)
        return SPACINGS[self.kind](schedule, first, last, u).to(dtype)


def _uniform(schedule: Schedule, first: Tensor, last: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(first, last, u)


def _quadratic(schedule: Schedule, first: Tensor, last: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(first.sqrt(), last.sqrt(), u) ** 2  # Song et al. 2020 (DDIM), appendix D.2


def _log_snr(schedule: Schedule, first: Tensor, last: Tensor, u: Tensor) -> Tensor:
    return schedule.time_of(torch.lerp(schedule.log_snr(first), schedule.log_snr(last), u))


def _karras(schedule: Schedule, first: Tensor, last: Tensor, u: Tensor, rho: float = RHO) -> Tensor:
    # Karras et al. 2022, eq. 5, on the noise-to-signal ratio sigma / alpha
    high, low = ((-0.5 * schedule.log_snr(t) / rho).exp() for t in (first, last))
    return schedule.time_of(-2.0 * rho * torch.log(torch.lerp(high, low, u)))


@dataclass(frozen=True)
class Bell:
    """A logistic density of log-SNR, as that has if noise / (signal + noise) is uniform, which it is on the straight
    path (Liu et al. 2022); with a width of its own below the centre and above it."""

    centre: float = CENTRE
    widths: tuple[float, float] = WIDTHS
    least: float | None = None  # its ends, where they are given
    most: float | None = None

    @classmethod
    def of(cls, half: float, count: int) -> Bell:
        """For a model that knows half at this log-SNR, and so many times; fitted on mixtures (docs/theory.md)."""
        more = math.log(count / 10)
        most = min(5.6 + 4.5 * more, ENDS[1])
        widths = max(2.45 + 0.34 * half, 0.5), 3.25
        return cls(2.7 + more + 1.7 * half, widths, HIDDEN - 1.0, max(most, HIDDEN + 1.0))

    def share(self, log_snr: Tensor) -> Tensor:
        off = log_snr - self.centre
        return torch.sigmoid(off / torch.where(off < 0, *self.widths))

    def log_snr(self, share: Tensor) -> Tensor:
        off = torch.logit(share)
        return self.centre + off * torch.where(off < 0, *self.widths)

    def ends(self, count: int) -> list[float]:
        """The outer of `count` even quantiles, the first a quarter of a step in; but begin in noise that hides all."""
        if self.least is not None and self.most is not None:
            return [self.least, self.most]
        share = torch.tensor([0.25, count - 0.75], dtype=torch.float64) / (count + 0.25)
        first, last = self.log_snr(share).tolist()
        return [min(first, HIDDEN), max(last, HIDDEN + 1.0)]


def _logistic(schedule: Schedule, first: Tensor, last: Tensor, u: Tensor, bell: Bell) -> Tensor:
    low, high = (bell.share(schedule.log_snr(t)) for t in (first, last))
    return schedule.time_of(bell.log_snr(torch.lerp(low, high, u)))


SPACINGS: dict[str, Callable[[Schedule, Tensor, Tensor, Tensor], Tensor]] = {
    "logistic": partial(_logistic, bell=Bell()),
    "log_snr": _log_snr,
    "uniform": _uniform,
    "quadratic": _quadratic,
    "karras": _karras,
}
SUBSEQUENCES: dict[str, Callable[[int, int], Tensor]] = {
    # (length of the table, count) -> zero-based discrete steps, falling, as diffusers' `timestep_spacing`
    "linspace": lambda total, count: torch.linspace(total - 1, 0, count, dtype=torch.float64).round(),
    "leading": lambda total, count: torch.arange(count - 1, -1, -1, dtype=torch.float64) * (total // count),
    "trailing": lambda total, count: (total - torch.arange(count, dtype=torch.float64) * total / count).round() - 1,
}
KINDS = {**SPACINGS, **SUBSEQUENCES}


def discrete_steps(schedule: Schedule) -> int:
    """The length of the schedule's table, or of the usual one."""
    return getattr(schedule, "steps", DISCRETE)


def discrete_times(schedule: Schedule, steps: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The times of zero-based discrete steps, `(n,)`.

    Raises:
        ValueError: steps that do not fall, or that the schedule does not have.
    """
    total, index = discrete_steps(schedule), torch.tensor(list(steps), dtype=torch.float64)
    if not len(index) or index.max() >= total or index.min() < 0 or (index.diff() >= 0).any():
        raise ValueError(f"discrete steps {list(steps)} must fall, one or more of them, within 0..{total - 1}")
    return ((index + 1) / total).to(dtype)


def time_grid(
    schedule: Schedule,
    steps: int,
    kind: str = "log_snr",
    *,
    ends: tuple[float, float] | None = None,
    rho: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Falling times `(steps + 1,)` for so many steps of a sampler, spaced as `Grid` has it.

    Raises:
        ValueError: no steps; as `Grid`.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    return Grid(kind=kind, ends=None if ends is None else list(ends), rho=rho)(schedule, steps + 1, dtype)
