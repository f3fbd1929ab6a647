from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.guidance import ClassifierFree, Projected, Threshold, forget
from vidiff.diffusion.known import Known, first_frames, some_frames
from vidiff.diffusion.process import transition
from vidiff.diffusion.schedule import Cosine
from vidiff.sample import SAMPLERS, build_sampler

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


def test_neutral_settings_are_plain_guidance_bit_for_bit() -> None:
    denoiser, (x, t, condition) = exact(frames=4), inputs(frames=4)
    for options in ({}, {"interval": (0.2, 0.6)}, {"history": first_frames(4, 2)}):
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        neutral = {"rescale": 0.0, "apg": Projected(eta=1.0), "history_level": 1.0}
        plain = ClassifierFree(denoiser, 3.0, generator=generators[0], **options)
        same = ClassifierFree(denoiser, 3.0, generator=generators[1], **options, **neutral)
        assert torch.equal(same(x, t, condition).x0, plain(x, t, condition).x0)
    every = {"rescale": 0.7, "apg": Projected(0.3, 0.1, -0.5), "history": first_frames(4, 2)}
    assert torch.equal(ClassifierFree(denoiser, 1.0, **every)(x, t, condition).x0, denoiser(x, t, condition).x0)


def test_rescaling_gives_the_conditional_standard_deviation() -> None:
    denoiser, (x, t, condition) = exact(frames=4), inputs(frames=4)
    plain, guided = denoiser(x, t, condition).x0, ClassifierFree(denoiser, 3.0)(x, t, condition).x0
    x0 = ClassifierFree(denoiser, 3.0, rescale=1.0)(x, t, condition).x0
    torch.testing.assert_close(x0.flatten(1).std(1), plain.flatten(1).std(1), rtol=1e-12, atol=0)
    assert not torch.allclose(guided.flatten(1).std(1), plain.flatten(1).std(1))
    partly = ClassifierFree(denoiser, 3.0, rescale=0.3)(x, t, condition).x0
    torch.testing.assert_close(partly, 0.3 * x0 + 0.7 * guided, rtol=1e-12, atol=1e-12)  # Lin et al. 2024, eq. 16


def test_known_frames_are_neither_measured_nor_rescaled() -> None:
    denoiser, (x, _, condition) = exact(frames=4), inputs(frames=4)
    clock = torch.tensor([0.0, 0.3, 0.5, 0.7], dtype=DOUBLE).view(1, 1, 4, 1, 1)
    plain, guided = denoiser(x, clock, condition).x0, ClassifierFree(denoiser, 3.0)(x, clock, condition).x0
    x0 = ClassifierFree(denoiser, 3.0, rescale=1.0)(x, clock, condition).x0
    assert torch.equal(x0[:, :, :1], guided[:, :, :1])
    torch.testing.assert_close(x0[:, :, 1:].flatten(1).std(1), plain[:, :, 1:].flatten(1).std(1), rtol=1e-12, atol=0)
    mask, generator = first_frames(4, 1), torch.Generator().manual_seed(0)
    x0 = ClassifierFree(denoiser, 3.0, history=mask, generator=generator, rescale=1.0)(x, 0.5, condition).x0
    plain = denoiser(x, 0.5, condition).x0
    torch.testing.assert_close(x0[:, :, 1:].flatten(1).std(1), plain[:, :, 1:].flatten(1).std(1), rtol=1e-12, atol=0)
    once = ClassifierFree(denoiser, 3.0, interval=(0.2, 0.4), rescale=1.0)(x, clock, condition).x0
    torch.testing.assert_close(once[:, :, 2:], denoiser(x, clock, condition).x0[:, :, 2:], rtol=1e-12, atol=1e-12)


def test_a_sample_of_one_value_is_not_rescaled() -> None:
    denoiser, (x, t, condition) = exact(), inputs()
    guided = ClassifierFree(denoiser, 3.0)(x, t, condition).x0
    assert torch.equal(ClassifierFree(denoiser, 3.0, rescale=1.0)(x, t, condition).x0, guided)


