from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import PREDICTIONS, Denoiser, eps_from, target, x0_from
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.process import add_noise
from vidiff.diffusion.schedule import SCHEDULES, Cosine, Flow, Schedule, build_schedule

DOUBLE = torch.float64


class Spy(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.seen = x, log_snr, condition
        return torch.linspace(-3, 3, self.channels, dtype=x.dtype).view(1, -1, 1, 1, 1).expand(len(x), -1, *x.shape[2:])


class Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.value


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_prediction_reads_its_target_back(name: str, prediction: str) -> None:
    schedule = build_schedule(name)
    x0, eps = torch.randn(2, 101, 1, 1, 1, 1, dtype=DOUBLE).unbind(0)
    t = torch.linspace(0, 1, 101, dtype=DOUBLE)
    x_t = add_noise(schedule, x0, eps, t)
    read = x0_from(prediction, schedule, target(prediction, schedule, x0, eps, t), x_t, t)
    torch.testing.assert_close(read, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(eps_from(schedule, read, x_t, t)[2:], eps[2:], rtol=0, atol=1e-8)


def test_edm_is_karras_preconditioning() -> None:
    """On VE with sigma_data = 1: D = c_skip x + c_out F, Karras et al. 2022, table 1."""
    schedule = build_schedule("ve")
    t = torch.linspace(0.01, 0.99, 50, dtype=DOUBLE)
    _, sigma = (part.view(-1, 1) for part in schedule(t))
    x, output = torch.randn(2, 50, 1, dtype=DOUBLE)
    expected = x / (sigma**2 + 1) + sigma / (sigma**2 + 1).sqrt() * output
    torch.testing.assert_close(x0_from("edm", schedule, output, x, t), expected, rtol=1e-9, atol=1e-12)


def test_edm_is_the_general_formula_of_the_two_coefficients() -> None:
    alpha, sigma = Flow()(torch.linspace(0.01, 0.99, 50, dtype=DOUBLE))
    a, b = PREDICTIONS["edm"](alpha, sigma)
    c_skip = alpha / (alpha**2 + sigma**2)
    c_out = sigma / (alpha**2 + sigma**2).sqrt()
    torch.testing.assert_close(a, (1 - c_skip * alpha) / c_out, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b, -c_skip * sigma / c_out, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_denoiser_of_gaussian_data_is_the_posterior_mean(name: str, prediction: str) -> None:
    schedule = build_schedule(name)
    data = Mixture(torch.full((1, 2, 1, 1, 1), 0.7, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, schedule, prediction), schedule, prediction)
    x, t = torch.randn(40, 2, 1, 1, 1, dtype=DOUBLE), torch.linspace(0.02, 0.98, 40, dtype=DOUBLE)
    alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in schedule(t))
    expected = 0.7 + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - 0.7 * alpha)
    torch.testing.assert_close(denoiser(x, t, Condition()).x0, expected, rtol=1e-8, atol=1e-8)


def test_the_network_sees_unit_variance_and_the_clock_of_every_voxel() -> None:
    spy = Spy()
    denoiser = Denoiser(spy, build_schedule("ve"), "edm")
    clock = torch.rand(2, 1, 4, 1, 1)
    _, sigma = denoiser.schedule(clock)
    noisy = torch.randn(2, 3, 4, 8, 8) * (1 + sigma**2).sqrt()
    denoiser(noisy, clock, Condition())
    x, log_snr, _ = spy.seen
    torch.testing.assert_close(x, noisy / (1 + sigma**2).sqrt())
    assert log_snr.shape == (2, 1, 4, 8, 8)
    assert torch.equal(log_snr[..., 3, 5], denoiser.schedule.log_snr(clock)[..., 0, 0])


def test_training_and_sampling_share_one_path() -> None:
    spy = Spy()
    denoiser = Denoiser(spy, Cosine(), "v")
    x_t = torch.randn(2, 3, 2, 4, 4)
    output, variance, _ = denoiser.output(x_t, 0.4, Condition())
    assert variance is None
    assert torch.equal(denoiser(x_t, 0.4, Condition()).x0, x0_from("v", Cosine(), output, x_t, 0.4))


def test_the_variance_head_becomes_a_place_that_its_gradient_can_bring_back() -> None:
    """Nichol & Dhariwal 2021, equation 15, which bounds v nowhere: also beyond [0, 1] the gradient is not 0."""
    head = torch.full((1, 6, 1, 1, 1), 2.0, requires_grad=True)
    far = Denoiser(Constant(head), Cosine(), "eps", variance=True)
    place = far.output(torch.zeros(1, 3, 1, 1, 1), 0.5, Condition()).variance
    place.sum().backward()
    assert place.flatten().tolist() == [1.5] * 3 and head.grad[:, 3:].flatten().tolist() == [0.5] * 3
    denoiser = Denoiser(Spy(channels=6), Cosine(), "eps", variance=True)
    x_t = torch.randn(2, 3, 2, 4, 4)
    output, variance, _ = denoiser.output(x_t, 0.5, Condition())
    assert output[0, :, 0, 0, 0].tolist() == pytest.approx([-3, -1.8, -0.6])
    assert variance[0, :, 0, 0, 0].tolist() == pytest.approx([0.8, 1.4, 2.0])  # (head + 1) / 2
    assert torch.equal(denoiser(x_t, 0.5, Condition()).variance, variance)


@dataclass(frozen=True, kw_only=True)
class Unclamped(Schedule):
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t


@pytest.mark.parametrize(("prediction", "time"), [("eps", "1"), ("score", "0"), ("x0", "0")])
def test_a_singular_prediction_is_refused_with_the_regular_ones(prediction: str, time: str) -> None:
    with pytest.raises(ValueError, match=f"'{prediction}' is singular on .* at t = {time}; choose one of v, flow, edm"):
        Denoiser(Spy(), Unclamped(), prediction)


def test_an_unknown_prediction_is_refused_with_the_choices() -> None:
    choices = "choose one of edm, eps, flow, score, v, x0"
    with pytest.raises(ValueError, match=f"unknown prediction 'noise'; {choices}"):
        Denoiser(Spy(), Cosine(), "noise")
    with pytest.raises(ValueError, match=choices):
        target("noise", Cosine(), torch.zeros(1, 1), torch.zeros(1, 1), 0.5)
