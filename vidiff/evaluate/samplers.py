"""Samplers at few evaluations, on mixtures of which every path is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.half import half_known
from vidiff.diffusion.schedule import build_schedule
from vidiff.recipe.kinds import SamplingConfig
from vidiff.recipe.slots import build_sampler
from vidiff.sample import UniPC, start

DOUBLE = torch.float64
MODES = {1: 3, 16: 12, 64: 24}  # of each dimension


@dataclass(frozen=True)
class Problem:
    """A mixture of unit variance, noise, and where the probability-flow ODE of a schedule takes that noise."""

    data: Mixture
    noise: Tensor
    exact: Tensor

    def errors(self, made: Tensor) -> tuple[float, float]:
        """Root mean square distance to the exact ODE's ends, and W2 to them as a set."""
        if not made.isfinite().all():
            return math.inf, math.inf
        away = made - self.exact
        cost = torch.cdist(made.flatten(1), self.exact.flatten(1)).square().numpy()
        pairs = linear_sum_assignment(cost)
        return float(away.square().mean().sqrt()), math.sqrt(cost[pairs].mean() / made[0].numel())


@cache
def problem(dimension: int, seed: int, name: str, count: int = 300) -> Problem:
    """The problem of a seed, for the schedule called `name`, with `count` draws."""
    generator, schedule = torch.Generator().manual_seed(1000 * dimension + seed), build_schedule(name)
    rand = partial(torch.rand, generator=generator, dtype=DOUBLE)
    stds = 0.05 * 10.0 ** rand(MODES[dimension])
    weights = 0.5 + rand(MODES[dimension])
    weights = weights / weights.sum()
    means = torch.randn(MODES[dimension], dimension, generator=generator, dtype=DOUBLE)
    means = means - weights @ means
    means = means * ((1 - weights @ stds**2) / (weights @ means**2).mean()).sqrt()
    data = Mixture(means.view(-1, 1, 1, 1, dimension), stds, weights)
    noise = torch.randn(count, 1, 1, 1, dimension, generator=generator, dtype=DOUBLE)
    if dimension == 1:  # its quantiles, so that no chance is left
        noise = torch.special.ndtri((torch.arange(count, dtype=DOUBLE) + 0.5) / count).view_as(noise)
    times = time_grid(schedule, 800, ends=(-19.9, 18.0), dtype=DOUBLE)
    return Problem(data, noise, UniPC(3)(denoiser(data, name), noise, Condition(), times))


def denoiser(data: Mixture, name: str) -> Denoiser:
    """The exact denoiser of a mixture."""
    schedule = build_schedule(name)
    return Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")


def ours(of: Problem, name: str, evaluations: int, measured: bool = True) -> Tensor:
    """By the default settings, with what a training would have measured of the model, or without."""
    how = SamplingConfig()
    model = denoiser(of.data, name)
    torch.manual_seed(0)
    half = half_known(model, of.exact, Condition()) if measured else None
    times = how.grid.measured(half)(model.schedule, evaluations, DOUBLE)
    return build_sampler(how.sampler)(model, start(model.schedule, of.noise, times), Condition(), times)


def root_mean(errors: list[tuple[float, float]]) -> tuple[float, float]:
    """Root mean square over the mixtures, of both."""
    rms, w2 = torch.tensor(errors, dtype=DOUBLE).square().mean(0).sqrt().tolist()
    return rms, w2
