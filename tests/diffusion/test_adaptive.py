from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Adaptive, build_schedule
from vidiff.objective.bound import BoundObjective
from vidiff.sample import DPMSolverPP2M, start

DOUBLE = torch.float64


def schedule(ends: tuple[float, float] = (10.0, -8.0)) -> Adaptive:
    """Far from the line, as which it begins."""
    torch.manual_seed(0)
    net = Adaptive(ends=ends).double()
    net.layers[0].weight.data *= 4
    return net


def lowres() -> Tensor:
    """Two clips that are bright and still, two that are dark and not."""
    still = torch.randn(2, 1, 1, 4, 4).double().expand(-1, -1, 3, -1, -1) + 2.0
    return torch.cat([still, torch.randn(2, 1, 3, 4, 4).double() - 2.0])


def even(count: int, x: Tensor) -> Tensor:
    """Times from 0 to 1, as a map of `count` frames."""
    return torch.linspace(0, 1, count, dtype=DOUBLE).view(1, 1, -1, 1, 1).expand(len(x), 1, count, 1, 1)


def test_each_sample_has_its_own_schedule_monotone_between_common_ends() -> None:
    net, x = schedule(), lowres()
    t = even(301, x)
    each = net.log_snr(net.clock(t, Condition(lowres=x))).detach()[:, 0, :, 0, 0]
    assert (each.diff(dim=1) < 0).all()
    torch.testing.assert_close(each[:, [0, -1]], torch.tensor([[10.0, -8.0]], dtype=DOUBLE).expand(4, 2))
    assert float((each[0] - each[2]).abs().max()) > 0.1
    assert torch.equal(net.clock(t, Condition()), t), "without one to see, the line"
    torch.testing.assert_close(net.time_of(net.log_snr(t)), t, rtol=0, atol=1e-12)


def test_log_snr_falls_at_the_rate_of_beta() -> None:
    net, x = schedule(), lowres()
    t = (torch.arange(64, dtype=DOUBLE) + 0.5) / 64
    fall = -net.log_snr(net.clock(even(65, x), Condition(lowres=x)))[:, 0, :, 0, 0].diff(dim=1)
    beta = net.beta(t, x)
    torch.testing.assert_close(fall, 18 * beta / beta.sum(1, keepdim=True))


def test_a_sample_s_clock_does_not_depend_on_the_others() -> None:
    net, x = schedule(), lowres()
    both = net.clock(even(7, x), Condition(lowres=x))
    alone = torch.cat([net.clock(even(7, part), Condition(lowres=part)) for part in x.split(1)])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-14)


class Right(nn.Module):
    """The estimate that is right for clips of the standard deviation of their low resolution, as `v`."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        assert condition.lowres is not None
        alpha, sigma = build_schedule("cosine").scales(log_snr)
        variance = condition.lowres.square().mean(dim=(1, 2, 3, 4), keepdim=True)
        x0 = variance * alpha / (variance * alpha**2 + sigma**2) * x
        return (alpha * x - x0) / sigma


def test_training_it_lowers_the_bound_and_tells_samples_apart() -> None:
    """Two kinds of clip, one with a tenth of the other's spread: their best schedules differ."""
    net = schedule()
    x0 = torch.cat([0.1 * torch.randn(16, 1, 2, 4, 4), torch.randn(16, 1, 2, 4, 4)]).double()
    objective = BoundObjective(Denoiser(Right(), net, "v").double(), steps=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)

    def limit() -> Tensor:
        return objective({"video": x0, "lowres": x0})["loss"]

    def measured() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(torch.stack([limit() for _ in range(60)]).mean())

    before = measured()
    for _ in range(120):
        optimizer.zero_grad()
        limit().backward()
        assert all(weight.grad is not None for weight in net.parameters())
        optimizer.step()
    after = measured()
    assert after < before - 0.1, (before, after)
    middle = net.clock(torch.full((32, 1, 1, 1, 1), 0.5, dtype=DOUBLE), Condition(lowres=x0)).detach().flatten()
    assert abs(float(middle[:16].mean() - middle[16:].mean())) > 0.03


@pytest.mark.parametrize("guided", [False, True])
def test_a_sampler_walks_each_sample_on_its_own_schedule(guided: bool) -> None:
    net = schedule((12.0, -12.0)).requires_grad_(False)
    x, condition = lowres(), Condition(lowres=lowres(), label=torch.zeros(4, dtype=torch.int64))
    data = Mixture(torch.full((1, 1, 3, 4, 4), 0.7, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))
    inner = Denoiser(ExactNetwork(data, net, "v"), net, "v")
    asked: list[Tensor] = []

    class Seen(Denoiser):
        def forward(self, x_t, t, condition):
            asked.append(expand_time(t, x_t).expand(len(x_t), -1, -1, -1, -1)[:4, 0, 0, 0, 0])
            return super().forward(x_t, t, condition)

    denoiser = Seen(inner.network, net, "v")
    noise, times = torch.randn_like(x), time_grid(net, 60, "uniform", ends=(-11.0, 11.0), dtype=DOUBLE)
    model = ClassifierFree(denoiser, 2.0) if guided else denoiser
    made = DPMSolverPP2M()(model, start(net, noise, times, condition), condition, times)
    torch.testing.assert_close(made, 0.7 + 0.5 * noise, rtol=0, atol=0.05)
    own = torch.stack([net.clock(expand_time(t, x), condition).flatten() for t in times])
    torch.testing.assert_close(torch.stack(asked), own)
    assert float((own[30, 0] - own[30, 2]).abs()) > 0.005


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"ends = \(1, 2\) must fall"):
        Adaptive(ends=(1, 2))
    with pytest.raises(ValueError, match="steps = 1"):
        Adaptive(steps=1)
