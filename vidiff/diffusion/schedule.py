"""Noise schedules: `t -> (alpha, sigma)`, where `x_t = alpha * x0 + sigma * eps`.

`t` lies in [0, 1]: 0 is data, 1 is noise. A schedule is wholly given by its log-SNR, `log(alpha^2 /
sigma^2)`, and by how that splits into alpha and sigma (variance preserving, exploding, or summing to one), so
shifting a schedule, or walking it uniformly in log-SNR, is the same code for each.

Log-SNR is clamped to [-20, 20], so that every quotient of alpha and sigma is finite. `t = 0`, where known
content stands, therefore means `sigma = exp(-10) = 4.5e-5` (for VE: `sigma_min`), and `t = 1` means `alpha >=
4.5e-5`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition

MAX_LOG_SNR = 20.0


def check_time(t: Tensor) -> None:
    """Refuse a time outside [0, 1]. On a GPU the look would stall every step, so there only entry points take
    it.

    Raises:
        ValueError: a `t` outside [0, 1].
    """
    if t.device.type == "cpu" and not torch.compiler.is_compiling() and t.numel():
        low, high = (float(bound) for bound in torch.aminmax(t.detach()))
        if not (low >= 0.0 and high <= 1.0):
            bad = high if low >= 0.0 else low
            raise ValueError(f"diffusion time t = {bad:g} is outside [0, 1]; 0 is data and 1 is noise")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A variance-preserving schedule (`alpha^2 + sigma^2 = 1`) unless a subclass says otherwise.

    Subclasses give `_log_snr` and its inverse `_time_of`, both unshifted and free to reach infinity.

    Args:
        shift: `log_snr` falls by `2 log(shift)` everywhere: above 1 is more noise, for larger frames or
            longer clips (Hoogeboom et al. 2023, simple diffusion, eq. 4; for flow it is Esser et al. 2024,
            eq. 23).

    Raises:
        ValueError: a shift that is not positive.
    """

    shift: float = 1.0
    preserves: ClassVar[bool] = True  # variance

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift = {self.shift} must be positive; 1 leaves the schedule as it is")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`t` of any shape in [0, 1] -> `(alpha, sigma)` of that shape. Raises ValueError outside (CPU)."""
        return self.scales(self.log_snr(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """`log(alpha^2 / sigma^2)` at `t`, of its shape, within [-20, 20], falling in `t`."""
        check_time(t)
        return (self._log_snr(t) - self._offset).clamp(-MAX_LOG_SNR, MAX_LOG_SNR)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`; what lies beyond the schedule's ends maps to 0 or 1."""
        return self._time_of(log_snr + self._offset).clamp(0.0, 1.0)

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """`(alpha, sigma)` at a given log-SNR, whatever its time."""
        return (0.5 * logsigmoid(log_snr)).exp(), (0.5 * logsigmoid(-log_snr)).exp()

    def clock(self, t: Tensor, condition: Condition) -> Tensor:
        """The times of each sample, where the draw or the loss of them all is at `t`.

        Args:
            t: broadcastable to `(b, 1, f, h, w)`.

        Returns:
            `t` itself, unless the schedule depends on the sample; then with the first length b.
        """
        return t

    @property
    def _offset(self) -> float:
        return 2.0 * math.log(self.shift)

    def _log_snr(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _time_of(self, log_snr: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """The schedule of betas that rise linearly over `steps` discrete steps (Ho et al. 2020, section 4).

    The table is exact: `alpha^2` at `t = i / steps` is the product of the first `i` of `1 - beta`, for `i` in
    1..steps (so index `i - 1` of the usual zero-based table). Between its points log-SNR is linear in `t`; at
    `t = 0`, where the product is empty and the log-SNR infinite, it is 20.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"betas {self.beta_start} to {self.beta_end} must satisfy 0 < start <= end < 1")
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps} must be at least 1")

    def _knots(self, like: Tensor) -> Tensor:
        first = MAX_LOG_SNR + self._offset
        return _linear_log_snr(self.beta_start, self.beta_end, self.steps, first, like.device, like.dtype)

    def _log_snr(self, t: Tensor) -> Tensor:
        knots = self._knots(t)
        position = t * self.steps
        index = position.detach().floor().long().clamp(0, self.steps - 1)
        return torch.lerp(knots[index], knots[index + 1], position - index)

    def _time_of(self, log_snr: Tensor) -> Tensor:
        knots = self._knots(log_snr)
        index = (torch.searchsorted(-knots, -log_snr.contiguous()) - 1).clamp(0, self.steps - 1)
        return (index + (log_snr - knots[index]) / (knots[index + 1] - knots[index])) / self.steps


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept may be used in training later
def _linear_log_snr(
    beta_start: float, beta_end: float, steps: int, first: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """`first`, then the log-SNR after each discrete step, `(steps + 1,)`; kept, since every step asks."""
    log_abar = torch.log1p(-torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)).cumsum(0)
    log_snr = log_abar - torch.log(-torch.expm1(log_abar))
    return torch.cat([log_snr.new_full((1,), first), log_snr]).to(device, dtype)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """The cosine: `alpha^2 = cos^2(u) / cos^2(u0)`, `u = (t + s) / (1 + s) * pi / 2` (Nichol & Dhariwal 2021, eq. 17).

    Its discrete table stands at `t = i / T`; where that paper clips the last beta to 0.999, here log-SNR is clamped to
    -20: the last `alpha^2` is the same to 1e-9, its log-SNR 0.164 lower.
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.s >= 0:
            raise ValueError(f"s = {self.s} must not be negative; the usual value is 0.008")

    def _log_snr(self, t: Tensor) -> Tensor:
        # log of cos^2 u / (cos^2 u0 - cos^2 u), by sines of small angles: cosines' difference loses digits
        right = 0.5 * math.pi / (1.0 + self.s)
        rise = torch.log(torch.sin(t * right)) + torch.log(torch.sin((t + 2.0 * self.s) * right))
        return 2.0 * torch.log(torch.sin((1.0 - t) * right)) - rise

    def _time_of(self, log_snr: Tensor) -> Tensor:
        right = 0.5 * math.pi / (1.0 + self.s)
        sin0, cos0 = math.sin(self.s * right), math.cos(self.s * right)
        cosine = cos0 * torch.sigmoid(log_snr).sqrt()
        sine = (sin0**2 + cos0**2 * torch.sigmoid(-log_snr)).sqrt()
        return torch.atan2(sine, cosine) / right - self.s


@dataclass(frozen=True, kw_only=True)
class VE(Schedule):
    """The schedule of exploding variance: `alpha = 1`, sigma geometric from `sigma_min` to `sigma_max` (Song et al.
    2021, appendix C)."""

    preserves: ClassVar[bool] = False
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigmas {self.sigma_min} to {self.sigma_max} must satisfy 0 < sigma_min < sigma_max")

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(log_snr), (-0.5 * log_snr).exp()

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * (math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min))

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """The straight path `alpha = 1 - t`, `sigma = t` (Liu et al. 2022, eq. 1; Lipman et al. 2022)."""

    preserves: ClassVar[bool] = False

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(0.5 * log_snr), torch.sigmoid(-0.5 * log_snr)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (torch.log1p(-t) - torch.log(t))

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


class Trained(nn.Module, Schedule):
    """A schedule with weights, to be trained with the model on the variational bound (Kingma et al. 2021, appendix H),
    between ends that stay. `vidiff.objective.bound.BoundObjective` trains it; the simple loss would only make it easy.

    Args:
        ends: log-SNR at `t = 0` and at `t = 1`, before the shift.

    Raises:
        ValueError: ends that do not fall, or a shift that is not positive.
    """

    def __init__(self, ends: tuple[float, float], shift: float) -> None:
        super().__init__()
        if not ends[0] > ends[1]:
            raise ValueError(f"ends = {ends} must fall: log-SNR at t = 0, then at t = 1")
        object.__setattr__(self, "shift", shift)  # of a frozen dataclass
        Schedule.__post_init__(self)
        self.ends = tuple(ends)

    __hash__ = object.__hash__  # two networks are equal only where they are one
    __eq__ = object.__eq__

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return Schedule.__call__(self, t)


class Learned(Trained):
    """A monotone network for log-SNR: a line plus rising sigmoids, whose weights are positive by construction, scaled
    so that its ends stay. It begins as nearly a line.

    Args:
        ends, shift: as for `Trained`.
        width: number of sigmoids.

    Raises:
        ValueError: as `Trained`, or no sigmoids.
    """

    def __init__(self, *, ends: tuple[float, float] = (14.0, -12.0), width: int = 32, shift: float = 1.0) -> None:
        super().__init__(ends, shift)
        if width < 1:
            raise ValueError(f"width = {width} must be at least 1")
        self.slope = nn.Parameter(torch.tensor(0.5))
        self.height = nn.Parameter(torch.full((width,), -5.0))
        self.steepness = nn.Parameter(torch.full((width,), 8.0))
        self.centre = nn.Parameter(torch.linspace(0.0, 1.0, width))

    def _rise(self, t: Tensor) -> Tensor:
        weights = (self.slope, self.height, self.steepness, self.centre)
        slope, height, steepness, centre = (weight.to(t.device, t.dtype) for weight in weights)
        bend = torch.sigmoid(softplus(steepness) * (t[..., None] - centre))  # ..., width
        return softplus(slope) * t + (softplus(height) * bend).sum(-1)

    def _log_snr(self, t: Tensor) -> Tensor:
        low, high = self._rise(torch.tensor([0.0, 1.0], device=t.device, dtype=t.dtype))
        start, end = self.ends
        return start + (end - start) * (self._rise(t) - low) / (high - low)

    @torch.no_grad()
    def _time_of(self, log_snr: Tensor) -> Tensor:
        wanted = log_snr.double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(50):  # bisection
            middle = 0.5 * (low + high)
            early = self._log_snr(middle) > wanted
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (0.5 * (low + high)).to(log_snr.dtype)


class Adaptive(Trained):
    """A schedule that depends on the sample: `beta(t, x) = softplus(MLP(t, x))` is the rate at which its log-SNR falls,
    as much faster for one sample than for another.

    Between the common ends log-SNR is a line in `t`, and each sample has a clock of its own on it, which runs as fast
    as its beta: at `t` it has gone its share of beta's whole integral. What is seen of `x` has to be at hand when
    sampling as well, so it is the condition's low-resolution clip: its mean and standard deviation, and the root mean
    square of its change from frame to frame.

    Args:
        ends, shift: as for `Trained`.
        width: of the MLP.
        steps: in which the integral is taken.

    Raises:
        ValueError: as `Trained`, a width below 1 or fewer than 2 steps.
    """

    def __init__(
        self, *, ends: tuple[float, float] = (14.0, -12.0), width: int = 32, steps: int = 64, shift: float = 1.0
    ) -> None:
        super().__init__(ends, shift)
        if width < 1 or steps < 2:
            raise ValueError(f"width = {width} must be at least 1, and steps = {steps} at least 2")
        self.steps, self.keeps_float32 = steps, True  # what it sees of clips is summed in the type of its weights
        self.layers = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, 1))

    def beta(self, t: Tensor, x: Tensor) -> Tensor:
        """`t` `(k,)` and `x` `(b, c, f, h, w)` -> `(b, k)`, positive."""
        x = x.to(next(self.layers.parameters()).dtype)
        moved = x.diff(dim=2).square().flatten(1).sum(1) / max(x[:, :, 1:].flatten(1).shape[1], 1)
        seen = torch.stack([x.flatten(1).mean(1), x.flatten(1).std(1, unbiased=False), moved.sqrt()], 1)  # b 3
        both = torch.cat(
            [t.to(x).view(1, -1, 1).expand(len(x), -1, 1), seen[:, None].expand(-1, len(t), -1)], 2
        )  # b k 4
        return softplus(self.layers(both)).squeeze(2)

    def clock(self, t: Tensor, condition: Condition) -> Tensor:
        x = condition.lowres
        if x is None:
            return t
        middle = (torch.arange(self.steps, device=t.device, dtype=t.dtype) + 0.5) / self.steps
        # a running sum, which as cumsum has no deterministic kernel on GPUs
        before = torch.ones(self.steps, self.steps, device=t.device, dtype=t.dtype).tril()
        gone = (self.beta(middle, x).to(t.dtype)[:, None] * before).sum(2)  # b k
        share = torch.nn.functional.pad(gone / gone[:, -1:], (1, 0))  # b k+1, from 0 to 1
        position = (t * self.steps).expand(len(x), *t.shape[1:])
        index = position.detach().floor().long().clamp(0, self.steps - 1)
        at, after = (share.gather(1, (index + step).flatten(1)).view_as(index) for step in (0, 1))
        return torch.lerp(at, after, position - index).clamp(0.0, 1.0)

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.ends[0] + (self.ends[1] - self.ends[0]) * t

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return (log_snr - self.ends[0]) / (self.ends[1] - self.ends[0])


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "ve": VE,
    "flow": Flow,
    "learned": Learned,
    "adaptive": Adaptive,
}


def build_schedule(name: str, **options: Any) -> Schedule:
    """The schedule called `name`. Raises ValueError with the choices for an unknown name."""
    return choose("schedule", name, SCHEDULES)(**options)
