from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.process import expand_time, posterior, transition
from vidiff.diffusion.schedule import SCHEDULES, Cosine, Linear, Schedule, build_schedule
from vidiff.sample import ancestral
from vidiff.sample.ancestral import DDIM, DDPM, invert
from vidiff.sample.base import Sampler, State

DOUBLE = torch.float64
MEAN, STD = 0.7, 0.5


def gaussian(schedule: Schedule, std: float = STD) -> Denoiser:
    data = Mixture(torch.full((1, 1, 1, 1, 1), MEAN, dtype=DOUBLE), torch.tensor([std], dtype=DOUBLE))
    return Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")


def moments(
    sampler: Sampler, denoiser: Denoiser, times: Tensor, monkeypatch: pytest.MonkeyPatch, std: float = STD
) -> tuple[float, float]:
    """Mean and standard deviation at the end, exactly: here a step is affine in x and in its noise."""
    alpha, sigma = denoiser.schedule(times[0])
    mean, variance = MEAN * alpha, (std * alpha) ** 2 + sigma**2
    probe = torch.tensor([0.0, 1.0, 0.0], dtype=DOUBLE).view(3, 1, 1, 1, 1)
    noise = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).view(3, 1, 1, 1, 1)
    monkeypatch.setattr(ancestral, "draw_noise", lambda like, generator: noise)
    for t, s in pairwise(times):
        out, _ = sampler.step(denoiser, probe, expand_time(t, probe), expand_time(s, probe), Condition(), State())
        offset, slope, spread = out[0], out[1] - out[0], out[2] - out[0]
        mean, variance = slope * mean + offset, slope**2 * variance + spread**2
    x0 = denoiser(probe, times[-1], Condition()).x0
    return float((x0[1] - x0[0]) * mean + x0[0]), float((x0[1] - x0[0]) * variance.sqrt())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", [DDPM("small"), DDPM("large"), DDIM(), DDIM(0.5), DDIM(1.0)])
def test_gaussian_data_comes_out_with_its_moments(name: str, sampler: Sampler, monkeypatch) -> None:
    schedule = build_schedule(name)
    ends = (-10.0, 12.0)
    errors = []
    for steps in (120, 240):
        times = time_grid(schedule, steps, ends=ends, dtype=DOUBLE)
        mean, std = moments(sampler, gaussian(schedule), times, monkeypatch)
        errors.append(abs(std - STD))
        assert mean == pytest.approx(MEAN, abs=0.02)
        assert std == pytest.approx(STD, abs=0.04)
    assert 1.7 < errors[0] / errors[1] < 2.3  # first order in the number of steps


def test_the_full_linear_grid_reaches_the_moments(monkeypatch) -> None:
    times = time_grid(Linear(), 999, "linspace", dtype=DOUBLE)
    mean, std = moments(DDPM(), gaussian(Linear()), times, monkeypatch)
    assert mean == pytest.approx(MEAN, abs=2e-3)
    assert std == pytest.approx(STD, abs=5e-3)


def test_large_variance_is_right_for_unit_gaussians_and_small_for_a_point(monkeypatch) -> None:
    """The two bounds of Ho et al. 2020, section 3.2: then the reverse step is exact at any step length."""
    times = time_grid(Linear(), 5, ends=(-10.0, 10.0), dtype=DOUBLE)
    denoiser = gaussian(Linear(), std=1.0)
    _, sigma = Linear()(times[-1])
    _, std = moments(DDPM("large"), denoiser, times, monkeypatch, std=1.0)
    assert std == pytest.approx((1 - float(sigma) ** 2) ** 0.5, abs=1e-9)  # the spread of E[x0 | x_t]
    denoiser = gaussian(Linear(), std=1e-6)
    mean, std = moments(DDPM("small"), denoiser, times, monkeypatch, std=1e-6)
    assert mean == pytest.approx(MEAN, abs=1e-9) and std < 1e-6


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_with_eta_one_is_ddpm(name: str) -> None:
    schedule = build_schedule(name)
    steps = {"linear": 999, "adaptive": 63}.get(name, 99)  # the full grid of the table
    denoiser, times = gaussian(schedule), time_grid(schedule, steps, "linspace", dtype=DOUBLE)
    x = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE)
    ddpm, ddim = (
        sampler(denoiser, x, Condition(), times, torch.Generator().manual_seed(0)) for sampler in (DDPM(), DDIM(1.0))
    )
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-10)


