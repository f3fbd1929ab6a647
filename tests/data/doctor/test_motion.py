"""How much of a clip moves, and what the doctor says of it."""

from __future__ import annotations

import numpy as np
import pytest

from vidiff.data.doctor.motion import motion_lines, share_that_moves


def frames(count: int, side: int, dot: int) -> list[np.ndarray]:
    """A square of `dot` pixels that jumps by its own length, over a still texture."""
    wall = np.random.default_rng(0).integers(0, 100, (side, side, 3), dtype=np.uint8)
    clip = []
    for n in range(count):
        frame = wall.copy()
        frame[dot : 2 * dot, n * dot : (n + 1) * dot] = 255
        clip.append(frame)
    return clip


@pytest.mark.parametrize(("side", "dot"), [(64, 4), (128, 8), (256, 16)])  # of large frames, as they are at 64 px
def test_the_share_of_the_pixels_that_move(side: int, dot: int) -> None:
    assert share_that_moves(frames(5, side, dot)) == pytest.approx((dot / side) ** 2)
    assert share_that_moves(frames(5, side, dot)[:1] * 5) == 0
    assert share_that_moves(frames(2, side, dot)) is None


def test_little_motion_is_told_with_what_to_choose() -> None:
    assert motion_lines([]) == []
    (line,) = motion_lines([0.2, 0.3, 0.4, 0.5])
    assert "35.0% of the pixels move in the middle one of 4 clips" in line
    said = "\n".join(motion_lines([0.01, 0.02, 0.3, 0.4]))
    assert "small_vae" in said and "shrinks 4 times, not 8" in said and "loss.moving=0.8" in said
    assert len(motion_lines([0.01])) == 2
