"""What each of the further samplers is, by its equations and at its ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import VE, Cosine
from vidiff.sample import DDIM, DPMSolverPP2M, Langevin, Sampler, State, UniPC, build_sampler

DOUBLE = torch.float64


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_first_step_of_the_sde_form_is_ddim_with_eta_one(gaussian) -> None:
    x = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE)
    t, s = expand_time(0.6, x), expand_time(0.5, x)
    steps = [
        sampler.step(gaussian(Cosine()), x, t, s, Condition(), State(seeded()))[0]
        for sampler in (DPMSolverPP2M(eta=1.0), DDIM(1.0))
    ]
    torch.testing.assert_close(*steps, rtol=1e-10, atol=1e-12)


def test_unipc_of_first_order_without_corrector_is_ddim(gaussian) -> None:
    x, times = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE), time_grid(Cosine(), 10, dtype=DOUBLE)
    found, ddim = (
        sampler(gaussian(Cosine()), x, Condition(), times) for sampler in (UniPC(1, corrector=False), DDIM())
    )
    torch.testing.assert_close(found, ddim, rtol=1e-10, atol=1e-12)


def test_a_frame_that_pauses_goes_on_with_its_own_history(gaussian) -> None:
    """Frame 1 stands still for two steps midway: each multistep sampler takes it on as if it had not."""
    denoiser, times = gaussian(Cosine(), frames=2), time_grid(Cosine(), 10, dtype=DOUBLE)
    place = torch.stack([torch.arange(13).clamp(max=10), torch.tensor([0, 1, 2, 3, 4, 4, 4, *range(5, 11)])], 1)
    x = torch.randn(3, 1, 2, 1, 1, dtype=DOUBLE)
    for sampler in (DPMSolverPP2M(), UniPC(2), UniPC(3)):
        paused, common = (sampler(denoiser, x, Condition(), grid) for grid in (times[place], times))
        torch.testing.assert_close(paused, common, rtol=0, atol=1e-9)


def test_langevin_is_its_paper_s_update() -> None:
    """Song & Ermon 2019, algorithm 1, with step length 0.3 sigma^2."""
    data = Mixture(torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, VE(), "edm"), VE(), "edm")
    x = torch.randn(5, 1, 1, 1, 1, dtype=DOUBLE)
    t, s = expand_time(0.6, x), expand_time(0.5, x)
    _, sigma = VE()(s)
    expected, generator = x, seeded()
    for _ in range(2):
        noise = torch.randn(x.shape, generator=generator, dtype=DOUBLE)
        score = -expected / (1 + sigma**2)
        expected = expected + 0.3 * sigma**2 / 2 * score + (0.3 * sigma**2).sqrt() * noise
    found, _ = Langevin(2, 0.3).step(denoiser, x, t, s, Condition(), State(seeded()))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


MIXTURE = Mixture(
    torch.tensor([-1.5, 0.5, 1.5], dtype=DOUBLE).view(3, 1, 1, 1, 1),
    torch.tensor([0.3, 0.2, 0.5], dtype=DOUBLE),
    torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE),
)
CHANGED: dict[str, dict[str, Any]] = {"langevin": {"iterations": 5}}


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "rk45", "euler_maruyama", "stochastic_heun"])
def test_a_mixture_comes_out(name: str) -> None:
    reach_the_mixture(build_sampler(name))


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "langevin", "predictor_corrector"])
def test_a_mixture_comes_out_of_the_rest(name: str) -> None:
    reach_the_mixture(build_sampler(name, **CHANGED.get(name, {})))


def reach_the_mixture(sampler: Sampler) -> None:
    """Its first four moments, and the share of its left component."""
    schedule = Cosine()
    denoiser = Denoiser(ExactNetwork(MIXTURE, schedule, "v"), schedule, "v")
    times = time_grid(schedule, 100, ends=(-10.0, 10.0), dtype=DOUBLE)
    x = torch.randn(4_000, 1, 1, 1, 1, generator=seeded(), dtype=DOUBLE)
    made = sampler(denoiser, x, Condition(), times, seeded()).flatten()
    data = MIXTURE.sample(400_000, seeded()).flatten()
    for power in (1, 2, 3, 4):
        assert float((made**power).mean()) == pytest.approx(float((data**power).mean()), abs=0.15 * power)
    assert float((made < -0.5).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpmpp_2m", {"eta": 2.0}, r"eta = 2\.0 is outside \[0, 1\]"),
        ("unipc", {"order": 4}, "order = 4 must be 1, 2 or 3"),
        ("rk45", {"tolerance": 0.0}, r"tolerance = 0\.0 must be positive"),
        ("langevin", {"iterations": 0}, "iterations = 0 must be at least 1"),
        ("langevin", {"step": 3.0}, r"step = 3\.0 is outside \(0, 2\]"),
        ("predictor_corrector", {"predictor": "rk45"}, "unknown predictor 'rk45'; choose one of ddim, ddpm, euler"),
        ("predictor_corrector", {"iterations": 0}, "iterations = 0 must be at least 1"),
        ("stochastic_heun", {"churn": 0.5}, r"churn = 0\.5 is outside"),
        ("stochastic_heun", {"interval": (2.0, 1.0)}, r"interval = \(2\.0, 1\.0\)"),
        ("stochastic_heun", {"noise": 0.0}, r"noise = 0\.0 must be positive"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_sampler(name, **options)