def test_ddim_is_its_paper_s_equation() -> None:
    denoiser = gaussian(Linear())
    x = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE)
    t, s = expand_time(0.6, x), expand_time(0.5, x)
    x0 = denoiser(x, t, Condition()).x0
    now, before = (Linear()(time)[0] ** 2 for time in (t, s))  # abar
    eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
    std = 0.3 * ((1 - before) / (1 - now)).sqrt() * (1 - now / before).sqrt()  # Song et al. 2020, eq. 16
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    expected = before.sqrt() * x0 + (1 - before - std**2).sqrt() * eps + std * noise
    step, _ = DDIM(0.3).step(denoiser, x, t, s, Condition(), State(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(step, expected, rtol=1e-10, atol=1e-12)


def test_the_learned_variance_lies_between_the_two() -> None:
    class Middle:
        schedule = Cosine()

        def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
            place = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE).view(3, 1, 1, 1, 1)
            return Estimate(torch.zeros_like(x_t), place)

    x = torch.zeros(3, 1, 1, 1, 1, dtype=DOUBLE)
    t, s = expand_time(0.6, x), expand_time(0.5, x)
    step, _ = DDPM("learned").step(Middle(), x, t, s, Condition(), State(torch.Generator().manual_seed(0)))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    _, small = posterior(Cosine(), x, x, t, s)
    _, large = transition(Cosine(), t, s)
    expected = torch.cat([small.sqrt(), (small * large) ** 0.25, large.sqrt()]) * noise
    torch.testing.assert_close(step, expected, rtol=1e-10, atol=0)


def test_samples_repeat_with_their_generator() -> None:
    denoiser, times = gaussian(Cosine()), time_grid(Cosine(), 5, dtype=DOUBLE)
    x = torch.randn(4, 1, 1, 1, 1, dtype=DOUBLE)
    first, second, other = (
        DDPM()(denoiser, x, Condition(), times, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_inverted_and_run_forward_returns_the_clip(name: str) -> None:
    schedule = build_schedule(name)
    means = torch.tensor([-1.0, 1.2], dtype=DOUBLE).view(2, 1, 1, 1, 1).expand(2, 1, 3, 2, 2)
    data = Mixture(means, torch.tensor([0.4, 0.6], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, schedule, "eps"), schedule, "eps")
    clip = data.sample(6, torch.Generator().manual_seed(0))
    times = time_grid(schedule, 60, dtype=DOUBLE)
    noise = invert(denoiser, clip, Condition(), times)
    torch.testing.assert_close(DDIM()(denoiser, noise, Condition(), times), clip, rtol=0, atol=1e-6)
    _, sigma = schedule(times[0])
    assert float((noise / sigma).std()) == pytest.approx(1, abs=0.25)  # 72 numbers


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="unknown variance 'middle'; choose one of large, learned, small"):
        DDPM("middle")
    with pytest.raises(ValueError, match=r"eta = 1\.5 is outside \[0, 1\]"):
        DDIM(1.5)
    with pytest.raises(ValueError, match="'learned' needs a denoiser with a variance head"):
        x = torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE)
        DDPM("learned")(gaussian(Cosine()), x, Condition(), torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match="iterations = 0"):
        invert(gaussian(Cosine()), torch.zeros(1, 1, 1, 1, 1), Condition(), torch.tensor([0.5, 0.4]), 0)