def test_projected_guidance_is_its_formula() -> None:
    """Sadat et al. 2025, algorithm 1, written out a sample at a time."""
    denoiser, (x, t, condition) = exact(frames=4), inputs(frames=4)
    plain, null = denoiser(x, t, condition).x0, denoiser(x, t, condition.null()).x0
    x0 = ClassifierFree(denoiser, 3.0, apg=Projected(0.3, radius=0.5))(x, t, condition).x0
    lengths = []
    for i in range(6):
        cond, difference = plain[i].flatten(), (plain - null)[i].flatten()
        lengths.append(float(difference.norm()))
        difference = difference * min(1.0, 0.5 / lengths[-1])
        parallel = (difference @ cond) / (cond @ cond) * cond
        wanted = cond + 2.0 * (difference - parallel + 0.3 * parallel)
        torch.testing.assert_close(x0[i].flatten(), wanted, rtol=1e-12, atol=1e-12)
    assert min(lengths) < 0.5 < max(lengths)
    across = ClassifierFree(denoiser, 3.0, apg=Projected())(x, t, condition).x0 - plain
    torch.testing.assert_close((across * plain).flatten(1).sum(1), torch.zeros(6, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_momentum_adds_up_along_a_run_and_begins_anew_with_the_next() -> None:
    denoiser, (x, _, condition) = exact(frames=4), inputs(frames=4)
    guided = ClassifierFree(denoiser, 3.0, apg=Projected(eta=1.0, momentum=-0.5))
    runs = [[guided(x, t, condition).x0 for t in (0.9, 0.6, 0.3)] for _ in range(2)]
    before = torch.zeros_like(x)
    for t, *found in zip((0.9, 0.6, 0.3), *runs, strict=True):
        plain, null = denoiser(x, t, condition).x0, denoiser(x, t, condition.null()).x0
        before = plain - null - 0.5 * before
        torch.testing.assert_close(found[0], plain + 2.0 * before, rtol=1e-12, atol=1e-12)
        assert torch.equal(*found)


class Says:
    """A denoiser whose estimate is what it is given."""

    schedule = Cosine()

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        return Estimate(x_t, x_t.sigmoid())


def test_thresholding_leaves_what_lies_within_the_floor() -> None:
    x = torch.rand(3, 2, 4, 5, 5) * 2 - 1
    found = Threshold(Says())(x, 0.5, Condition())
    assert torch.equal(found.x0, x) and torch.equal(found.variance, x.sigmoid())


def test_thresholding_clamps_to_a_percentile_and_divides() -> None:
    """Saharia et al. 2022, section 2.3, each sample on its own."""
    x = torch.arange(1, 11, dtype=DOUBLE).view(1, 1, 10, 1, 1) * torch.tensor([1.0, -1.0, 0.05]).view(3, 1, 1, 1, 1)
    x0 = Threshold(Says(), percentile=80, floor=1.0)(x, 0.5, Condition()).x0
    ramp = torch.arange(1, 11, dtype=DOUBLE).clamp(max=8) / 8
    torch.testing.assert_close(x0[0].flatten(), ramp, rtol=1e-15, atol=0)
    assert torch.equal(x0[1], -x0[0]) and torch.equal(x0[2], x[2])
    wide = Threshold(Says(), percentile=100, floor=2.0)(x, 0.5, Condition()).x0
    torch.testing.assert_close(wide[0], 0.2 * x[0], rtol=1e-15, atol=0)


class Toy(nn.Module):
    """A network in which label, text, the clock and the other frames all meddle with each other."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        out = x + x.mean(2, keepdim=True) + 0.1 * log_snr.mean(2, keepdim=True)
        if condition.label is not None:
            out = torch.sin(out + 0.3 * (condition.label + 1).view(-1, 1, 1, 1, 1))
        if condition.text is not None:
            mask = torch.ones(condition.text.shape[:2]) if condition.text_mask is None else condition.text_mask
            out = torch.cos(out * (1 + (condition.text * mask[..., None]).sum((1, 2)).view(-1, 1, 1, 1, 1)))
        return out


def toy() -> tuple[Denoiser, Tensor, Condition]:
    condition = Condition(label=torch.tensor([0, 3, -1]), text=torch.rand(3, 2, 4, dtype=DOUBLE))
    return Denoiser(Counting(Toy()), Cosine(), "v"), torch.randn(3, 1, 4, 2, 2, dtype=DOUBLE), condition


RISING = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=DOUBLE).view(1, 1, 4, 1, 1)


def test_composed_guidance_is_its_formula_in_one_call() -> None:
    """Brooks et al. 2023, eq. 3, for three conditions and in both orders of two of them."""
    denoiser, x, condition = toy()
    no_text, no_label = torch.zeros(3, 2, dtype=torch.bool), torch.full((3,), -1)
    null = replace(condition, text_mask=no_text, label=no_label)
    mask = first_frames(4, 2)
    composed = ClassifierFree(denoiser, {"history": 1.5, "text": 2.0, "label": 4.0}, history=mask)
    found = composed(x, RISING, condition).x0
    assert denoiser.network.calls == 1 and len(denoiser.network.x) == 4 * 3
    hidden = forget(Cosine(), x, RISING, mask, composed.noise)
    with_0, with_1 = denoiser(*hidden, null).x0, denoiser(x, RISING, null).x0
    with_2 = denoiser(x, RISING, replace(condition, label=no_label)).x0
    with_3 = denoiser(x, RISING, condition).x0
    wanted = with_0 + 1.5 * (with_1 - with_0) + 2.0 * (with_2 - with_1) + 4.0 * (with_3 - with_2)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    other = denoiser(x, RISING, replace(condition, text_mask=no_text)).x0
    found = ClassifierFree(denoiser, {"label": 4.0, "text": 2.0})(x, RISING, condition).x0
    wanted = with_1 + 4.0 * (other - with_1) + 2.0 * (with_3 - other)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_composed_guidance_at_scales_of_1_is_the_plain_model_bit_for_bit_in_one_call() -> None:
    denoiser, x, condition = toy()
    plain = denoiser(x, RISING, condition).x0
    composed = ClassifierFree(denoiser, {"label": 1.0, "history": 1.0, "text": 1.0}, history=first_frames(4, 2))
    assert torch.equal(composed(x, RISING, condition).x0, plain)
    assert denoiser.network.calls == 2 and len(denoiser.network.x) == 3


@pytest.mark.parametrize(
    ("change", "scales", "branches"),
    [
        ({}, {"text": 2.0, "label": 3.0}, 3),
        ({"text": None}, {"text": 2.0, "label": 3.0}, 2),
        ({"label": None}, {"text": 2.0, "label": 3.0}, 2),
        ({"label": torch.full((3,), -1)}, {"text": 2.0, "label": 3.0}, 2),
        ({"text_mask": torch.zeros(3, 2, dtype=torch.bool)}, {"text": 2.0, "label": 3.0}, 2),
        ({"text": None, "label": None}, {"text": 2.0, "label": 3.0}, 1),
        ({}, {"text": 2.0, "label": 2.0}, 2),  # the branch between has no weight
        ({}, {"text": 1.0, "label": 3.0}, 2),  # nor has null
    ],
)
def test_branches_that_are_not_needed_are_not_computed(change: dict, scales: dict, branches: int) -> None:
    denoiser, x, condition = toy()
    ClassifierFree(denoiser, scales)(x, RISING, replace(condition, **change))
    assert denoiser.network.calls == 1 and len(denoiser.network.x) == 3 * branches


def test_a_condition_is_looked_into_once_and_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each look would wait for all that is under way."""
    denoiser, x, condition = toy()
    guided, looks = ClassifierFree(denoiser, {"label": 2.0, "text": 3.0}), []
    monkeypatch.setattr(Condition, "asks", lambda self, name: bool(looks.append(name)) or True)
    for t in (0.9, 0.5, 0.1):
        guided(x, t, condition)
    assert sorted(looks) == ["label", "text"]
    guided(x, 0.1, replace(condition))
    assert len(looks) == 4


def test_equal_scales_are_classifier_free_guidance() -> None:
    denoiser, x, condition = toy()
    mask, generators = first_frames(4, 2), [torch.Generator().manual_seed(0) for _ in range(2)]
    scales = {"history": 2.5, "text": 2.5, "label": 2.5}
    found = ClassifierFree(denoiser, scales, history=mask, generator=generators[0])(x, RISING, condition).x0
    wanted = ClassifierFree(denoiser, 2.5, history=mask, generator=generators[1])(x, RISING, condition).x0
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"interval": (0.3, 0.7)}, {"rescale": 0.6}, {"interval": (0.3, 0.7), "rescale": 0.6}]
)
def test_equal_scales_are_classifier_free_guidance_with_its_options(options: dict) -> None:
    """On a clock that stands within the interval for some frames and outside it for others."""
    denoiser, x, condition = toy()
    mask, generators = first_frames(4, 1), [torch.Generator().manual_seed(0) for _ in range(2)]
    composed = ClassifierFree(
        denoiser, {"history": 2.5, "text": 2.5, "label": 2.5}, history=mask, generator=generators[0], **options
    )
    free = ClassifierFree(denoiser, 2.5, history=mask, generator=generators[1], **options)
    torch.testing.assert_close(composed(x, RISING, condition).x0, free(x, RISING, condition).x0, rtol=1e-12, atol=1e-12)


