from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.likelihood import bits_per_dimension, bound, log_likelihood, surprise
from vidiff.diffusion.schedule import SCHEDULES, Cosine, build_schedule

DOUBLE = torch.float64
ENDS = (-12.0, 12.0)


def mixture(frames: int = 3, share: tuple[float, float] = (0.3, 0.7)) -> Mixture:
    """Two kinds of clip, which differ more from frame to frame."""
    rise = torch.linspace(0.2, 1.0, frames, dtype=DOUBLE).view(1, 1, -1, 1, 1)
    side = torch.tensor([-1.0, 1.0], dtype=DOUBLE).view(2, 1, 1, 1, 1)
    return Mixture(side * rise, torch.tensor([0.4, 0.6], dtype=DOUBLE), torch.tensor(share, dtype=DOUBLE))


def gaussian(frames: int = 2) -> Mixture:
    return Mixture(torch.full((1, 1, frames, 1, 1), 0.3, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))


def exact(data: Mixture, name: str = "cosine") -> Denoiser:
    schedule = build_schedule(name)
    return Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v")


def true_bits(data: Mixture, x0: Tensor) -> Tensor:
    one = torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE)
    return -data.log_prob(x0, one, 0 * one) / (x0[0].numel() * math.log(2))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_s_likelihood_is_the_true_one(name: str) -> None:
    data = mixture(share=(0.5, 0.5))  # of mean 0, as the noise that linear and VE do not quite reach at t = 1
    x0 = data.sample(8, torch.Generator().manual_seed(0))
    times = time_grid(build_schedule(name), 30, ends=ENDS, dtype=DOUBLE)
    found = bits_per_dimension(log_likelihood(exact(data, name), x0, Condition(), times, trace="exact"), 1)
    torch.testing.assert_close(found, true_bits(data, x0), rtol=0, atol=1e-3)


def test_hutchinson_s_trace_is_exact_in_the_mean_and_where_frames_are_independent() -> None:
    data, times = gaussian(), time_grid(Cosine(), 40, ends=ENDS, dtype=DOUBLE)
    x0 = data.sample(4, torch.Generator().manual_seed(0))
    found = log_likelihood(exact(data), x0, Condition(), times)  # a diagonal Jacobian: any signs give its trace
    each = -0.5 * ((x0 - 0.3) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found, each[:, 0, :, 0, 0], rtol=0, atol=2e-3)  # the parts of frames
    data = mixture()
    x0 = data.sample(1, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    found = log_likelihood(exact(data), x0.expand(64, -1, -1, -1, -1), Condition(), times, generator=generator)
    wanted = log_likelihood(exact(data), x0, Condition(), times, trace="exact")
    assert float(found.sum(1).std()) > 0.01
    assert float(found.sum(1).mean()) == pytest.approx(float(wanted.sum()), abs=3 * float(found.sum(1).std()) / 8)


def test_given_known_frames_it_is_the_conditional_likelihood() -> None:
    data, times = mixture(), time_grid(Cosine(), 60, ends=ENDS, dtype=DOUBLE)
    x0 = data.sample(6, torch.Generator().manual_seed(0))
    mask = first_frames(3, 1)
    found = log_likelihood(Known(exact(data), x0, mask), x0, Condition(), times, trace="exact")[:, 1:].sum(1)
    one = torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE)
    first = Mixture(data.means[:, :, :1], data.stds, data.weights)
    expected = data.log_prob(x0, one, 0 * one) - first.log_prob(x0[:, :, :1], one, 0 * one)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [5, 20])
def test_the_bound_is_never_below_the_truth(steps: int, variance: str) -> None:
    data = mixture()
    x0 = data.sample(8_000, torch.Generator().manual_seed(0))
    times = time_grid(Cosine(), steps, ends=ENDS, dtype=DOUBLE)
    terms = bound(exact(data), x0, Condition(), times, variance=variance, generator=torch.Generator().manual_seed(1))
    above = terms.bits - true_bits(data, x0)
    assert float(above.mean()) > 2 * float(above.std()) / math.sqrt(len(x0))


def test_the_bound_of_a_gaussian_model_falls_to_its_entropy() -> None:
    """Of N(0.3, 0.25), in bits. The excess halves with twice the steps, so what it tends to is the entropy."""
    data, entropy = gaussian(), 0.5 * math.log2(2 * math.pi * math.e * 0.25)
    x0 = data.sample(20_000, torch.Generator().manual_seed(0))
    excess = []
    for steps in (240, 480):
        times = time_grid(Cosine(), steps, ends=ENDS, dtype=DOUBLE)
        terms = bound(exact(data), x0, Condition(), times, generator=torch.Generator().manual_seed(1))
        excess.append(float(terms.bits.mean()) - entropy)
    assert 1.8 < excess[0] / excess[1] < 2.2
    assert 2 * excess[1] - excess[0] == pytest.approx(0, abs=0.06)


