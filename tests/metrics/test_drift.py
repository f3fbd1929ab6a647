"""Drift against closed forms: what is blurred, brightened, frozen or torn has the figures that follow from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidiff.metrics.drift import STILL, STRETCH, drift, drift_at_end, join, look

SIZE = 32


def waves(amplitudes: dict[int, float], frames: int, rim: int = 1) -> Tensor:
    """Waves along the rows, `k` of them within a rim of some pixels, over a base that flickers: `(1, 3, f, h, w)`."""
    place = torch.arange(SIZE + 2.0 * rim) * 2 * math.pi / SIZE
    line = sum(size * torch.cos(k * place) for k, size in amplitudes.items())
    base = 0.1 * (-1.0) ** torch.arange(float(frames))  # every pixel moves, by 0.2
    return (line.view(1, 1, 1, 1, -1) + base.view(1, 1, -1, 1, 1)).expand(1, 3, frames, SIZE, -1)


def bend(k: int) -> float:
    """Of a wave: its slope is `2 sin` of half its angle a pixel, its bend the square of that."""
    return 2 * math.sin(math.pi * k / SIZE)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_the_sharpness_of_a_wave_is_its_frequency(k: int) -> None:
    found = look(waves({k: 0.3}, 4)).sharpness
    assert found[0, 0].isnan()  # nothing has moved yet
    torch.testing.assert_close(found[:, 1:], torch.full((1, 3), bend(k)))


def test_blur_lowers_sharpness_by_what_it_does_to_each_wave() -> None:
    """The kernel 1/4, 1/2, 1/4 multiplies a wave by the square of the cosine of half its angle."""
    before = {2: 0.3, 8: 0.2}
    after = {k: size * math.cos(math.pi * k / SIZE) ** 2 for k, size in before.items()}

    def sharpness(waves: dict[int, float]) -> float:
        energy = [sum((size * bend(k) ** power) ** 2 for k, size in waves.items()) for power in (1, 2)]
        return math.sqrt(energy[1] / energy[0])

    sharp = waves(before, 4, rim=2)
    kernel = torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 1, 1, 3)
    blurred = torch.nn.functional.conv3d(sharp.reshape(3, 1, 4, SIZE, -1), kernel).view(1, 3, 4, SIZE, -1)
    found = drift(look(torch.cat([sharp[..., 1:-1], blurred], dim=2)), 4)
    assert found["sharpness"] == pytest.approx([1.0, sharpness(after) / sharpness(before)], rel=1e-5)
    assert found["sharpness"][1] < 0.9


def test_contrast_does_not_count_as_sharpness() -> None:
    one, other = waves({4: 0.3}, 4), waves({4: 0.2}, 4)
    assert drift(look(torch.cat([one, other], dim=2)), 4)["sharpness"] == pytest.approx([1.0, 1.0], rel=1e-5)


def test_only_what_moves_is_looked_at() -> None:
    """A sharp background that stands still does not hide that what moves is blurred."""
    video, half = waves({2: 0.3}, 3).clone(), SIZE // 2
    video[:, :, :, half:] = waves({2: 0.3}, 1)[:, :, :, half:]
    plain = look(video).sharpness[0, 1]
    video[:, :, :, half + 2 :] = 0.5 * (-1.0) ** torch.arange(SIZE + 2.0)
    assert look(video).sharpness[0, 1] == plain and plain < 0.9
    assert look(video[:, :, :, half + 2 :]).sharpness.isnan().all()


def test_a_brightened_stretch_is_off_by_that_in_each_channel() -> None:
    first = torch.rand(2, 3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.5
    light = torch.tensor([0.1, 0.0, -0.2])
    second = 2.0 * (first - first.mean((2, 3, 4), keepdim=True)) + first.mean((2, 3, 4), keepdim=True)
    second = second + light.view(1, 3, 1, 1, 1)
    found = drift(look(torch.cat([first, second], dim=2)), 4)
    assert found["mean"][0] == [0, 0, 0] and found["mean"][1] == pytest.approx(light.tolist(), abs=1e-6)
    assert found["colour"] == pytest.approx([0.0, math.sqrt(0.05 / 3)], abs=1e-6)
    assert found["std"][1] == pytest.approx([2.0] * 3) and found["contrast"] == pytest.approx([1.0, 2.0])
    assert found["motion"][1] == pytest.approx(2.0, rel=0.05)


def test_a_frozen_stretch_does_not_move() -> None:
    steps = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3])
    video = (steps.view(1, 1, -1, 1, 1) - 0.5).expand(1, 3, 8, SIZE, SIZE)
    found = drift(look(video), 4)
    assert found["motion"] == pytest.approx([1.0, 0.0]) and found["frozen"] == [0.0, 1.0]
    assert math.isnan(found["sharpness"][1])
    creep = STILL * 0.1 * torch.tensor([0.9, 3.0]).view(1, 1, 2, 1, 1)
    slow = torch.cat([video[:, :, :4], video[:, :, 3:4] + creep], dim=2)
    assert drift(look(slow), 4)["frozen"] == [0.0, 0.5]


@pytest.mark.parametrize("jump", [1.0, 0.0, 3.5])
def test_a_seam_is_as_much_change_as_there_is_beside_it(jump: float) -> None:
    steps = torch.full((12,), 0.01)
    steps[0], steps[[4, 8]] = 0.0, 0.01 * jump
    video = (steps.cumsum(0).view(1, 1, -1, 1, 1) - 0.5).expand(2, 3, 12, 4, 4)
    assert drift(look(video), 4, seams=[4, 8])["seam"] == pytest.approx(jump, abs=1e-4)
    assert drift(look(video), 4, seams=[6, 10])["seam"] == pytest.approx(1.0, abs=1e-4)
    assert math.isnan(drift(look(video), 4)["seam"]), "no seams, no score"


def test_clips_are_measured_by_themselves() -> None:
    """Each against its own first stretch, then the mean over clips."""
    still = torch.zeros(1, 3, 8, 4, 4)
    steps = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1]).view(1, 1, -1, 1, 1)
    faster = (steps - 0.5).expand(1, 3, 8, 4, 4)
    found = drift(look(torch.cat([faster, 0.5 * faster])), 4)
    assert found["motion"] == pytest.approx([1.0, 2.0])
    found = drift(look(torch.cat([faster, still])), 4)
    assert found["motion"] == pytest.approx([1.0, 2.0]) and found["frozen"] == [0.5, 0.5]


def test_nothing_is_a_multiple_of_a_first_stretch_that_is_flat_and_still() -> None:
    noise = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    flat = torch.cat([torch.zeros(1, 3, 4, 8, 8), noise], dim=2)
    found = drift(look(flat), 4, seams=[2])
    for name in ("contrast", "motion", "sharpness"):
        assert math.isnan(found[name][1]), name
    assert all(math.isnan(value) for value in found["std"][1]) and math.isnan(found["seam"])
    twice = torch.cat([noise, 2 * noise], dim=2) - 1
    both = drift(look(torch.cat([flat, twice])), 4)
    assert both["contrast"][1] == pytest.approx(2), "the mean is over clips of which it can be told"
    assert both["motion"][1] == pytest.approx(drift(look(twice), 4)["motion"][1])


def test_what_cannot_be_told_of_the_end_is_left_out() -> None:
    given, flat = torch.rand(1, 3, 2, 8, 8), torch.zeros(1, 3, STRETCH, 8, 8)
    noise = torch.rand(1, 3, STRETCH, 8, 8, generator=torch.Generator().manual_seed(0))
    # the first new frame differs from the last given one, so that something moves and what then stands still is told
    found = drift_at_end(look(torch.cat([given, flat, noise], dim=2)), 2)
    assert "contrast" not in found and "sharpness" not in found
    still = drift_at_end(look(torch.cat([flat[:, :, :2], flat, noise], dim=2)), 2)
    assert set(still) == {"colour", "frozen"}
    assert all(math.isfinite(value) for value in (*found.values(), *still.values()))
    moved = drift_at_end(look(torch.cat([given, noise, noise], dim=2)), 2)
    assert set(moved) == {"colour", "contrast", "sharpness", "motion", "frozen"}


@pytest.mark.parametrize("cuts", [[1, 7], [3, 1, 4], [1] * 8])
def test_pieces_are_measured_as_the_whole(cuts: list[int]) -> None:
    video = torch.rand(2, 3, 8, 9, 9) * 2 - 1
    parts, before = [], None
    for piece in video.split(cuts, dim=2):
        parts.append(look(piece, before))
        before = piece[:, :, -1:]
    whole = look(video)
    for name in ("mean", "std", "sharpness", "change"):
        torch.testing.assert_close(getattr(join(parts), name), getattr(whole, name), equal_nan=True)


def test_a_last_stretch_may_be_short() -> None:
    found = drift(look(torch.rand(1, 3, 11, 8, 8)), 4)
    assert all(len(found[name]) == 3 for name in ("mean", "std", "colour", "sharpness", "motion", "frozen"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: look(torch.zeros(3, 4, 8, 8)), r"expected \(b, c, f, h, w\)"),
        (lambda: look(torch.zeros(1, 3, 4, 2, 8)), "3 x 3 pixels or more"),
        (lambda: drift(look(torch.zeros(1, 3, 4, 8, 8)), 1), "chunk is 1; give 2 or more"),
        (lambda: drift(look(torch.zeros(1, 3, 4, 8, 8)), 2, [4]), "frame 4 is no seam of clips of 4"),
    ],
)
def test_bad_input_is_named(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
