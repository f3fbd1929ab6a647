"""Solvers that use the estimates of earlier steps: higher order at one evaluation a step.

They step in `lambda`, half the log-SNR, where the probability-flow ODE is `d(x / sigma) = exp(lambda) x0 dlambda` (Lu
et al. 2022, DPM-Solver++, proposition 4.1), so that only `x0` has to be guessed between two times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.process import draw_noise
from vidiff.sample.base import Sampler, State, slid


@dataclass(frozen=True)
class History:
    """The estimates at the times that each voxel's clock has left, newest first.

    Args:
        half: half the log-SNR of those times; NaN where a voxel has left fewer.
        x0: the estimates there.
    """

    half: tuple[Tensor, ...] = ()
    x0: tuple[Tensor, ...] = ()

    def push(self, moving: Tensor, half: Tensor, x0: Tensor, keep: int) -> History:
        """Add an estimate where the clock is `moving`, and keep the newest `keep`."""
        halves = (half, *self.half, torch.full_like(half, torch.nan))
        x0s = (x0, *self.x0, torch.zeros_like(x0))
        count = min(keep, len(self.half) + 1)
        return History(
            tuple(torch.where(moving, halves[i], halves[i + 1]) for i in range(count)),
            tuple(torch.where(moving, x0s[i], x0s[i + 1]) for i in range(count)),
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
        return moved.to(x.dtype), State(state.generator, {"past": past.push(h > 0, here, x0, 1)})


class UniPC(Sampler):
    """UniPC with `B(h) = exp(-h) - 1` (Zhao et al. 2023, algorithms 1 and 2): a predictor of the given order, and a
    corrector that, once the next estimate is there, goes over the last step again with it.

    The first steps are of lower order, and so are the first steps of a frame whose clock is its own.

    Args:
        order: 1, 2 or 3.
        corrector: whether to correct, at no further evaluation.

    Raises:
        ValueError: another order.
    """

    def __init__(self, order: int = 3, corrector: bool = True) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order = {order} must be 1, 2 or 3")
        self.order = order
        self.corrector = corrector

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        x0 = denoiser(x, t, condition).x0
        here, there = (0.5 * denoiser.schedule.log_snr(time.double()) for time in (t, s))  # weights lose digits
        past: History = state.memory.get("past", History())
        moving = there > here
        if past.half and self.corrector:
            seen = ((here, x0), *zip(past.half[1:], past.x0[1:], strict=True))
            left = (past.half[0], past.x0[0])
            again = _exponential_step(denoiser, state.memory["x"], left, here, seen[: self.order])
            x = torch.where(moving & ~past.half[0].isnan(), again, x).to(x.dtype)
        nodes = tuple(zip(past.half, past.x0, strict=True))[: self.order - 1]
        moved = _exponential_step(denoiser, x, (here, x0), there, nodes)
        departed = torch.where(moving, x, state.memory.get("x", x))
        memory = {"past": past.push(moving, here, x0, self.order), "x": departed}
        return moved.to(x.dtype), State(state.generator, memory)


Node = tuple[Tensor, Tensor]  # half the log-SNR, and the estimate there


def _exponential_step(denoiser: Denoises, x: Tensor, here: Node, there: Tensor, nodes: tuple[Node, ...]) -> Tensor:
    """From `here` to `there` with `x0` as the polynomial in lambda through `here` and the nodes that a voxel has."""
    (half, x0), schedule = here, denoiser.schedule
    (_, sigma_t), (alpha_s, sigma_s) = schedule.scales(2 * half), schedule.scales(2 * there)
    h = (there - half).masked_fill(~(there > half), 1.0)  # any: what stands still is put back below
    ratios = [(node - half) / h for node, _ in nodes]
    known = [~ratio.isnan() for ratio in ratios]
    ratios = [ratio.nan_to_num(-1.0 - number) for number, ratio in enumerate(ratios)]
    slope = torch.expm1(-h) * x0
    for number, (_, estimate) in enumerate(nodes):
        weight = torch.zeros_like(h)
        for count in range(number + 1, len(nodes) + 1):  # the last count of nodes that a voxel has
            weight = torch.where(known[count - 1], _weights(h, ratios[:count])[number], weight)
        slope = slope + weight / ratios[number] * (estimate - x0)
    return torch.where(there > half, sigma_s / sigma_t * x - alpha_s * slope, x)


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