def test_with_the_right_variance_the_bound_is_the_entropy_in_any_number_of_steps() -> None:
    """For data of unit variance the reverse step has exactly the transition's variance."""
    data = Mixture(torch.zeros(1, 1, 2, 1, 1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE))
    x0, generator = data.sample(10_000, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    times = time_grid(Cosine(), 10, ends=ENDS, dtype=DOUBLE)
    bits = bound(exact(data), x0, Condition(), times, variance="large", generator=generator).bits
    error = 3 * float(bits.std()) / 100  # three standard errors
    assert error < 0.06
    assert float(bits.mean()) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=error)


def test_the_terms_are_their_closed_forms() -> None:
    """L_t is the squared error of x0, weighted by half the change of SNR (Kingma et al. 2021, equation 13)."""
    schedule = Cosine()
    x0 = torch.full((1, 1, 2, 1, 1), 0.8, dtype=DOUBLE)
    times = torch.tensor([0.9, 0.5, 0.1], dtype=DOUBLE)

    class Constant:
        schedule = Cosine()

        def __call__(self, x_t, t, condition):
            return type("", (), {"x0": torch.full_like(x_t, 0.3), "variance": None})

    terms = bound(Constant(), x0, Condition(), times)
    snr = schedule.log_snr(times).exp()
    assert terms.steps.shape == (2, 1, 2) and terms.size == 1
    torch.testing.assert_close(terms.steps[:, 0, 0], 0.5 * (snr[1:] - snr[:-1]) * 0.25, rtol=1e-9, atol=0)
    assert float(terms.prior[0, 0]) == pytest.approx(0.5 * float(snr[0]) * 0.64)
    density = torch.distributions.Normal(0.3, snr[2] ** -0.5).log_prob(torch.tensor(0.8))
    assert float(terms.reconstruction[0, 1]) == pytest.approx(-float(density))
    torch.testing.assert_close(terms.bits, terms.total.sum(1) / 2 / math.log(2))


def test_over_bins_the_reconstruction_is_a_probability() -> None:
    """Summed over all 8-bit values of a pixel, the probabilities are 1."""
    times = torch.tensor([0.5, 0.02], dtype=DOUBLE)
    values = torch.linspace(-1, 1, 256, dtype=DOUBLE).view(-1, 1, 1, 1, 1)

    class Fixed:
        schedule = Cosine()

        def __call__(self, x_t, t, condition):
            return type("", (), {"x0": torch.full_like(x_t, 0.95), "variance": None})

    terms = bound(Fixed(), values, Condition(), times, bins=256)
    assert float((-terms.reconstruction).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_surprise_is_high_where_a_frame_is_unlike_and_goes_window_by_window() -> None:
    data = gaussian(4)  # frames are independent here, so that windows do not matter
    x0 = torch.full((1, 1, 9, 1, 1), 0.3, dtype=DOUBLE)
    x0[:, :, 6] = 2.3  # four standard deviations off
    times = time_grid(Cosine(), 30, ends=ENDS, dtype=DOUBLE)
    found = surprise(exact(data), x0, Condition(), times, window=4, context=2)
    each = 0.5 * ((x0 - 0.3) / 0.5) ** 2 + math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found, each[:, 0, :, 0, 0] / math.log(2), rtol=0, atol=5e-3)
    assert int(found.argmax()) == 6
    with pytest.raises(ValueError, match="context is 4; give 1 to 3"):
        surprise(exact(data), x0, Condition(), times, window=4, context=4)


def test_bad_input_is_named() -> None:
    x0, denoiser = torch.zeros(1, 1, 2, 1, 1, dtype=DOUBLE), exact(gaussian())
    falling = torch.tensor([0.9, 0.1])
    for times in (falling.flip(0), torch.tensor([1.5, 0.1]), torch.tensor(0.5)):
        with pytest.raises(ValueError, match=r"times must be \(n \+ 1,\) and fall within \[0, 1\]"):
            bound(denoiser, x0, Condition(), times)
    with pytest.raises(ValueError, match="unknown variance 'middle'; choose one of large, learned, small"):
        bound(denoiser, x0, Condition(), falling, variance="middle")
    with pytest.raises(ValueError, match="unknown trace 'full'; choose one of exact, hutchinson"):
        log_likelihood(denoiser, x0, Condition(), falling, trace="full")
    with pytest.raises(ValueError, match="probes = 0"):
        log_likelihood(denoiser, x0, Condition(), falling, probes=0)
