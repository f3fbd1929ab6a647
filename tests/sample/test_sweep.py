"""Every schedule with every prediction and every sampler: the moments of Gaussian data come out."""

from __future__ import annotations

import pytest
import torch

from vidiff.diffusion.denoise import PREDICTIONS
from vidiff.diffusion.exact import ExactConsistency, ExactNetwork
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.schedule import SCHEDULES, build_schedule
from vidiff.sample import SAMPLERS, build_sampler

# steps, options, and how far the standard deviation may be off with so few steps, in parts of the true one
SWEEP = {
    "ddpm": (20, {}, 0.25),
    "ddim": (20, {}, 0.15),
    "euler": (20, {}, 0.15),
    "heun": (20, {}, 0.04),
    "rk45": (1, {"tolerance": 1e-2}, 0.03),
    "euler_maruyama": (20, {}, 0.05),
    "stochastic_heun": (20, {}, 0.08),
    "dpmpp_2m": (20, {}, 0.02),
    "dpmpp_2m_sde": (20, {}, 0.05),
    "unipc": (20, {}, 0.003),
    "deis": (20, {}, 0.003),
    "langevin": (20, {"iterations": 3, "step": 1.0}, 0.35),
    "predictor_corrector": (20, {}, 0.05),
    "consistency": (20, {}, 1e-3),  # of a model that says where the ODE ends, for which it is made
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_prediction_and_sampler_reach_the_moments(
    name: str, prediction: str, sampler: str, gaussian, moments
) -> None:
    steps, options, within = SWEEP[sampler]
    schedule = build_schedule(name)
    times = time_grid(schedule, steps, ends=(-10.0, 10.0), dtype=torch.float64)
    network = ExactConsistency if sampler == "consistency" else ExactNetwork
    denoiser = gaussian(schedule, prediction, network=network)
    mean, std = moments(build_sampler(sampler, **options), denoiser, times)
    assert mean == pytest.approx(0.7, abs=0.02)
    assert std == pytest.approx(0.5, rel=within)