def test_separate_scales_outside_their_interval_are_the_plain_model() -> None:
    denoiser, x, condition = toy()
    scales = {"text": 3.0, "label": 0.0}
    composed = ClassifierFree(denoiser, scales, interval=(0.3, 0.7))
    plain, always = denoiser(x, RISING, condition).x0, ClassifierFree(denoiser, scales)(x, RISING, condition).x0
    found = composed(x, RISING, condition).x0
    assert torch.equal(found[:, :, 1:3], always[:, :, 1:3]) and not torch.equal(found, always)
    assert torch.equal(found[:, :, [0, 3]], plain[:, :, [0, 3]])
    denoiser.network.calls = 0
    assert torch.equal(composed(x, 0.8, condition).x0, denoiser(x, 0.8, condition).x0)
    assert denoiser.network.calls == 2 and len(denoiser.network.x) == 3


def test_separate_scales_in_the_convention_of_ho() -> None:
    denoiser, x, condition = toy()
    found = ClassifierFree(denoiser, {"text": 1.0, "label": 2.0}, convention="ho")(x, RISING, condition).x0
    assert torch.equal(found, ClassifierFree(denoiser, {"text": 2.0, "label": 3.0})(x, RISING, condition).x0)


def test_history_guides_by_its_parts() -> None:
    denoiser, x, condition = toy()
    first, second, both = some_frames(4, [0]), some_frames(4, [1]), first_frames(4, 2)
    composed = ClassifierFree(
        denoiser, {"history": 2.0, "label": 3.0}, history=[(first, 0.7), (second, 0.2), (both, 0.5)]
    )
    found = composed(x, RISING, condition).x0
    assert denoiser.network.calls == 1 and len(denoiser.network.x) == 5 * 3
    null = replace(condition, label=torch.full((3,), -1))
    hide = {
        name: forget(Cosine(), x, RISING, mask, composed.noise)
        for name, mask in {"first": first, "second": second, "both": both}.items()
    }
    without, shown = denoiser(*hide["both"], null).x0, denoiser(x, RISING, null).x0
    by_first, by_second = denoiser(*hide["second"], null).x0, denoiser(*hide["first"], null).x0
    history = 0.7 * (by_first - without) + 0.2 * (by_second - without) + 0.5 * (shown - without)
    wanted = without + 2.0 * history + 3.0 * (denoiser(x, RISING, condition).x0 - shown)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0, {"history": 2.0}])
