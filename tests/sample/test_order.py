"""Measured orders of convergence of the deterministic samplers, on data whose path is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.schedule import SCHEDULES, Cosine, build_schedule
from vidiff.sample import (
    DDIM,
    DDPM,
    RK45,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    StochasticHeun,
    UniPC,
)
from vidiff.sample.base import Sampler, State, frame_times

DOUBLE = torch.float64
STD = 0.5


def error(sampler: Sampler, name: str, steps: int) -> float:
    """The largest along the way, and in x0 at its end; the truth is a quotient of standard deviations."""
    schedule = build_schedule(name)
    data = Mixture(torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), torch.tensor([STD], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")
    x, state = torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE), State()
    grid = frame_times(time_grid(schedule, steps, ends=(-8.0, 8.0), dtype=DOUBLE), x)
    spread = [float(((STD * alpha) ** 2 + sigma**2).sqrt()) for alpha, sigma in map(schedule, grid)]
    worst = 0.0
    with torch.no_grad():
        for number, (t, s) in enumerate(pairwise(grid), 1):
            x, state = sampler.step(denoiser, x, t, s, Condition(), state)
            worst = max(worst, abs(float(x) * spread[0] / spread[number] - 1))
        alpha, _ = schedule(grid[-1])
        exact = float(alpha) * STD**2 / (spread[-1] * spread[0])  # E[x0 | x] of the exact x
        return max(worst, abs(float(denoiser(x, grid[-1], Condition()).x0) / exact - 1))


def order(coarse: float, fine: float) -> float:
    """From errors at some number of steps and at twice as many."""
    return math.log2(coarse / fine)


SOLVERS = [
    (DDIM(), 1),
    (Euler(), 1),
    (Heun(), 2),
    (DPMSolverPP2M(), 2),
    (UniPC(1, corrector=False), 1),
    (UniPC(2, corrector=False), 2),
    (UniPC(3, corrector=False), 3),
    (UniPC(1), 2),  # the corrector adds one: Zhao et al. 2023, theorem 3.1
    (UniPC(2), 3),
    (UniPC(3), 4),
]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "expected"), SOLVERS, ids=lambda value: str(value) if isinstance(value, int) else ""
)
def test_the_error_falls_at_the_order_of_theory(name: str, sampler: Sampler, expected: int) -> None:
    assert order(*(error(sampler, name, steps) for steps in (100, 200))) == pytest.approx(expected, abs=0.2)


def test_rk45_without_its_tolerance_is_of_fifth_order() -> None:
    assert order(*(error(RK45(1e9), "cosine", steps) for steps in (32, 64))) == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("steps", [1, 5])
def test_rk45_keeps_its_tolerance_on_any_grid(steps: int) -> None:
    loose, tight = (error(RK45(tolerance), "cosine", steps) for tolerance in (1e-3, 1e-7))
    assert loose < 1e-2 and tight < 1e-6 < loose


SDES = [
    (DDPM("small"), 1),
    (DDPM("large"), 1),
    (EulerMaruyama(), 1),
    (DPMSolverPP2M(eta=1.0), 2),
    (DPMSolverPP2M(eta=0.5), 2),
    (PredictorCorrector("ddpm"), 1),
    (Langevin(10, 0.5), 1),
]


@pytest.mark.parametrize(("sampler", "expected"), SDES, ids=lambda value: type(value).__name__)
def test_the_moments_of_samplers_with_noise_converge(sampler: Sampler, expected: int, gaussian, moments) -> None:
    """Weak order on a Gaussian: of the mean where that is off, else of the standard deviation."""
    errors = []
    for steps in (80, 160):
        times = time_grid(Cosine(), steps, ends=(-10.0, 12.0), dtype=DOUBLE)
        mean, std = moments(sampler, gaussian(Cosine()), times)
        errors.append(max(abs(mean / 0.7 - 1), abs(std / 0.5 - 1)))
    assert order(*errors) == pytest.approx(expected, abs=0.2)


def test_langevin_s_moments_are_within_two_percent(gaussian, moments) -> None:
    times = time_grid(Cosine(), 120, ends=(-10.0, 12.0), dtype=DOUBLE)
    mean, std = moments(Langevin(20, 0.5), gaussian(Cosine()), times)
    assert mean == pytest.approx(0.7, rel=0.02) and std == pytest.approx(0.5, rel=0.02)


def test_churn_lets_heun_forget_its_errors_and_none_is_heun(gaussian, moments) -> None:
    """Begun with too much variance, Heun ends with it; with churn less than half of the excess is left."""
    times = time_grid(Cosine(), 60, ends=(-6.0, 12.0), dtype=DOUBLE)
    denoiser = gaussian(Cosine())
    x = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE)
    still, heun = (sampler(denoiser, x, Condition(), times) for sampler in (StochasticHeun(0.0), Heun()))
    torch.testing.assert_close(still, heun, rtol=0, atol=1e-12)
    _, right = moments(Heun(), denoiser, times)
    excess = [moments(StochasticHeun(churn, (0.0, 1e9)), denoiser, times, std=5.0)[1] - right for churn in (0.0, 0.4)]
    assert excess[1] < 0.5 * excess[0]


def test_thirty_steps_of_dpm_solver_on_an_even_log_snr_grid() -> None:
    assert error(DPMSolverPP2M(), "linear", 30) < 0.01


def test_euler_is_ddim() -> None:
    data = Mixture(torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), torch.tensor([STD], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    x, times = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE), time_grid(Cosine(), 10, dtype=DOUBLE)
    euler, ddim = (sampler(denoiser, x, Condition(), times) for sampler in (Euler(), DDIM()))
    torch.testing.assert_close(euler, ddim, rtol=1e-12, atol=1e-12)
