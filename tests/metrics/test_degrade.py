from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from vidiff.metrics.degrade import DEGRADATIONS, backwards, blur, frozen, noise, shuffled
from vidiff.metrics.sensitivity import STRENGTHS, sensitivity, sensitivity_page, sensitivity_table


def numbered(count: int = 2, frames: int = 10, size: int = 32) -> Tensor:
    """Clips whose frame i has the value i / 10 everywhere."""
    return (torch.arange(float(frames)) / 10).view(1, 1, -1, 1, 1).expand(count, 3, frames, size, size).clone()


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order(video: Tensor) -> list[list[int]]:
    return (video[:, 0, :, 0, 0] * 10).round().int().tolist()


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_strength_zero_does_nothing_and_a_seed_fixes_the_rest(kind: str) -> None:
    video = numbered()
    assert torch.equal(DEGRADATIONS[kind](video, 0.0, draw()), video)
    assert torch.equal(DEGRADATIONS[kind](video, 0.7, draw()), DEGRADATIONS[kind](video, 0.7, draw()))
    assert torch.equal(video, numbered())


def test_noise_has_the_deviation_it_says() -> None:
    found = noise(torch.zeros(4, 3, 8, 32, 32), 0.25, draw())
    assert float(found.std()) == pytest.approx(0.25, rel=0.01)
    assert float(noise(torch.ones(1, 3, 2, 8, 8), 1.0, draw()).max()) == 1


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    video = torch.zeros(1, 3, 1, 64, 64)
    video[..., 32, 32] = 1
    found = blur(video, 0.5, draw())[0, 0, 0].double()  # sigma: 2 pixels
    assert float(found.sum()) == pytest.approx(1, rel=1e-5)
    place = torch.arange(64.0) - 32
    assert float((found.sum(0) * place.square()).sum()) == pytest.approx(4, rel=0.03)
    assert float(found[32, 34] / found[32, 32]) == pytest.approx(math.exp(-0.5), rel=1e-4)


def test_frames_are_shuffled_frozen_and_reversed_by_the_share_asked_for() -> None:
    video, plain = numbered(), list(range(10))
    for found in order(shuffled(video, 0.4, draw())):
        assert sorted(found) == plain
        assert sum(a != b for a, b in zip(found, plain, strict=True)) == 4
    for found in order(frozen(video, 1 / 3, draw())):
        assert sum(a == b for a, b in itertools.pairwise(found)) == 3
        assert found == sorted(found)
    assert order(frozen(video, 1.0, draw())) == [[0] * 10] * 2
    assert order(backwards(video, 0.5, draw())) == [plain[::-1], plain]


def test_sensitivity_of_known_features() -> None:
    """Mean colour is blind to order; mean change from frame to frame sees it. Classes of other colours are missed."""
    colour = torch.linspace(-0.5, 0.5, 4).repeat_interleave(4).view(16, 1, 1, 1, 1)
    moving = (torch.randn(32, 3, 8, 8, 8, generator=draw()) * 0.02).cumsum(2)
    clips = moving + colour.repeat(2, 1, 1, 1, 1)
    labels = torch.arange(4).repeat_interleave(4)
    strengths = {"shuffled": (0.5, 1.0), "frozen": (0.5, 1.0), "missing classes": (0.25, 0.5, 0.75)}

    def colours(video: Tensor) -> Tensor:
        return video.mean((2, 3, 4))

    def changes(video: Tensor) -> Tensor:
        return 10 * video.diff(dim=2).abs().mean((3, 4)).mean(2)

    blind = sensitivity(colours, clips[:16], clips[16:], labels, strengths, progress=False)
    assert blind["shuffled"] == pytest.approx([blind["shuffled"][0]] * 3, rel=1e-3)
    assert blind["missing classes"] == sorted(blind["missing classes"])
    assert len(set(blind["missing classes"])) == 4
    seeing = sensitivity(changes, clips[:16], clips[16:], labels, strengths, progress=False)
    for kind in ("shuffled", "frozen"):
        assert seeing[kind][0] < seeing[kind][1] < seeing[kind][2]
    text = sensitivity_table({"frozen": [1.0, 2, 3, 4, 5, 6], "noise": [1.0, 2, 2, 4, 5, 0.5]})
    assert "| frozen (0.2, 0.4, 0.6, 0.8, 1) | 1 | 2 | 3 | 4 | 5 | 6 | 6 | yes |" in text
    assert "| 0.5 | 0.5 | no |" in text
    unlabelled = sensitivity(
        colours, clips[:16], clips[16:], labels * 0 - 1, {"missing classes": (0.5,)}, progress=False
    )
    assert unlabelled == {}
    with pytest.raises(ValueError, match="no such way to make clips worse: fog; choose noise, blur"):
        sensitivity(colours, clips[:16], clips[16:], labels, {"fog": (1.0,)})
    assert set(DEGRADATIONS) <= set(STRENGTHS)
    assert sensitivity_page([], "shapes", "abc").startswith("# What the metrics see")
