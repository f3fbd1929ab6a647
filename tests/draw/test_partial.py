"""Partial noising: a clip is noised so far and drawn again, from fresh noise or from its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from draws import Line, drawing, tiny_codec, video, whole
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.process import add_noise, expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw import window
from vidiff.draw.edit import edit, generate
from vidiff.draw.guide import Guide
from vidiff.draw.window import Draw, Source


def test_a_strength_of_0_is_the_codec_there_and_back() -> None:
    codec, denoiser = tiny_codec(), Line()
    clip = video(6)
    made = whole(*edit(drawing(6, denoiser), codec, clip, 0.0, 2, Condition()))
    assert torch.equal(made, codec.decode(codec.encode(clip).mean)) and not denoiser.seen
    longer = video(15)
    made = whole(*edit(drawing(6, denoiser), codec, longer, 0.0, 2, Condition()))
    torch.testing.assert_close(made, codec.decode(codec.encode(longer).mean))  # decoded in other chunks


@pytest.mark.parametrize("frames", [1, 6, 10, 14])
def test_a_strength_of_1_is_generation(frames: int) -> None:
    codec = tiny_codec()
    made = whole(*edit(drawing(6), codec, video(frames), 1.0, 2, Condition()))
    assert torch.equal(made, whole(*generate(drawing(6), codec, frames, (16, 16), 2, Condition(), 2)))


def test_a_strength_between_starts_from_the_noised_clip_along_the_rest_of_the_grid() -> None:
    seen: list[tuple[Tensor, float]] = []

    class Spy(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            seen.append((x.clone(), float(expand_time(t, x).max())))
            return super().__call__(x, t, condition)

    z = torch.randn(2, 3, 6, 4, 4)
    draw = replace(drawing(6, Spy()), steps=9)
    draw(z, None, Condition(), 0.4)
    grid = time_grid(Cosine(), 8)
    expected = [0.4, *grid[grid < 0.4].tolist()]
    torch.testing.assert_close(torch.tensor([t for _, t in seen]), torch.tensor(expected))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0][0], add_noise(Cosine(), z, noise, 0.4))


def test_more_strength_keeps_less() -> None:
    clip = video(6)
    draws = [whole(*edit(drawing(6), Identity(), clip, s, 2, Condition())) for s in (0.0, 0.05, 0.2, 0.5, 1.0)]
    errors = [float((made - clip).square().mean()) for made in draws]
    assert errors[0] < 1e-12 and errors == sorted(errors) and len(set(errors)) == 5


@pytest.mark.parametrize("frames", [4, 6, 7, 15])
def test_a_long_clip_is_edited_in_windows_that_end_with_it(frames: int) -> None:
    line, clip = Line(), video(frames, 4)
    made = list(edit(drawing(6, line), Identity(), clip, 0.5, 2, Condition()))
    assert whole(*made).shape == clip.shape
    counts = [len(seen) for seen in line.seen]
    assert max(counts) == {4: 0, 6: 0, 7: 5, 15: 5}[frames] and counts[0] == 0
    assert [part.shape[2] for part in made] == {4: [4], 6: [6], 7: [6, 1], 15: [6, 4, 4, 1]}[frames]


def two_kinds(frames: int, side: int) -> tuple[Mixture, Draw]:
    """Clips of two labels, Gaussians that differ in where they lie alone, and their exact model, in 20 steps."""
    means = torch.tensor([-0.4, 0.2]).view(2, 1, 1, 1, 1).expand(2, 3, frames, side, side)
    data = Mixture(means, torch.tensor([0.15, 0.15]))
    return data, replace(drawing(frames, Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")), steps=20)


@pytest.mark.parametrize(("iterations", "off"), [(1, 1.0), (5, 0.1), (20, 2e-3)])
def test_a_clip_is_drawn_again_from_its_own_noise(iterations: int, off: float) -> None:
    """Told nothing, the model leads to either kind, so that its field is curved; the more often, the nearer."""
    data, draw = two_kinds(2, 1)
    clip = data.sample(64, torch.Generator().manual_seed(0)).clamp(-1, 1)
    made = whole(*edit(draw, Identity(), clip, 1.0, 1, Condition(), Condition(), iterations))
    assert off / 50 < float((made - clip).abs().max()) < off


@pytest.mark.parametrize("frames", [6, 14])
def test_from_its_own_noise_a_clip_changes_as_its_label_does_and_in_nothing_else(frames: int) -> None:
    """Of two Gaussians that are alike but for their means, the one is the other, moved."""
    _, draw = two_kinds(6, 4)
    labels = torch.zeros(3, dtype=torch.long)
    generator = torch.Generator().manual_seed(9)
    clip = -0.4 + 0.15 * torch.randn(3, 3, frames, 4, 4, generator=generator).clamp(-3, 3)
    was, asked = Condition(label=labels), Condition(label=labels + 1)
    for condition, by in ((was, 0.0), (asked, 0.6)):
        made = whole(*edit(draw, Identity(), clip, 1.0, 2, condition, was, 20))
        torch.testing.assert_close(made, clip + by, rtol=0, atol=1e-3)
    part = whole(*edit(draw, Identity(), clip, 0.4, 2, asked, was, 20)) - clip
    assert 0.02 < float(part.mean()) < 0.55 and float(part.std()) < 1e-3
    fresh = whole(*edit(draw, Identity(), clip, 1.0, 2, asked)) - clip
    assert float(fresh.std()) > 0.15


@pytest.mark.parametrize(
    "guide", [Guide(convention="ho"), Guide(control_guidance=3.0), Guide(text_guidance=2.0), Guide(action_guidance=2.0)]
)
def test_noise_is_found_by_the_plain_model_whatever_guides_the_draw(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, draw = two_kinds(2, 1)
    found = list[object]()

    def invert(denoiser: object, x0: torch.Tensor, *rest: object) -> torch.Tensor:
        found.append(denoiser)
        return x0

    monkeypatch.setattr(window, "invert", invert)
    condition = Condition(
        label=torch.zeros(1, dtype=torch.long),
        text=torch.zeros(1, 1, 2),
        action=torch.zeros(1, 2, 1, 1),
        control=torch.zeros(1, 1, 2, 1, 1),
    )
    source = Source(torch.zeros(1, 3, 2, 1, 1), condition, 1)
    replace(draw, guide=guide, guidance=2.5).again(source.frames, None, Condition(), 1.0, source)
    (denoiser,) = found
    if isinstance(denoiser, ClassifierFree):  # which asks for no second branch, by the paper's own convention too
        assert set(denoiser.scales.values()) == {1.0} and len(denoiser._branches(condition)) == 1


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=f"strength is {strength}; give 0, which keeps the clip, to 1"):
        list(edit(drawing(6), Identity(), video(6), strength, 2, Condition()))
