"""Previous-frame conditioning: which frame is begun from, and that a prior which knows it is computed exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from networks import SMALL, inputs
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.schedule import SCHEDULES, build_schedule
from vidiff.nn.previous import KNOWN, LEAST, MOVES, NONE, Previous
from vidiff.nn.unet import UNet
from vidiff.objective.diffusion import DiffusionLoss, DiffusionObjective
from vidiff.objective.task import Tasks
from vidiff.recipe.load import load
from vidiff.recipe.slots import ConfigError

DOUBLE = torch.float64


def by_loops(x: Tensor, clock: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """The rule, voxel by voxel."""
    mean, level = torch.zeros_like(x), torch.full_like(clock, NONE)
    frames = range(x.shape[2])
    for b, i, h, w in product(range(len(x)), frames, range(x.shape[3]), range(x.shape[4])):
        at = clock[b, 0, :, h, w].tolist()
        noise = [1 / (1 + math.exp(log_snr)) for log_snr in at]
        there = [j for j in frames if (j < i if causal else j != i) and (noise[j] < noise[i] or noise[j] <= KNOWN)]
        if there:
            j = min(there, key=lambda j: (noise[j] + MOVES * abs(i - j), j > i))
            level[b, 0, i, h, w] = at[j]
            mean[b, :, i, h, w] = (1 - noise[j]) ** 0.5 * x[b, :, j, h, w]
    return mean, level


@pytest.mark.parametrize("causal", [False, True])
def test_the_frame_that_tells_most_is_found(causal: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 6, 2, 2, generator=generator)
    clock = torch.randint(-4, 7, (2, 1, 6, 2, 2), generator=generator).float()
    for found, wanted in zip(Previous(causal).find(x, clock), by_loops(x, clock, causal), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("given", [1, 3])
def test_clips_that_go_on_begin_from_the_last_given_frame(given: int) -> None:
    x, clock = torch.randn(1, 2, 6, 1, 1), torch.full((1, 1, 6, 1, 1), -3.0)
    clock[:, :, :given] = 9.0
    mean, level = Previous(causal=True).find(x, clock)
    assert level[0, 0, :, 0, 0].tolist() == [NONE] + [9.0] * 5
    assert torch.allclose(mean[:, :, given:], x[:, :, given - 1 : given], rtol=1e-3)
    mean, level = Previous(causal=True).find(x, torch.full_like(clock, -3.0))  # a clip that is made from nothing
    assert not mean.any() and (level == NONE).all()


def told_by(gate: float, stays: float) -> tuple[float, float]:
    """`g` and `m`."""
    g = math.sin((math.pi / 2 - LEAST) / (1 + math.exp(-gate)))
    return g, g + (1 - g) / (1 + math.exp(-stays))


def said(rest: Tensor, gate: float, stays: float) -> Tensor:
    return torch.cat([rest, torch.full_like(rest, gate), torch.full_like(rest, stays)], dim=1)


@pytest.mark.parametrize("clock", [-8.0, -1.0, 0.5, 6.0])
@pytest.mark.parametrize(("gate", "stays"), [(-3.0, -40.0), (0.0, 0.0), (2.5, 3.0), (2.5, -40.0), (0.0, 40.0)])
def test_without_a_rest_it_is_the_mean_of_the_gaussian_given_both(gate: float, stays: float, clock: float) -> None:
    """Of `x0 = m p + r n` given p and `x_t`: what each tells, weighed by how sure it is."""
    g, m = told_by(gate, stays)
    alpha, sigma = (1 / (1 + math.exp(-clock))) ** 0.5, (1 / (1 + math.exp(clock))) ** 0.5
    x, p = torch.randn(1, 1, 1, 4, 4, dtype=DOUBLE), torch.randn(1, 1, 1, 4, 4, dtype=DOUBLE)
    sure, seen = 1 / (1 - g * g), (alpha / sigma) ** 2
    mean = (sure * m * p + seen * x / alpha) / (sure + seen)
    told = torch.full((1, 1, 1, 4, 4), clock, dtype=DOUBLE)
    v, spread = Previous(False)(said(torch.zeros_like(x), gate, stays), x, told, (p, torch.full_like(told, 9.0)))
    variance = 1 / (sure + seen) / sigma**2  # of x0, which v is 1 / sigma times
    torch.testing.assert_close(spread.exp(), torch.full_like(spread, variance), rtol=1e-4, atol=0)
    torch.testing.assert_close(v, (alpha * x - mean) / sigma, rtol=1e-4, atol=1e-4)
    if m == pytest.approx(g):  # frames of unit variance, whose covariance with x_t gives the same
        covariance = torch.tensor([[1.0, alpha * g], [alpha * g, 1.0]], dtype=DOUBLE)  # of p and x_t
        weights = torch.linalg.solve(covariance, torch.tensor([g, alpha], dtype=DOUBLE))
        torch.testing.assert_close(weights[0] * p + weights[1] * x, mean)


@pytest.mark.parametrize(("gate", "stays"), [(-3.0, -40.0), (0.0, 0.0), (2.5, 3.0)])
def test_the_rest_is_in_standard_deviations_of_what_is_left(gate: float, stays: float) -> None:
    """So that whoever predicts it at each clock has a target of variance 1, as v has where nothing is known."""
    generator = torch.Generator().manual_seed(0)
    g, m = told_by(gate, stays)
    p, n, eps = (torch.randn(1, 1, 1, 200, 200, generator=generator, dtype=DOUBLE) for _ in range(3))
    x0 = m * p + math.sqrt(1 - g * g) * n
    for clock in (-6.0, 0.0, 4.0):
        told = torch.full((1, 1, 1, 200, 200), clock, dtype=DOUBLE)
        alpha, sigma = told.sigmoid().sqrt(), (-told).sigmoid().sqrt()
        x = alpha * x0 + sigma * eps
        level, none = torch.full_like(told, 9.0), torch.zeros_like(x)
        begun, spread = Previous(False)(said(none, gate, stays), x, told, (p, level))
        unit = Previous(False)(said(none + 1, gate, stays), x, told, (p, level))[0] - begun
        torch.testing.assert_close(spread.exp().sqrt(), unit.float(), rtol=1e-3, atol=1e-5)
        assert float((((alpha * eps - sigma * x0) - begun) / unit).std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("clock", [-20.0, 0.0, 6.0])
def test_what_stays_as_bright_as_it_was_is_not_drawn_towards_the_mean(clock: float) -> None:
    """Of a frame that lies far from it, as white does, whatever is said to be new of it."""
    p = torch.full((1, 1, 1, 2, 2), 2.0)
    told = torch.full_like(p, clock)
    alpha, sigma = told.sigmoid().sqrt(), (-told).sigmoid().sqrt()
    x = alpha * p
    for stays, loss in ((-40.0, 0.07), (40.0, 0.0)):
        v, _ = Previous(False)(said(torch.zeros_like(p), 2.0, stays), x, told, (p, torch.full_like(told, 9.0)))
        off = (p - (alpha * x - sigma * v)) / p
        assert off.max() <= loss + 1e-5
        assert loss == 0.0 or clock > -20 or off.min() > 0.02


def test_where_no_frame_is_known_it_is_the_network_s_own_prediction() -> None:
    whole, x = torch.randn(1, 6, 4, 2, 2), torch.randn(1, 2, 4, 2, 2)
    clock, none = torch.randn(1, 1, 4, 2, 2), (torch.zeros(1, 2, 4, 2, 2), torch.full((1, 1, 4, 2, 2), NONE))
    v, spread = Previous(False)(whole, x, clock, none)
    torch.testing.assert_close(v, whole[:, :2])
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "learned" and build_schedule(name).preserves])
def test_what_stands_still_is_copied_whatever_the_schedule(name: str) -> None:
    """By a network that says no more than that: its estimate is the frame before, at any noise."""
    config = replace(SMALL, previous=True)
    network = UNet(config).eval()
    with torch.no_grad():
        network.leave.bias[config.channels :].fill_(30.0)
    denoiser = Denoiser(network, build_schedule(name), "v")
    still = torch.randn(1, config.channels, 1, 8, 8).expand(-1, -1, 3, -1, -1)
    for t in (0.15, 0.5, 0.9):
        at = torch.tensor([0.0, t, t]).view(1, 1, 3, 1, 1)
        alpha, sigma = denoiser.schedule(at)
        x0 = denoiser(alpha * still + sigma * torch.randn(still.shape), at, Condition()).x0
        assert (x0 - still)[:, :, 1:].abs().max() < 2 * LEAST


def test_it_is_learned_from_the_first_step_on() -> None:
    """What ends at zero when training begins has a gradient, and is no NaN, at the extremes of the clock as well."""
    config = replace(SMALL, previous=True, variance=True)
    network, (x, _) = UNet(config), inputs(config)
    clock = torch.tensor([20.0, -20.0, 3.0]).view(1, 1, 3, 1, 1).expand(len(x), 1, 3, *x.shape[3:])
    made = network(x, clock, Condition())
    assert made.shape[1] == 2 * config.channels and made.isfinite().all()
    made.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
    gradient = network.leave.bias.grad
    assert gradient is not None and (gradient[config.channels : 3 * config.channels] != 0).all()


@pytest.mark.parametrize("variance", [False, True])
def test_a_network_tells_how_far_off_it_may_be_where_it_is_asked_to(variance: bool) -> None:
    """In channels of its own, behind all others, which are what they are without; a denoiser tells them apart."""
    config = replace(SMALL, previous=True, variance=variance)
    network, asked = UNet(config).eval(), UNet(config, spread=True).eval()
    asked.load_state_dict(network.state_dict())
    x, clock = inputs(config)
    clock[:, :, 0], clock[:, :, 1:] = 20.0, 0.0
    heads = config.channels * (1 + variance)
    whole = asked(x, clock, Condition())
    assert torch.equal(whole[:, :heads], network(x, clock, Condition()))
    output = Denoiser(asked, build_schedule("cosine"), "v", variance).output(x, 0.5, Condition())
    assert (output.variance is not None) == variance and output.spread is not None
    assert output.said.shape == output.spread.shape == x.shape
    assert Denoiser(network, build_schedule("cosine"), "v", variance).output(x, 0.5, Condition()).spread is None


def test_how_far_off_it_is_is_learned() -> None:
    """One half of each frame stands still, and the other is new: what is told of the first is far less."""
    torch.manual_seed(0)
    config = replace(SMALL, previous=True)
    denoiser = Denoiser(UNet(config, spread=True), build_schedule("cosine"), "v")
    objective = DiffusionObjective(denoiser, DiffusionLoss(spread=1.0, tasks=Tasks(generate=0.0, first=1.0)))
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    for _ in range(60):
        clips = torch.randn(8, config.channels, 3, 8, 8)
        clips[..., :4] = clips[:, :, :1, :, :4]
        loss = objective({"video": clips})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    at = torch.tensor([0.0, 0.8, 0.8]).view(1, 1, 3, 1, 1)
    alpha, sigma = denoiser.schedule(at)
    told = denoiser.eval().output(alpha * clips + sigma * torch.randn_like(clips), at, Condition()).spread
    assert told is not None
    assert told[:, :, 1:, :, :3].mean() < told[:, :, 1:, :, 5:].mean() - 1.0


def test_it_is_asked_of_frames_that_begin_from_known_ones_alone() -> None:
    assert load("configs/film.yaml").loss.spread == 1
    with pytest.raises(ConfigError, match=r"loss\.spread is 1\.0, but only frames that begin from known ones"):
        load("configs/small.yaml", ["loss.spread=1"])
    with pytest.raises(ConfigError, match=r"loss\.spread 1\.0, but a student has its teacher's draws"):
        load("configs/shapes_student.yaml", ["loss.spread=1", "unet.previous=true"])


def test_half_precision_keeps_what_stands_still() -> None:
    config = replace(SMALL, previous=True)
    network = UNet(config).eval()
    with torch.no_grad():
        network.leave.bias[config.channels :].fill_(30.0)
    x, clock = inputs(config)
    clock[:, :, 0], clock[:, :, 1:] = 20.0, 0.0
    whole = network(x, clock, Condition())
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, clock, Condition())
    assert half.dtype == whole.dtype
    torch.testing.assert_close(half, whole, rtol=1e-3, atol=1e-3)


def test_it_is_asked_for_by_a_key_and_needs_v_and_variance_preserved() -> None:
    assert load("configs/small.yaml", ["unet.previous=true"]).unet.previous
    for change in ("prediction=eps", "schedule.name=flow"):
        with pytest.raises(ConfigError, match=r"unet\.previous=true says where v begins"):
            load("configs/small.yaml", ["unet.previous=true", change])
