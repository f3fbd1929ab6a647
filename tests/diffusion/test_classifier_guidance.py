from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.classifier_guidance import ClassifierGuidance, Reconstruction
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.likelihood import log_likelihood
from vidiff.diffusion.schedule import SCHEDULES, Cosine, Schedule, build_schedule
from vidiff.sample import SAMPLERS, build_sampler

DOUBLE = torch.float64
CLOCKS = {
    "common": torch.tensor(0.6, dtype=DOUBLE),
    "one a sample": torch.linspace(0.1, 0.9, 6, dtype=DOUBLE),
    "one a frame": torch.tensor([0.2, 0.5, 0.8], dtype=DOUBLE).view(1, 1, 3, 1, 1),
    "known frame": torch.tensor([0.0, 0.5, 0.8], dtype=DOUBLE).view(1, 1, 3, 1, 1),
}


def mixture() -> Mixture:
    means = torch.tensor([[-1.0, 0.5, 0.2], [1.5, 0.0, -0.7]], dtype=DOUBLE).view(2, 1, 3, 1, 1)
    return Mixture(means, torch.tensor([0.4, 0.7], dtype=DOUBLE), torch.tensor([0.3, 0.7], dtype=DOUBLE))


class ExactClassifier(nn.Module):
    """`log p(label, x_t)`, whose softmax over labels is the true posterior."""

    def __init__(self, data: Mixture, schedule: Schedule) -> None:
        super().__init__()
        self.data, self.schedule = data, schedule

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        alpha, sigma = self.schedule.scales(log_snr)
        x_t, labels = x * (alpha**2 + sigma**2).sqrt(), range(len(self.data.stds))
        each = [x.new_full((len(x),), label, dtype=torch.long) for label in labels]
        return torch.stack([self.data.log_prob(x_t, alpha, sigma, label) for label in each], 1)


def exact(name: str = "cosine") -> tuple[Denoiser, ExactClassifier]:
    data, schedule = mixture(), build_schedule(name)
    return Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v"), ExactClassifier(data, schedule)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_true_classifier_makes_the_unconditional_denoiser_conditional(name: str, clock: str) -> None:
    denoiser, classifier = exact(name)
    x, t, label = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), CLOCKS[clock], torch.tensor([0, 1, 0, 1, -1, 1])
    with torch.no_grad():
        guided = ClassifierGuidance(denoiser, classifier, label)(x, t, Condition()).x0
        wanted = denoiser(x, t, Condition(label=label)).x0
    assert not guided.requires_grad
    torch.testing.assert_close(guided, wanted, rtol=1e-8, atol=1e-8)


def test_log_probabilities_do_as_logits_and_one_label_for_all() -> None:
    denoiser, classifier = exact()
    x, label = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), torch.ones(6, dtype=torch.long)
    sure = ClassifierGuidance(denoiser, lambda *given: classifier(*given).log_softmax(1), 1, 2.5)(x, 0.6, Condition())
    other = ClassifierGuidance(denoiser, classifier, label, 2.5)(x, 0.6, Condition())
    torch.testing.assert_close(sure.x0, other.x0, rtol=1e-12, atol=1e-12)


def test_verdicts_on_each_frame_add_up() -> None:
    """Where each verdict reads its own frame alone, each frame is guided by its own."""
    denoiser, _ = exact()
    x, label = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), torch.tensor([0, 1, 0, 1, -1, 1])

    def by_frame(x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return torch.stack([x, (x - 1.0) ** 2], -1)[:, 0, :, 0, 0]  # b f 2

    found = ClassifierGuidance(denoiser, by_frame, label, 1.5)(x, CLOCKS["one a frame"], Condition()).x0
    each = [
        ClassifierGuidance(denoiser, lambda *given, i=i: by_frame(*given)[:, i], label, 1.5)(
            x, CLOCKS["one a frame"], Condition()
        ).x0[:, :, i]
        for i in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(each, 2), rtol=1e-12, atol=1e-12)


def test_the_scale_is_the_power_of_the_posterior() -> None:
    """As in classifier-free guidance, whose score is that of `p(x) p(label given x)^scale`."""
    denoiser, classifier = exact()
    x, label = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), torch.arange(6) % 2
    found = ClassifierGuidance(denoiser, classifier, label, 2.5)(x, CLOCKS["one a frame"], Condition()).x0
    wanted = ClassifierFree(denoiser, 2.5)(x, CLOCKS["one a frame"], Condition(label=label)).x0
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_scale_0_is_the_plain_denoiser_bit_for_bit() -> None:
    denoiser, classifier = exact()
    x = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE)
    plain = denoiser(x, 0.6, Condition()).x0
    assert torch.equal(ClassifierGuidance(denoiser, classifier, 1, 0.0)(x, 0.6, Condition()).x0, plain)
    assert torch.equal(Reconstruction(denoiser, x, first_frames(3, 1), 0.0)(x, 0.6, Condition()).x0, plain)
    unlabelled = ClassifierGuidance(denoiser, classifier, -1, 2.0)(x, 0.6, Condition()).x0
    assert torch.equal(unlabelled, plain)


