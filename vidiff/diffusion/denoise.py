"""From network to estimate: every prediction is two numbers, `target = a * x0 + b * eps`.

So a network trained towards any of them is read back by one line, and samplers, guidance and losses see only
`x0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.process import expand_time, rates
from vidiff.diffusion.schedule import Schedule

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _norm(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2 + sigma**2).sqrt()  # the standard deviation of x_t, for data of unit variance


PREDICTIONS: dict[str, Coefficients] = {  # (alpha, sigma) -> (a, b)
    "x0": lambda alpha, sigma: (torch.ones_like(alpha), torch.zeros_like(alpha)),
    "eps": lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha)),  # Ho et al. 2020, eq. 14
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans & Ho 2022, section 4
    "flow": lambda alpha, sigma: (-torch.ones_like(alpha), torch.ones_like(alpha)),  # Liu et al. 2022, eq. 1
    # Karras et al. 2022, eq. 7 with sigma_data = 1: (1 - c_skip alpha) / c_out and -c_skip sigma / c_out,
    # simplified
    "edm": lambda alpha, sigma: (sigma / _norm(alpha, sigma), -alpha / _norm(alpha, sigma)),
    "score": lambda alpha, sigma: (torch.zeros_like(alpha), -1.0 / sigma),  # Song et al. 2021, eq. 7
}


def target(prediction: str, schedule: Schedule, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
    """What the network is trained towards, `a * x0 + b * eps`. Raises ValueError for an unknown name."""
    a, b = choose("prediction", prediction, PREDICTIONS)(*schedule(expand_time(t, x0)))
    return a * x0 + b * eps


def x0_from(prediction: str, schedule: Schedule, output: Tensor, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Solve `output = a * x0 + b * eps` and `x_t = alpha * x0 + sigma * eps` for `x0`."""
    alpha, sigma = schedule(expand_time(t, x_t))
    a, b = choose("prediction", prediction, PREDICTIONS)(alpha, sigma)
    return (b * x_t - sigma * output) / (alpha * b - sigma * a)


def prediction_scale(prediction: str, schedule: Schedule, t: Tensor) -> Tensor:
    """How many times as large an error of the network's output is in `x0`, of the shape of `t`."""
    alpha, sigma = schedule(t)
    a, b = choose("prediction", prediction, PREDICTIONS)(alpha, sigma)
    return -sigma / (alpha * b - sigma * a)


def eps_from(schedule: Schedule, x0: Tensor, x_t: Tensor, t: float | Tensor) -> Tensor:
    """The noise that `x_t` holds if its data is `x0`."""
    alpha, sigma = schedule(expand_time(t, x_t))
    return (x_t - alpha * x0) / sigma


def score_from(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`grad log p(x_t)` by the posterior mean of the data: `-eps / sigma` (Song et al. 2021, section 3.3)."""
    _, sigma = schedule(expand_time(t, x))
    return -eps_from(schedule, x0, x, t) / sigma


def reverse_drift(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`f x - g^2 score`: drift of the reverse SDE, whose noise is `g dw` (Song et al. 2021, equation 6)."""
    f, g2 = rates(schedule, expand_time(t, x))
    return f * x - g2 * score_from(schedule, x0, x, t)


def flow_drift(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`f x - g^2 score / 2`: the probability-flow ODE, which has no noise (Song et al. 2021, equation 13)."""
    f, g2 = rates(schedule, expand_time(t, x))
    return f * x - 0.5 * g2 * score_from(schedule, x0, x, t)


def check_prediction(prediction: str, schedule: Schedule) -> None:
    """Refuse a prediction that cannot be read back somewhere on the schedule.

    Raises:
        ValueError: an unknown prediction, or one that is singular on the schedule; the message says where,
            and which are not.
    """
    choose("prediction", prediction, PREDICTIONS)
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    with torch.no_grad():
        alpha, sigma = schedule(t)

    def singular(name: str) -> Tensor:
        a, b = PREDICTIONS[name](alpha, sigma)
        whole = alpha * b - sigma * a
        return ~(torch.isfinite(a) & torch.isfinite(b) & torch.isfinite(b / whole) & torch.isfinite(sigma / whole))

    bad = singular(prediction)
    if bad.any():
        regular = [name for name in PREDICTIONS if not singular(name).any()]
        raise ValueError(
            f"prediction {prediction!r} is singular on {schedule} at t = {t[bad][0]:g}; "
            f"choose one of {', '.join(regular)}"
        )


@dataclass(frozen=True)
class Estimate:
    """A denoiser's estimate of the data.

    Args:
        x0: the posterior mean of the data, `(b, c, f, h, w)`.
        variance: where the network has that head, the reverse variance as a place on a logarithmic scale, on
            which the smallest (the posterior's) is at 0 and the largest (the transition's) at 1; it may lie beyond. It
            holds for any step (Nichol & Dhariwal 2021, eq. 15).
    """

    x0: Tensor
    variance: Tensor | None = None


class Output(NamedTuple):
    """What a network says, each `(b, c, f, h, w)`.

    Args:
        said: its prediction, which training compares with `target`.
        variance: its head of the reverse variance, as of `Estimate`.
        spread: the logarithm of the variance of `target` about `said`, where it tells that.
    """

    said: Tensor
    variance: Tensor | None = None
    spread: Tensor | None = None


class Denoises(Protocol):
    """The interface that samplers ask of a denoiser, and of every wrapper around one."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate: ...


class Denoiser(nn.Module):
    """A network, the schedule it sees and what it predicts, as `(x_t, t, condition) -> Estimate`.

    The network is called as `network(x, log_snr, condition)`: `x` is `x_t` scaled to unit variance (for data
    of unit variance), `log_snr` the clock of every voxel `(b, 1, f, h, w)`. It returns `(b, c, f, h, w)`; with
    `variance` c channels more, and c more of a network that tells how far off it may be.

    Raises:
        ValueError: an unknown prediction, or one that is singular on the schedule.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: str = "v", variance: bool = False) -> None:
        super().__init__()
        check_prediction(prediction, schedule)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.variance = variance

    def output(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Output:
        """What the network says, as it says it."""
        t = expand_time(t, x_t)
        alpha, sigma = self.schedule(t)
        log_snr = self.schedule.log_snr(t).to(x_t.dtype)
        clock = log_snr.expand(x_t.shape[0], 1, *x_t.shape[2:])  # b 1 f h w
        output = self.network((x_t / _norm(alpha, sigma)).to(x_t.dtype), clock, condition)
        if output.shape[1] == x_t.shape[1]:
            return Output(output)  # as it is: a part of all would take a copy in the backward pass
        said, *heads = output.split(x_t.shape[1], dim=1)  # each b c f h w
        # not clamped, which would stop its gradient (Nichol & Dhariwal 2021)
        variance = 0.5 * (heads[0] + 1.0) if self.variance else None
        return Output(said, variance, heads[-1] if len(heads) > self.variance else None)

    def estimate(self, output: Output, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Read the estimate back from what `output` returned."""
        return Estimate(x0_from(self.prediction, self.schedule, output.said, x_t, t), output.variance)

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        return self.estimate(self.output(x_t, t, condition), x_t, t)
