"""Measured orders of convergence of the deterministic samplers, on data whose path is known."""

from __future__ import annotations

import math

import pytest
import torch

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.schedule import SCHEDULES, Cosine, build_schedule, time_grid
from vidiff.sample import DDIM, DPMSolverPP2M, Euler, Heun
from vidiff.sample.base import Sampler

DOUBLE = torch.float64
STD = 0.5


def error(sampler: Sampler, name: str, steps: int) -> float:
    """Of the slope from x at the first time to x0; its truth is a quotient of standard deviations."""
    schedule = build_schedule(name)
    data = Mixture(torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), torch.tensor([STD], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")
    times = time_grid(schedule, steps, ends=(-8.0, 8.0), dtype=DOUBLE)
    (first, noise), (last, rest) = schedule(times[0]), schedule(times[-1])
    spread = [((STD * alpha) ** 2 + sigma**2).sqrt() for alpha, sigma in ((first, noise), (last, rest))]
    exact = spread[1] / spread[0] * last * STD**2 / spread[1] ** 2  # the ODE, then E[x0 | x] at the last time
    x0 = sampler(denoiser, torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE), Condition(), times)
    return abs(float(x0 / exact) - 1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("sampler", "order"), [(DDIM(), 1), (Euler(), 1), (Heun(), 2), (DPMSolverPP2M(), 2)])
def test_the_error_falls_at_the_order_of_theory(name: str, sampler: Sampler, order: int) -> None:
    steps = (100, 200)
    measured = math.log2(error(sampler, name, steps[0]) / error(sampler, name, steps[1]))
    assert measured == pytest.approx(order, abs=0.2)


def test_thirty_steps_of_dpm_solver_on_an_even_log_snr_grid() -> None:
    assert error(DPMSolverPP2M(), "linear", 30) < 0.01


def test_euler_is_ddim() -> None:
    data = Mixture(torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), torch.tensor([STD], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    x, times = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE), time_grid(Cosine(), 10, dtype=DOUBLE)
    euler, ddim = (sampler(denoiser, x, Condition(), times) for sampler in (Euler(), DDIM()))
    torch.testing.assert_close(euler, ddim, rtol=1e-12, atol=1e-12)