def test_outside_its_interval_the_model_is_plain() -> None:
    denoiser, classifier = exact()
    x, clock = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), CLOCKS["one a frame"]
    guided = ClassifierGuidance(denoiser, classifier, 1, 2.0, interval=(0.4, 0.8))
    plain = denoiser(x, clock, Condition()).x0
    always = ClassifierGuidance(denoiser, classifier, 1, 2.0)(x, clock, Condition()).x0
    found = guided(x, clock, Condition()).x0
    assert torch.equal(found[:, :, 1:], always[:, :, 1:]) and torch.equal(found[:, :, :1], plain[:, :, :1])
    assert not torch.isclose(always, plain).any()
    calls = []
    guided = ClassifierGuidance(denoiser, lambda *given: calls.append(1), 1, 2.0, interval=(0.4, 0.8))
    assert torch.equal(guided(x, 0.3, Condition()).x0, denoiser(x, 0.3, Condition()).x0) and not calls


def test_the_classifier_runs_in_full_precision_under_autocast() -> None:
    denoiser, _ = exact()
    seen = []

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            seen.append(self.layer(x.flatten(1)))
            return seen[-1]

    x = torch.randn(2, 1, 3, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        ClassifierGuidance(denoiser, Half(), 1)(x, 0.5, Condition())
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_class(sampler: str) -> None:
    """Along a clock that rises with the frames, around a known one."""
    denoiser, classifier = exact()
    x, label = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), torch.arange(6) % 2
    column = time_grid(Cosine(), 8, ends=(-6.0, 6.0), dtype=DOUBLE)
    times = torch.stack([column.clamp(max=float(column[k])) for k in (2, 1, 0)], dim=1)  # n + 1, f
    drawn = []
    for guided, condition in (
        (ClassifierGuidance(denoiser, classifier, label), Condition()),
        (denoiser, Condition(label=label)),
    ):
        whole = Known(guided, torch.ones(6, 1, 3, 1, 1, dtype=DOUBLE), first_frames(3, 1))
        drawn.append(build_sampler(sampler)(whole, x, condition, times, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*drawn, rtol=1e-6, atol=1e-6)


def test_likelihood_goes_through_classifier_guidance() -> None:
    """It differentiates the estimate, and so the classifier twice."""
    denoiser, classifier = exact()
    x0, label = mixture().sample(2, torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    times = time_grid(Cosine(), 6, ends=(-6.0, 6.0), dtype=DOUBLE)
    guided = ClassifierGuidance(denoiser, classifier, label)
    found = log_likelihood(guided, x0, Condition(), times, trace="exact")
    wanted = log_likelihood(denoiser, x0, Condition(label=label), times, trace="exact")
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


class Gaussian:
    """The exact denoiser of two frames of one value each: `N(mean, covariance)`, with a clock for each."""

    mean = torch.tensor([0.3, -0.8], dtype=DOUBLE)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=DOUBLE)

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def parts(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(b, 2, 2)`: the gain, the covariance of the data given `x_t`, and alpha as a diagonal."""
        alpha, sigma = (torch.diag_embed(part[:, 0, :, 0, 0]) for part in self.schedule(t))
        gain = self.covariance @ alpha @ torch.linalg.inv(alpha @ self.covariance @ alpha + sigma**2)
        return gain, self.covariance - gain @ alpha @ self.covariance, alpha

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        gain, _, alpha = self.parts(t.expand(len(x_t), 1, 2, 1, 1))
        off = x_t.flatten(1) - (alpha @ self.mean)  # b 2
        x0 = self.mean + (gain @ off[..., None])[..., 0]
        return Estimate(x0.view_as(x_t), x_t.sigmoid())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("times", [(0.6, 0.6), (0.3, 0.8), (0.9, 0.2)], ids=str)
def test_reconstruction_at_the_right_scale_is_the_mean_given_the_known_frame(
    name: str, times: tuple[float, float]
) -> None:
    schedule = build_schedule(name)
    denoiser, t = Gaussian(schedule), torch.tensor(times, dtype=DOUBLE).view(1, 1, 2, 1, 1)
    x, frames = torch.randn(5, 1, 2, 1, 1, dtype=DOUBLE), torch.randn(5, 1, 2, 1, 1, dtype=DOUBLE)
    with torch.no_grad():
        alpha, sigma = (part.flatten() for part in schedule(t))
        scale = float((sigma[0] / alpha[0]) ** 2 / denoiser.parts(t)[1][0, 0, 0])
        found = Reconstruction(denoiser, frames, first_frames(2, 1), scale)(x, t, Condition())
        known, noisy = frames.flatten(1)[:, 0], x.flatten(1)[:, 1]
        mean = denoiser.mean[1] + 0.6 * (known - denoiser.mean[0])  # of the second frame given the first
        variance = 0.8 - 0.6**2
        gain = alpha[1] * variance / (alpha[1] ** 2 * variance + sigma[1] ** 2)
        wanted = torch.stack([known, mean + gain * (noisy - alpha[1] * mean)], 1)
    assert not found.x0.requires_grad and not found.variance.requires_grad
    torch.testing.assert_close(found.x0.flatten(1), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_reconstruction_is_the_paper_s_formula(name: str) -> None:
    """`x0 - scale alpha / 2 grad ||frames - x0||^2` for one clock, on a mixture (Ho et al. 2022, eq. 7)."""
    denoiser, _ = exact(name)
    x, frames = torch.randn(5, 1, 3, 1, 1, dtype=DOUBLE), torch.randn(5, 1, 3, 1, 1, dtype=DOUBLE)
    found = Reconstruction(denoiser, frames, first_frames(3, 2), 1.7)(x, 0.6, Condition()).x0
    x.requires_grad_()
    x0 = denoiser(x, 0.6, Condition()).x0
    (gradient,) = torch.autograd.grad(((frames - x0)[:, :, :2] ** 2).sum(), x)
    alpha, _ = denoiser.schedule(torch.tensor(0.6, dtype=DOUBLE))
    torch.testing.assert_close(found, x0 - 1.7 * alpha / 2 * gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reconstruction_within_known_returns_the_frames(sampler: str) -> None:
    denoiser, _ = exact()
    x, frames = torch.randn(2, 6, 1, 3, 1, 1, dtype=DOUBLE)
    mask, generator = first_frames(3, 1), torch.Generator().manual_seed(0)
    guided = Reconstruction(ClassifierFree(denoiser, 1.5), frames, mask)
    whole = Known(guided, frames, mask, replace=True, generator=generator)
    condition, times = Condition(label=torch.arange(6) % 2), time_grid(Cosine(), 6, ends=(-6.0, 6.0), dtype=DOUBLE)
    x0 = build_sampler(sampler)(whole, x, condition, times, generator)
    assert torch.equal(x0[:, :, :1], frames[:, :, :1]) and x0.isfinite().all()


def test_bad_input_is_named() -> None:
    denoiser, classifier = exact()
    x, mask = torch.randn(6, 1, 3, 1, 1, dtype=DOUBLE), first_frames(3, 1)
    for label in (-2, 0.5, True):
        with pytest.raises(ValueError, match=f"label = {label} must be whole numbers of at least -1"):
            ClassifierGuidance(denoiser, classifier, label)
    with pytest.raises(ValueError, match=r"interval = \(0\.8, 1\.2\) must satisfy"):
        ClassifierGuidance(denoiser, classifier, 1, interval=(0.8, 1.2))
    with pytest.raises(ValueError, match=r"label 2 is outside the classifier's 0\.\.1"):
        ClassifierGuidance(denoiser, classifier, 2)(x, 0.5, Condition())
    with pytest.raises(ValueError, match="5 labels do not match 6 samples; classifier-free guidance goes inside"):
        ClassifierGuidance(denoiser, classifier, torch.zeros(5, dtype=torch.long))(x, 0.5, Condition())
    with pytest.raises(ValueError, match="needs the gradient of what it calls, which has none"):
        ClassifierGuidance(denoiser, torch.no_grad()(classifier.forward), 1)(x, 0.5, Condition())
    with pytest.raises(ValueError, match="mask must be bool"):
        Reconstruction(denoiser, x, mask.float())
    with pytest.raises(ValueError, match=r"does not match known frames \(6, 1, 3, 1, 1\); classifier-free guidance"):
        Reconstruction(denoiser, x, mask)(x[:2], 0.5, Condition())
