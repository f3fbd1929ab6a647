from __future__ import annotations

import math

import pytest
import torch

from vidiff.diffusion.denoise import PREDICTIONS, prediction_scale
from vidiff.diffusion.schedule import VE, Cosine, build_schedule
from vidiff.objective.weighting import (
    TAILS,
    TIMES,
    WEIGHTINGS,
    Uncertainty,
    distance_to_known,
    level_weight,
    surprise,
)

DOUBLE = torch.float64
T = torch.linspace(0.05, 0.95, 19, dtype=DOUBLE)


def on_x0(weighting: str, prediction: str, name: str) -> torch.Tensor:
    """The weight that falls on a squared error of x0."""
    schedule = build_schedule(name)
    factor = prediction_scale(prediction, schedule, T)
    return WEIGHTINGS[weighting](schedule.log_snr(T), factor) / factor**2


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["cosine", "ve", "flow"])
def test_a_weighting_means_the_same_for_every_prediction(name: str, prediction: str) -> None:
    snr = build_schedule(name).log_snr(T).exp()
    expected = {
        "score_matching": snr,
        "min_snr": snr.clamp(max=5.0),
        "edm": 1 + snr,
        "uncertainty": 1 + snr,
        "sigmoid": snr / (1 + snr * math.exp(-2.0)),
    }
    for weighting, weight in expected.items():
        torch.testing.assert_close(on_x0(weighting, prediction, name), weight, rtol=1e-8, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "cosine", "ve", "flow"])
def test_the_sigmoid_weight_is_an_integral_over_log_snr(name: str, prediction: str) -> None:
    """Kingma & Gao 2023, equation 2: of an error of eps that is 1, `integral of sigmoid(2 - log_snr) dlog_snr`."""
    schedule = build_schedule(name)
    t = torch.linspace(0.01, 0.99, 20_001, dtype=DOUBLE)  # where neither end is clamped
    log_snr = schedule.log_snr(t)
    factor = prediction_scale(prediction, schedule, t)  # an error of eps is one of sigma / alpha in x0
    found = level_weight("sigmoid", prediction, schedule, t) * (-0.5 * log_snr).exp().square() / factor.square()
    exact = torch.nn.functional.softplus(2.0 - log_snr)  # whose slope is -sigmoid(2 - log_snr)
    assert float(torch.trapezoid(found, t)) == pytest.approx(float(exact[-1] - exact[0]), rel=2e-3)


def test_edm_s_own_prediction_has_weight_one() -> None:
    factor = prediction_scale("edm", VE(), T)
    torch.testing.assert_close(WEIGHTINGS["edm"](VE().log_snr(T), factor), torch.ones_like(T), rtol=1e-9, atol=0)


def test_the_simple_loss_is_the_bound_reweighted() -> None:
    """Of eps: L_t is half the fall of SNR on x0's error, so L_simple is L_t times 2 snr / (snr_s - snr_t)."""
    schedule, s = Cosine(), T - 0.01
    snr, before = schedule.log_snr(T).exp(), schedule.log_snr(s).exp()
    simple = on_x0("simple", "eps", "cosine")
    torch.testing.assert_close(simple, 0.5 * (before - snr) * (2 * snr / (before - snr)), rtol=1e-9, atol=0)


def test_uncertainty_learns_the_logarithm_of_the_error() -> None:
    """Errors that rise with log-SNR as exp(0.3 log_snr), and with the frames to the nearest known one: u is of both."""
    torch.manual_seed(0)
    clock = torch.linspace(-6, 4, 200).view(-1, 1, 1, 1, 1).repeat(1, 1, 4, 1, 1)
    clock[1::2, :, 0] = 12.0  # known
    far = torch.stack([torch.full((4,), 6.0), torch.tensor([6.0, 0.0, 1.0, math.log2(3.0)])]).repeat(100, 1)
    wanted = 0.3 * clock + 0.5 * far.view(-1, 1, 4, 1, 1)
    network, learned = Uncertainty(), clock < 5.0
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(600):
        u = network(clock)
        loss = ((wanted - u).exp() + u)[learned].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    off = (network(clock) - wanted)[20:-20][learned[20:-20]]
    assert off.abs().max() < 0.3 and off.square().mean().sqrt() < 0.1


def test_uncertainty_is_not_rounded_under_autocast() -> None:
    learned = Uncertainty()
    torch.nn.init.normal_(learned.weight)
    clock = torch.randn(2, 1, 4, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = learned(clock)
    assert found.dtype == torch.float32 and torch.equal(found, learned(clock))


def test_the_nearest_known_frame_is_another_one() -> None:
    clock = torch.zeros(2, 1, 5, 1, 2)
    clock[0, :, 1, :, 0] = clock[0, :, 4, :, 0] = 9.0
    clock[1, :, 2] = 9.0
    found = distance_to_known(clock)[:, 0, :, 0]
    assert found[0, :, 0].tolist() == [1.0, 3.0, 1.0, 1.0, 3.0]
    assert found[1, :, 0].tolist() == found[1, :, 1].tolist() == [2.0, 1.0, math.inf, 1.0, 2.0]
    assert found[0, :, 1].tolist() == [math.inf] * 5


@pytest.mark.parametrize("name", TIMES)
def test_times_lie_in_the_unit_interval_and_have_their_distribution(name: str) -> None:
    schedule = Cosine()
    t = TIMES[name](40_000, torch.device("cpu"), schedule).double()
    assert t.shape == (40_000,) and t.min() >= 0 and t.max() <= 1
    normal = torch.distributions.Normal(0.0, 1.0)
    u = {
        "logit_normal": lambda: normal.cdf(torch.logit(t)),
        # the paper's sigma is that of data of std 0.5: sigma / 0.5 here
        "log_normal": lambda: normal.cdf((torch.log(0.5 * (-0.5 * schedule.log_snr(t)).exp()) + 1.2) / 1.2),
    }.get(name, lambda: t)()
    place = (torch.arange(40_000) + 0.5) / 40_000
    distance = float((u.sort().values - place).abs().max())  # Kolmogorov and Smirnov's
    assert distance < (2 / 40_000 if name == "stratified" else 1.63 / 200)


def test_stratified_times_lie_one_in_each_part() -> None:
    t = TIMES["stratified"](64, torch.device("cpu"), Cosine())
    assert (t * 64).long().sort().values.tolist() == list(range(64))


def test_surprise_is_the_likelihood_of_a_t_distribution_but_for_a_constant() -> None:
    error, spread = torch.randn(200, dtype=DOUBLE) * 3, torch.randn(200, dtype=DOUBLE)
    exact = -torch.distributions.StudentT(TAILS, 0.0, (0.5 * spread).exp()).log_prob(error)
    rest = exact - surprise(error, spread)
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))


def test_outliers_do_not_decide_how_far_off_a_prediction_is_said_to_be() -> None:
    """As cuts in a film: one frame of a hundred that is another picture, fifty times as far off as the rest."""
    generator = torch.Generator().manual_seed(0)
    error = 0.1 * torch.randn(10_000, generator=generator, dtype=DOUBLE)
    error[::100] *= 50
    scales = torch.linspace(-8, 2, 401, dtype=DOUBLE)
    best = scales[torch.stack([surprise(error, scale).mean() for scale in scales]).argmin()]
    assert float((0.5 * best).exp()) == pytest.approx(0.08, rel=0.15)  # of what are not normal tails, a part of 0.1
    assert float(error.square().mean().sqrt()) > 0.4  # by squares alone