def test_history_is_forgotten_in_part(scale: float | dict[str, float]) -> None:
    """What the branch without history sees is a draw from the process at that level, given what is known."""
    denoiser, x, condition = toy()
    mask, frames = first_frames(4, 2), torch.randn(3, 1, 4, 2, 2, dtype=DOUBLE)
    guided = ClassifierFree(denoiser, scale, history=mask, history_level=0.4)
    Known(guided, frames, mask)(x, 0.6, condition)
    spy, (now, then) = denoiser.network, torch.tensor([0.0, 0.4], dtype=DOUBLE)
    at = Cosine().log_snr(torch.tensor([0.4, 0.4, 0.6, 0.6], dtype=DOUBLE))
    assert torch.equal(spy.log_snr[3:], at.view(1, 1, 4, 1, 1).expand(3, 1, 4, 2, 2))
    scale, variance = transition(Cosine(), then, now)
    wanted = scale * frames + variance.sqrt() * guided.noise
    torch.testing.assert_close(spy.x[3:, :, :2], wanted[:, :, :2], rtol=1e-12, atol=1e-12)
    Known(guided, frames, mask, level=0.5)(x, 0.6, condition)  # shown with more noise than that to begin with
    assert torch.equal(spy.x[:3], spy.x[3:]) and torch.equal(spy.log_snr[:3], spy.log_snr[3:])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_composed_scale_draws_as_classifier_free_guidance_does(sampler: str) -> None:
    """With every sampler, along a clock that rises with the frames, around known ones and with a threshold."""
    denoiser, (x, _, condition) = exact(frames=4), inputs(frames=4)
    column = time_grid(Cosine(), 8, ends=(-6.0, 6.0), dtype=DOUBLE)
    times = torch.stack([column.clamp(max=float(column[k])) for k in (3, 2, 1, 0)], dim=1)  # n + 1, f
    known = torch.ones(6, 1, 4, 1, 1, dtype=DOUBLE), first_frames(4, 1)
    drawn = []
    for guided in (ClassifierFree(denoiser, 2.0), ClassifierFree(denoiser, {"label": 2.0})):
        whole = Known(Threshold(guided, floor=2.5), *known)
        drawn.append(build_sampler(sampler)(whole, x, condition, times, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*drawn, rtol=1e-8, atol=1e-8)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown guidance convention 'w'; choose one of cfg, ho"):
        ClassifierFree(exact(), 2.0, "w")
    with pytest.raises(ValueError, match=r"interval = \(0\.6, 0\.2\)"):
        ClassifierFree(exact(), 2.0, interval=(0.6, 0.2))
    for level in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"history_level = {level} is outside \[0, 1\]"):
            ClassifierFree(exact(), 2.0, history_level=level)
        with pytest.raises(ValueError, match=rf"history_level = {level} is outside \[0, 1\]"):
            ClassifierFree(exact(), {"label": 2.0}, history_level=level)
        with pytest.raises(ValueError, match=rf"rescale = {level} is outside \[0, 1\]"):
            ClassifierFree(exact(), 2.0, rescale=level)
        with pytest.raises(ValueError, match=rf"rescale = {level} is outside \[0, 1\]"):
            ClassifierFree(exact(), {"label": 2.0}, rescale=level)
    with pytest.raises(ValueError, match=r"interval = \(0\.6, 0\.2\)"):
        ClassifierFree(exact(), {"label": 2.0}, interval=(0.6, 0.2))
    with pytest.raises(ValueError, match="apg changes one difference of branches; give one scale"):
        ClassifierFree(exact(), {"label": 2.0, "text": 3.0}, apg=Projected())
    with pytest.raises(ValueError, match=r"radius = 0\.0 must be positive"):
        Projected(radius=0.0)
    with pytest.raises(ValueError, match=r"momentum = 0\.5 must be above -1 and at most 0"):
        Projected(momentum=0.5)
    with pytest.raises(ValueError, match=r"percentile = 0\.995 must be from 50 to 100"):
        Threshold(exact(), 0.995)
    with pytest.raises(ValueError, match=r"floor = 0\.0 must be positive"):
        Threshold(exact(), floor=0.0)
    names = "action, control, history, label, text"
    with pytest.raises(ValueError, match=rf"scales = \{{\}} is empty; give one for any of {names}"):
        ClassifierFree(exact(), {})
    with pytest.raises(ValueError, match=f"unknown condition to guide on 'labels'; choose one of {names}"):
        ClassifierFree(exact(), {"labels": 2.0})
    with pytest.raises(ValueError, match=r"history needs a mask and a scale: scales = \{'history': 2\.0\}, with 0"):
        ClassifierFree(exact(), {"history": 2.0})
    with pytest.raises(ValueError, match=r"history needs a mask and a scale: scales = \{'label': 2\.0\}, with 1"):
        ClassifierFree(exact(), {"label": 2.0}, history=first_frames(4, 1))
    with pytest.raises(ValueError, match=r"mask must be bool, true where known; this one is torch\.float32"):
        ClassifierFree(exact(), {"history": 2.0}, history=[(torch.ones(1, 1, 4, 1, 1), 1.0)])
    with pytest.raises(ValueError, match=r"mask of shape .* does not broadcast"):
        ClassifierFree(exact(frames=3), {"history": 2.0}, history=first_frames(4, 1))(*inputs(frames=3))
