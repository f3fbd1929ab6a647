"""Frames in the size that a model takes."""

from __future__ import annotations

import pytest
import torch

from vidiff.video.fit import Fit


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ((240, 320), (240, 240), (240, 320)),
        ((240, 320), (128, 128), (128, 171)),
        ((50, 20), (10, 10), (25, 10)),
        ((3, 2), (64, 64), (96, 64)),
        ((240, 320), (48, 80), (60, 80)),
        ((240, 426), (48, 80), (48, 85)),
        ((100, 100), (80, 48), (80, 80)),
        ((240, 320), (120, 240), (180, 240)),
    ],
)
def test_a_size_is_just_covered(given: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Fit(given, size).whole == expected


def test_the_middle_or_a_corner_of_the_resized_frames_is_kept() -> None:
    fit = Fit((240, 320), (48, 48))
    assert (fit.whole, fit.resize, fit.spare) == ((48, 64), (48, 64), (0, 16))
    frames = torch.arange(48 * 64).view(1, 48, 64)
    assert torch.equal(fit.crop(frames), frames[:, :, 8:56])
    assert torch.equal(fit.crop(frames, (0, 3)), frames[:, :, 3:51])
    assert Fit((48, 64), (48, 48)).resize is None, "frames have that size already"
    zoomed = Fit((240, 320), (48, 48), 1.5)
    assert (zoomed.whole, zoomed.spare) == ((72, 96), (24, 48))
