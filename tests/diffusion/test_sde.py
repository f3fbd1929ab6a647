from __future__ import annotations

import pytest
import torch

from vidiff.diffusion.denoise import flow_drift, reverse_drift, score_from
from vidiff.diffusion.exact import Mixture
from vidiff.diffusion.process import rates
from vidiff.diffusion.schedule import SCHEDULES, VE, build_schedule

DOUBLE = torch.float64
T = torch.linspace(0.1, 0.9, 9, dtype=DOUBLE)
STEP = 1e-5  # of the differences that derivatives are compared with


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_marginals_of_the_sde_are_the_schedule_s(name: str) -> None:
    """dm / dt = f m and dV / dt = 2 f V + g^2 have alpha and sigma^2 as their solutions."""
    schedule = build_schedule(name)
    t = T + 0.00041  # off the points of the linear table, where its slope jumps
    f, g2 = rates(schedule, t)
    (alpha, sigma), (after, more), (before, less) = (schedule(time) for time in (t, t + STEP, t - STEP))
    torch.testing.assert_close((after - before) / (2 * STEP), f * alpha, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close((more**2 - less**2) / (2 * STEP), 2 * f * sigma**2 + g2, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_vp_has_one_beta(name: str) -> None:
    f, g2 = rates(build_schedule(name), T)
    torch.testing.assert_close(g2, -2 * f, rtol=1e-9, atol=1e-12)


def test_linear_s_beta_is_its_table_times_its_steps() -> None:
    f, _ = rates(build_schedule("linear"), torch.tensor([0.5005], dtype=DOUBLE))
    assert float(-2 * f) == pytest.approx(1000 * (1e-4 + 500 / 999 * (0.02 - 1e-4)), rel=0.01)


def test_ve_has_no_drift() -> None:
    f, g2 = rates(VE(), T)
    _, sigma = VE()(T)
    assert (f == 0).all()
    torch.testing.assert_close(g2, 2 * sigma**2 * torch.log(torch.tensor(80 / 0.002, dtype=DOUBLE)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_and_the_reverse_sde_keep_the_marginals_of_gaussian_data(name: str) -> None:
    """For x = m + s z both drifts are affine; mean and variance then move as alpha and sigma say."""
    schedule, mean, std = build_schedule(name), 0.7, 0.5
    data = Mixture(torch.full((1, 1, 1, 1, 1), mean, dtype=DOUBLE), torch.tensor([std], dtype=DOUBLE))
    t = (T + 0.00041).view(-1, 1, 1, 1, 1)
    (alpha, sigma), (after, more), (before, less) = (schedule(time) for time in (t, t + STEP, t - STEP))
    variance = (std * alpha) ** 2 + sigma**2
    mean_rate = mean * (after - before) / (2 * STEP)
    variance_rate = (std**2 * (after**2 - before**2) + more**2 - less**2) / (2 * STEP)

    def drifts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x0 = data.x0(x, alpha, sigma)
        return flow_drift(schedule, x0, x, t), reverse_drift(schedule, x0, x, t)

    (flow, reverse), (flow_up, reverse_up) = drifts(mean * alpha), drifts(mean * alpha + 1)
    _, g2 = rates(schedule, t)
    torch.testing.assert_close(flow, mean_rate, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(reverse, mean_rate, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(2 * (flow_up - flow) * variance, variance_rate, rtol=1e-5, atol=1e-6)
    backwards = -2 * (reverse_up - reverse) * variance + g2  # in reversed time
    torch.testing.assert_close(backwards, -variance_rate, rtol=1e-5, atol=1e-6)


def test_the_score_is_that_of_log_prob() -> None:
    schedule = build_schedule("flow")
    data = Mixture(torch.tensor([-1.0, 1.0], dtype=DOUBLE).view(2, 1, 1, 1, 1), torch.full((2,), 0.4, dtype=DOUBLE))
    x = torch.randn(9, 1, 1, 1, 1, dtype=DOUBLE, requires_grad=True)
    alpha, sigma = schedule(T.view(-1, 1, 1, 1, 1))
    (expected,) = torch.autograd.grad(data.log_prob(x, alpha, sigma).sum(), x)
    found = score_from(schedule, data.x0(x, alpha, sigma), x, T)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
