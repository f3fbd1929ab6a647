from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vidiff.diffusion.adaptive import AdaptiveBeta
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.likelihood import prior_term, reconstruction_term, step_term
from vidiff.diffusion.process import add_noise, expand_time
from vidiff.sample import DPMSolverPP2M, State

DOUBLE = torch.float64


def network(ends: tuple[float, float] = (10.0, -8.0)) -> AdaptiveBeta:
    torch.manual_seed(0)
    return AdaptiveBeta(1, ends=ends).double()


def samples() -> torch.Tensor:
    """Two that are bright and still, two that are dark and not."""
    return torch.tensor([2.0, 2.0, -2.0, -2.0], dtype=DOUBLE).view(4, 1, 1, 1, 1) + torch.randn(4, 1, 3, 4, 4).double()


def test_each_sample_has_its_own_schedule_monotone_between_common_ends() -> None:
    schedule = network().given(samples())
    t = torch.linspace(0, 1, 301, dtype=DOUBLE)
    each = schedule.log_snr(t.view(1, 1, -1, 1, 1).expand(4, 1, 301, 1, 1)).detach()[:, 0, :, 0, 0]
    assert (each.diff(dim=1) < 0).all()
    torch.testing.assert_close(each[:, [0, -1]], torch.tensor([[10.0, -8.0]], dtype=DOUBLE).expand(4, 2))
    assert float((each[0] - each[2]).abs().max()) > 0.1
    torch.testing.assert_close(schedule.log_snr(t), each.mean(0))
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, rtol=0, atol=1e-9)


def test_log_snr_falls_at_the_rate_of_beta() -> None:
    net, x = network(), samples()
    t = (torch.arange(64, dtype=DOUBLE) + 0.5) / 64
    fall = -net.given(x).table.diff(dim=1)
    beta = net.beta(t, x)
    torch.testing.assert_close(fall, 18 * beta / beta.sum(1, keepdim=True))


def test_training_it_lowers_the_bound_and_tells_samples_apart() -> None:
    """Two kinds of clip, one with a tenth of the other's spread: their best schedules differ."""
    net = network()
    x0 = torch.cat([0.1 * torch.randn(32, 1, 2, 4, 4), torch.randn(32, 1, 2, 4, 4)]).double()
    std = torch.tensor([0.1, 1.0], dtype=DOUBLE).repeat_interleave(32).view(-1, 1, 1, 1, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    noise = torch.randn(8, *x0.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def limit() -> torch.Tensor:
        """The bound in eight steps, with the estimate that is right for each kind."""
        schedule, total = net.given(x0), torch.zeros((), dtype=DOUBLE)

        class Right:
            def __call__(self, x_t, t, condition):
                alpha, sigma = schedule(t)
                x0 = std**2 * alpha / ((std * alpha) ** 2 + sigma**2) * x_t
                return type("", (), {"x0": x0, "variance": None})

        Right.schedule = schedule
        model = Right()
        for number in range(8, 0, -1):
            t, s = (expand_time(torch.full((64,), end / 8, dtype=DOUBLE), x0) for end in (number, number - 1))
            x_t = add_noise(schedule, x0, noise[number - 1], t)
            estimate = model(x_t, t, Condition())
            if number == 1:
                total = total + reconstruction_term(model, x0, estimate, t, None).mean()
            else:
                total = total + step_term(model, x0, x_t, estimate, t, s, "small").mean()
            if number == 8:
                total = total + prior_term(model, x0, t).mean()
        return total

    before = float(limit().detach())
    for _ in range(60):
        optimizer.zero_grad()
        limit().backward()
        optimizer.step()
    assert float(limit().detach()) < before - 0.1
    middle = net.given(x0).table[:, 32].detach()
    assert abs(float(middle[:32].mean() - middle[32:].mean())) > 0.5


def test_a_sampler_walks_each_sample_on_its_own_schedule() -> None:
    with torch.no_grad():
        schedule = network((12.0, -12.0)).given(samples())
    data = Mixture(torch.full((1, 1, 3, 4, 4), 0.7, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")
    noise = torch.randn(4, 1, 3, 4, 4, dtype=DOUBLE)
    times = time_grid(schedule, 60, "uniform", ends=(-11.0, 11.0), dtype=DOUBLE)
    grid = [expand_time(t.expand(4), noise) for t in times]
    x, state = noise, State()
    for t, s in pairwise(grid):
        x, state = DPMSolverPP2M().step(denoiser, x, t, s, Condition(), state)
    torch.testing.assert_close(denoiser(x, grid[-1], Condition()).x0, 0.7 + 0.5 * noise, rtol=0, atol=0.05)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"ends = \(1, 2\) must fall"):
        AdaptiveBeta(1, ends=(1, 2))
    with pytest.raises(ValueError, match="steps = 1"):
        AdaptiveBeta(1, steps=1)
