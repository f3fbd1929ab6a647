from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.schedule import Cosine

DOUBLE = torch.float64


class Counting(nn.Module):
    """Counts the calls of a network and keeps its last input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        self.x, self.log_snr, self.condition = x, log_snr, condition
        return self.network(x, log_snr, condition)


def exact(frames: int = 1) -> Denoiser:
    means = torch.tensor([-1.0, 2.0], dtype=DOUBLE).view(2, 1, 1, 1, 1).expand(2, 1, frames, 1, 1)
    data = Mixture(means, torch.tensor([0.3, 0.6], dtype=DOUBLE))
    return Denoiser(Counting(ExactNetwork(data, Cosine(), "v")), Cosine(), "v")


def inputs(count: int = 6, frames: int = 1) -> tuple[Tensor, Tensor, Condition]:
    x = torch.randn(count, 1, frames, 1, 1, dtype=DOUBLE)
    return x, torch.linspace(0.1, 0.9, count, dtype=DOUBLE), Condition(label=torch.arange(count) % 2)


@pytest.mark.parametrize(("convention", "scale"), [("cfg", 1.0), ("ho", 0.0)])
def test_the_neutral_scale_is_the_plain_model_bit_for_bit_in_one_call(convention: str, scale: float) -> None:
    denoiser, (x, t, condition) = exact(), inputs()
    plain = denoiser(x, t, condition).x0
    assert torch.equal(ClassifierFree(denoiser, scale, convention)(x, t, condition).x0, plain)
    assert denoiser.network.calls == 2 and len(denoiser.network.x) == 6


def test_it_extrapolates_from_the_null_branch_in_one_call() -> None:
    denoiser, (x, t, condition) = exact(), inputs()
    plain, null = denoiser(x, t, condition).x0, denoiser(x, t, condition.null()).x0
    guided = ClassifierFree(denoiser, 3.0)(x, t, condition).x0
    assert denoiser.network.calls == 3 and len(denoiser.network.x) == 12
    torch.testing.assert_close(guided, 3 * plain - 2 * null, rtol=1e-12, atol=1e-12)
    other = ClassifierFree(denoiser, 2.0, "ho")(x, t, condition).x0
    assert torch.equal(other, guided)
    assert torch.equal(ClassifierFree(denoiser, 0.0)(x, t, condition).x0, null)


def test_guided_score_is_that_of_the_sharpened_class() -> None:
    """The guided score is grad of log p(x) + w log p(y | x), Ho & Salimans 2022, section 3."""
    denoiser, (x, t, condition) = exact(), inputs()
    data = denoiser.network.network.data
    alpha, sigma = Cosine()(t.view(-1, 1, 1, 1, 1))
    x = x.requires_grad_()
    joint = 2.5 * data.log_prob(x, alpha, sigma, condition.label) - 1.5 * data.log_prob(x, alpha, sigma)
    (score,) = torch.autograd.grad(joint.sum(), x)
    guided = ClassifierFree(denoiser, 2.5)(x, t, condition).x0
    torch.testing.assert_close((alpha * guided - x) / sigma**2, score, rtol=1e-8, atol=1e-8)


def test_outside_its_interval_the_model_is_plain() -> None:
    denoiser, (x, t, condition) = exact(), inputs()
    guided = ClassifierFree(denoiser, 3.0, interval=(0.2, 0.6))
    plain, always = denoiser(x, t, condition).x0, ClassifierFree(denoiser, 3.0)(x, t, condition).x0
    inside = ((t >= 0.2) & (t <= 0.6)).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(guided(x, t, condition).x0, torch.where(inside, always, plain))
    denoiser.network.calls = 0
    assert torch.equal(guided(x, 0.7, condition).x0, denoiser(x, 0.7, condition).x0)
    assert len(denoiser.network.x) == 6


def test_the_null_branch_forgets_history() -> None:
    denoiser, (x, _, condition) = exact(frames=4), inputs(frames=4)
    frames, mask = torch.randn(6, 1, 4, 1, 1, dtype=DOUBLE), first_frames(4, 2)
    generator = torch.Generator().manual_seed(0)
    guided = ClassifierFree(denoiser, 2.0, history=mask, generator=generator)
    x0 = Known(guided, frames, mask)(x, 0.6, condition).x0
    assert torch.equal(x0[:, :, :2], frames[:, :, :2])
    spy = denoiser.network
    clean, noisy, at = Cosine().log_snr(torch.tensor([0.0, 1.0, 0.6], dtype=DOUBLE)).tolist()
    assert spy.log_snr[:6, 0, :, 0, 0].tolist() == [[clean, clean, at, at]] * 6
    assert spy.log_snr[6:, 0, :, 0, 0].tolist() == [[noisy, noisy, at, at]] * 6
    torch.testing.assert_close(spy.x[:6, :, :2], frames[:, :, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(spy.x[6:, :, :2], guided.noise[:, :, :2], rtol=1e-6, atol=0)  # nothing of the frames
    assert torch.equal(spy.x[6:, :, 2:], spy.x[:6, :, 2:])
    assert spy.condition.label[6:].eq(-1).all()


def test_the_learned_variance_is_the_conditional_branch_s() -> None:
    class Two:
        schedule = Cosine()

        def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
            return Estimate(x_t, condition.label.view(-1, 1, 1, 1, 1) * torch.ones_like(x_t))

    x, t, _ = inputs()
    variance = ClassifierFree(Two(), 2.0)(x, t, Condition(label=torch.full((6,), 4))).variance
    assert variance.shape == x.shape and (variance == 4).all()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown guidance convention 'w'; choose one of cfg, ho"):
        ClassifierFree(exact(), 2.0, "w")
    with pytest.raises(ValueError, match=r"interval = \(0\.6, 0\.2\)"):
        ClassifierFree(exact(), 2.0, interval=(0.6, 0.2))
