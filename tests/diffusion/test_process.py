from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vidiff.diffusion.process import add_noise, draw_noise, expand_time, gaussian_kl, posterior, transition
from vidiff.diffusion.schedule import SCHEDULES, Linear, build_schedule

DOUBLE = torch.float64


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_chain_composed_is_the_closed_form(name: str) -> None:
    schedule = build_schedule(name)
    times = torch.linspace(0, 1, 501, dtype=DOUBLE)
    start_alpha, start_sigma = schedule(times[0])
    mean, variance = start_alpha, start_sigma**2
    for s, t in pairwise(times):
        scale, added = transition(schedule, t, s)
        mean, variance = scale * mean, scale**2 * variance + added
        alpha, sigma = schedule(t)
        torch.testing.assert_close(mean, alpha, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(variance, sigma**2, rtol=1e-9, atol=1e-12)


def test_a_discrete_step_has_the_beta_of_the_table() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE)
    t = torch.arange(1, 1001, dtype=DOUBLE) / 1000
    scale, variance = transition(Linear(), t[1:], t[:-1])
    torch.testing.assert_close(variance, betas[1:], rtol=1e-8, atol=0)
    torch.testing.assert_close(scale**2, 1 - betas[1:], rtol=1e-10, atol=0)


def test_the_posterior_has_the_coefficients_of_the_table() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE)
    abar = torch.cumprod(1 - betas, 0)
    before, now = abar[:-1], abar[1:]
    t = torch.arange(1, 1001, dtype=DOUBLE) / 1000
    one, zero = torch.ones(999, dtype=DOUBLE), torch.zeros(999, dtype=DOUBLE)
    of_x, variance = posterior(Linear(), one, zero, t[1:], t[:-1])
    of_x0, _ = posterior(Linear(), zero, one, t[1:], t[:-1])
    torch.testing.assert_close(of_x0, before.sqrt() * betas[1:] / (1 - now), rtol=1e-8, atol=0)
    torch.testing.assert_close(of_x, (1 - betas[1:]).sqrt() * (1 - before) / (1 - now), rtol=1e-8, atol=0)
    torch.testing.assert_close(variance, (1 - before) / (1 - now) * betas[1:], rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_posterior_obeys_bayes_rule(name: str) -> None:
    """log q(x_s | x_t, x0) = log q(x_t | x_s) + log q(x_s | x0) - log q(x_t | x0), for many x_s."""
    schedule = build_schedule(name)
    t, s = torch.tensor(0.7, dtype=DOUBLE), torch.tensor(0.55, dtype=DOUBLE)
    x0, x_t = torch.tensor(0.3, dtype=DOUBLE), torch.tensor(-0.8, dtype=DOUBLE)
    x_s = torch.linspace(-3, 3, 25, dtype=DOUBLE)

    def log_normal(x, mean, variance):
        return torch.distributions.Normal(mean, variance.sqrt()).log_prob(x)

    scale, added = transition(schedule, t, s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    bayes = log_normal(x_t, scale * x_s, added) + log_normal(x_s, alpha_s * x0, sigma_s**2)
    bayes = bayes - log_normal(x_t, alpha_t * x0, sigma_t**2)
    mean, variance = posterior(schedule, x_t, x0, t, s)
    torch.testing.assert_close(log_normal(x_s, mean, variance), bayes, rtol=1e-9, atol=1e-9)


def test_the_posterior_at_the_same_time_is_the_sample_itself() -> None:
    x_t, t = torch.randn(8, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    mean, variance = posterior(Linear(), x_t, torch.randn(8, dtype=DOUBLE), t, t)
    assert torch.equal(mean, x_t) and float(variance) == 0


def test_gaussian_kl_is_torch_s() -> None:
    mean1, mean2 = torch.randn(2, 50, dtype=DOUBLE)
    variance1, variance2 = torch.rand(2, 50, dtype=DOUBLE) + 0.1
    p = torch.distributions.Normal(mean1, variance1.sqrt())
    q = torch.distributions.Normal(mean2, variance2.sqrt())
    expected = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(gaussian_kl(mean1, variance1, mean2, variance2), expected, rtol=1e-10, atol=1e-12)


def test_noise_is_its_generator_s_alone() -> None:
    like = torch.zeros(2, 3, dtype=DOUBLE)
    first = draw_noise(like, torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    second = draw_noise(like, torch.Generator().manual_seed(7))
    assert torch.equal(first, second) and first.dtype == DOUBLE


def test_every_form_of_time_means_the_same() -> None:
    x0, eps = torch.randn(2, 4, 3, 1, 1), torch.randn(2, 4, 3, 1, 1)
    whole = add_noise(Linear(), x0, eps, torch.full((2, 1, 3, 1, 1), 0.3))
    for t in (
        0.3,
        torch.tensor(0.3),
        torch.tensor([0.3]),
        torch.tensor([0.3, 0.3]),
        torch.full((1, 1, 3, 1, 1), 0.3),
    ):
        assert torch.equal(add_noise(Linear(), x0, eps, t), whole)
    mixed = add_noise(Linear(), x0, eps, torch.tensor([0.3, 0.9]))
    assert torch.equal(mixed[0], whole[0]) and not torch.allclose(mixed[1], whole[1])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3, 1, 1), (1, 1, 2, 1, 1)])
def test_a_time_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"does not broadcast to \(2, 1, 3, 1, 1\)"):
        expand_time(torch.zeros(shape), torch.zeros(2, 4, 3, 1, 1))


def test_a_number_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t = 1\.5 is outside"):
        expand_time(1.5, torch.zeros(2, 4, 3, 1, 1))
