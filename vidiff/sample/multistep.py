"""Solvers that use the estimates of earlier steps: higher order at one evaluation a step.

They step in `lambda`, half the log-SNR, where the probability-flow ODE is `d(x / sigma) = exp(lambda) x0 dlambda` (Lu
et al. 2022, DPM-Solver++, proposition 4.1), so that only `x0` has to be guessed between two times; or in the same
words `d(x / alpha) = -exp(-lambda) eps dlambda`, where only `eps` has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, eps_from
from vidiff.diffusion.process import draw_noise, send
from vidiff.sample.base import Sampler, State, slid


@dataclass(frozen=True)
class History:
    """The estimates at the times that each voxel's clock has left, newest first.

    Args:
        half: half the log-SNR of those times; NaN where a voxel has left fewer.
        x0: the estimates there, of the data or, by `DEIS`, of the noise.
    """

    half: tuple[Tensor, ...] = ()
    x0: tuple[Tensor, ...] = ()

    def push(self, moving: Tensor, half: Tensor, x0: Tensor, keep: int) -> History:
        """Add an estimate where the clock is `moving`, and keep the newest `keep`."""
        halves = (half, *self.half, torch.full_like(half, torch.nan))
        x0s = (x0, *self.x0, torch.zeros_like(x0))
        count, here = min(keep, len(self.half) + 1), send(moving, x0.device)
        return History(
            tuple(torch.where(moving, halves[i], halves[i + 1]) for i in range(count)),
            tuple(torch.where(here, x0s[i], x0s[i + 1]) for i in range(count)),
        )

    def slide(self, drop: int, add: int) -> History:
        """As `State.slide`, in a grid with a clock for each frame: the new ones have left no time yet."""
        return History(
            tuple(slid(half, drop, add, torch.nan) for half in self.half), tuple(slid(x0, drop, add) for x0 in self.x0)
        )


class DPMSolverPP2M(Sampler):
    """DPM-Solver++(2M), second order (Lu et al. 2022, algorithm 2), and its SDE form; the first step is first order.

    In a grid with a clock for each frame, a frame's first step is first order too.

    Args:
        eta: 0 is the ODE and adds no noise; 1 is the reverse SDE (Lu et al. 2022, equation 18), between them is a
            mixture. With `eta = 1` its first step is `DDIM(1)`.

    Raises:
        ValueError: an eta outside [0, 1].
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta = {eta} is outside [0, 1]; 0 is the ODE and 1 the reverse SDE")
        self.eta = eta

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        schedule = denoiser.schedule
        x0 = denoiser(x, t, condition).x0
        (_, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        here, there = (0.5 * schedule.log_snr(time) for time in (t, s))
        h = there - here
        slope = x0
        past: History = state.memory.get("past", History())
        if past.half:
            weight = torch.where(past.half[0].isnan(), 0.0, 0.5 * h / (here - past.half[0]))
            slope = x0 + weight * (x0 - past.x0[0])
        moved = sigma_s / sigma_t * torch.exp(-self.eta * h) * x - alpha_s * torch.expm1(-(1 + self.eta) * h) * slope
        if self.eta:
            moved = moved + sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt() * draw_noise(x, state.generator)
        return moved.to(x.dtype), replace(state, memory={"past": past.push(h > 0, here, x0, 1)})


class UniPC(Sampler):
    """UniPC with `B(h) = exp(-h) - 1` (Zhao et al. 2023, algorithms 1 and 2): a predictor of the given order, and a
    corrector that, once the next estimate is there, goes over the last step again with it.

    The first steps are of lower order, and so are the first steps of a frame whose clock is its own. The predictor's
    last are too: the last of first order, the one before of second.

    Args:
        order: 1, 2 or 3.
        corrector: whether to correct, at no further evaluation.
        lower: whether the last steps are of lower order.

    Raises:
        ValueError: another order.
    """

    def __init__(self, order: int = 3, corrector: bool = True, lower: bool = True) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order = {order} must be 1, 2 or 3")
        self.order, self.corrector, self.lower = order, corrector, lower

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        x0 = denoiser(x, t, condition).x0
        here, there = _half(denoiser, t), _half(denoiser, s)
        past: History = state.memory.get("past", History())
        moving = there > here
        if past.half and self.corrector:
            seen = History((here, *past.half[1:]), (x0, *past.x0[1:]))
            again = _data_step(denoiser, state.memory["x"], past.half[0], past.x0[0], here, seen, self.order)
            x = torch.where(send(moving & ~past.half[0].isnan(), x.device), again, x)
        left = state.left if self.lower else None
        moved = _data_step(denoiser, x, here, x0, there, past, self.order - 1, left)
        standing = send(~moving, x.device)
        departed = torch.where(standing, state.memory.get("x", x), x)
        memory = {"past": past.push(moving, here, x0, self.order), "x": departed}
        return torch.where(standing, x, moved), replace(state, memory=memory)


class DEIS(Sampler):
    """DEIS (Zhang & Chen 2022, equation 14), with the noise as a polynomial in lambda through the last estimates.

    The first steps are of lower order, and so are the last, as of `UniPC`.

    Args:
        order: 1, which is DDIM, to 4.
        lower: whether the last steps are of lower order.

    Raises:
        ValueError: another order.
    """

    def __init__(self, order: int = 3, lower: bool = True) -> None:
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order = {order} must be 1, 2, 3 or 4")
        self.order, self.lower = order, lower

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        schedule = denoiser.schedule
        eps = eps_from(schedule, denoiser(x, t, condition).x0, x, t)
        here, there = _half(denoiser, t), _half(denoiser, s)
        moving = there > here
        past: History = state.memory.get("past", History())
        h = (there - here).masked_fill(~moving, 1.0)  # any: what stands still is put back below
        ratios = _ratios(past, here, h, self.order - 1, state.left if self.lower else None)
        moments = [-torch.expm1(-h)]  # of exp(-u) (u / h)^power over the step
        for power in range(1, len(ratios) + 1):
            moments.append(power / h * moments[-1] - torch.exp(-h))

        def solve(some: list[Tensor]) -> list[Tensor]:
            powers = range(1, len(some) + 1)
            rows = torch.stack([torch.stack([ratio**power for ratio in some], -1) for power in powers], -2)
            return list(torch.linalg.solve(rows, torch.stack(moments[1 : len(some) + 1], -1)).unbind(-1))

        weights = _by_count(ratios, solve)
        weights = [moments[0] - sum(weights, torch.zeros_like(h)), *weights]
        (alpha_t, sigma_t), (alpha_s, _) = schedule.scales(2 * here), schedule.scales(2 * there)
        parts = zip(weights, (eps, *past.x0), strict=False)
        moved = _sum(x, [(alpha_s / alpha_t, x), *((-alpha_s * sigma_t / alpha_t * weight, e) for weight, e in parts)])
        moved = torch.where(send(moving, x.device), moved, x)
        return moved, replace(state, memory={"past": past.push(moving, here, eps, self.order - 1)})


def _half(denoiser: Denoises, time: Tensor) -> Tensor:
    """Half the log-SNR of a clock, in double precision and on the CPU: weights lose digits, and are few."""
    return 0.5 * denoiser.schedule.log_snr(time.to("cpu", torch.float64))


def _ratios(past: History, here: Tensor, h: Tensor, most: int, left: Tensor | None) -> list[Tensor]:
    """Where the first `most` nodes stand, in steps `h` from `here`; NaN where a voxel has none, or where with `left`
    steps to come it is to use fewer."""
    ratios = [(half - here) / h for half in past.half[:most]]
    if left is not None:
        ratios = [ratio.where(left > number, torch.nan) for number, ratio in enumerate(ratios)]
    return ratios


def _sum(x: Tensor, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """A sum of tensors like `x`, each with a weight on the CPU; of the type and on the device of `x`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.stack([send(weight.to(dtype), x.device) * part for weight, part in parts]).sum(0).to(x.dtype)


def _data_step(
    denoiser: Denoises,
    x: Tensor,
    half: Tensor,
    x0: Tensor,
    there: Tensor,
    past: History,
    most: int,
    left: Tensor | None = None,
) -> Tensor:
    """`x` at `there`, from `half`, with `x0` as the polynomial in lambda through `half` and the nodes of a voxel."""
    schedule = denoiser.schedule
    (_, sigma_t), (alpha_s, sigma_s) = schedule.scales(2 * half), schedule.scales(2 * there)
    h = (there - half).masked_fill(~(there > half), 1.0)  # any: what stands still is put back by the caller
    ratios = _ratios(past, half, h, most, left)
    first, weights = torch.expm1(-h), []
    for number, weight in enumerate(_by_count(ratios, partial(_weights, h))):
        weights.append(-alpha_s * weight / ratios[number].nan_to_num(1.0))
    rest = -alpha_s * first - sum(weights, torch.zeros_like(h))
    return _sum(x, [(sigma_s / sigma_t, x), (rest, x0), *zip(weights, past.x0, strict=False)])


def _by_count(ratios: list[Tensor], solve: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """The weights of `solve` for the nodes that a voxel has, which are the first of `ratios`; 0 of the others."""
    known = [~ratio.isnan() for ratio in ratios]
    ratios = [ratio.nan_to_num(-1.0 - number) for number, ratio in enumerate(ratios)]
    weights = [torch.zeros_like(ratio) for ratio in ratios]
    for count in range(1, len(ratios) + 1):  # the last count of nodes that a voxel has
        solved = solve(ratios[:count])
        weights[:count] = [torch.where(known[count - 1], new, old) for new, old in zip(solved, weights, strict=False)]
    return weights


def _weights(h: Tensor, ratios: list[Tensor]) -> list[Tensor]:
    """Of each divided difference: `R w = b` (Zhao et al. 2023, equation 5), for one node the half of `B(h)`."""
    if len(ratios) == 1:
        return [0.5 * torch.expm1(-h)]  # Zhao et al. 2023, appendix F
    phi, rows, right = torch.expm1(-h), [], []
    for power in range(len(ratios)):
        phi = phi / -h - 1.0 / math.factorial(power + 1)
        rows.append(torch.stack([ratio**power for ratio in ratios], -1))
        right.append(phi * math.factorial(power + 1))
    return list(torch.linalg.solve(torch.stack(rows, -2), torch.stack(right, -1)).unbind(-1))
