"""One walk over windows, for all that is longer than one; and each window is told of its own frames."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Estimate
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw import edit
from vidiff.draw.long import STRATEGIES
from vidiff.draw.strategy import Strategy
from vidiff.draw.window import Draw, Window, spans, windows
from vidiff.sample import build_sampler


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("done", [0, 1, 4, 9])
@pytest.mark.parametrize("frames", [1, 6, 7, 20, 21])
def test_windows_add_every_frame_once_and_know_what_is_before(frames: int, done: int, back: bool) -> None:
    walked = list(windows(6, done + frames, 2, done, back=back))
    assert [n for window in walked for n in range(window.begin, window.end)] == list(range(done, done + frames))
    for window in walked[:-1]:
        assert window.end - window.first == 6 and window.known in (2, window.begin)
    last = walked[-1]
    assert last.known == (min(6 - last.new, last.begin) if back else min(2, last.begin))


@pytest.mark.parametrize("seed", range(30))
def test_a_stretch_of_unknown_frames_ends_in_a_window_that_sees_what_follows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    length, context = (int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((20, 60), (1, 6)))
    known = (torch.rand(length, generator=generator) < (0.1, 0.5, 0.9)[seed % 3]).tolist()
    walked = list(spans(known, 8, context))
    assert [n for window in walked for n in range(window.begin, window.end)] == list(range(length))
    assert all(window.known == min(context, window.begin) and window.new <= 8 - window.known for window in walked)
    for window in walked[:-1]:
        if not known[window.end - 1] and known[window.end] and context < 7:
            assert window.first + 8 > window.end, "it sees the known frame after its last"
    assert list(spans([False] * length, 8, context)) == list(windows(8, length, context))


def test_of_a_long_stretch_the_last_window_has_its_share() -> None:
    known = [True] * 3 + [False] * 20 + [True] * 3
    assert list(spans(known, 10, 2)) == [Window(0, 0, 10), Window(8, 2, 7), Window(15, 2, 8), Window(23, 2, 1)]


def test_known_frames_are_a_multiple_and_one_more() -> None:
    """As a codec has it that makes one latent of the first frame and one of each four after it."""
    assert list(windows(9, 20, 8, 0, unit=4)) == [Window(0, 0, 9), Window(4, 5, 4), Window(8, 5, 4), Window(12, 5, 3)]
    assert list(windows(9, 9, 5, 4, unit=4)) == [Window(3, 1, 5)]


def test_a_video_that_comes_piece_by_piece_is_read_no_further_than_the_next_window() -> None:
    pieces, there, asked = iter([3, 3, 1, 2, 4, 1]), 0, []

    def read_to(count: int) -> int:
        nonlocal there
        asked.append(count)
        while there < count and (more := next(pieces, None)) is not None:
            there += more
        return there

    for at, window in enumerate(windows(6, read_to, 2, back=True)):
        assert window == list(windows(6, 14, 2, back=True))[at]
        assert there <= window.first + 6 + 3  # the rest of a piece
    assert asked == [6, 10, 14, 18]


def test_a_context_that_fills_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 6; windows of 6 frames then have no room for new ones"):
        list(windows(6, 20, 6))


def numbers(frames: int) -> Tensor:
    return 0.01 * torch.arange(float(frames)).view(1, 1, -1, 1, 1).expand(2, 3, frames, 4, 4)


class Told:
    """Estimates each frame as the condition says, and looks whether that agrees with the frames that are known."""

    schedule = Cosine()

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        assert condition.lowres is not None
        known = expand_time(t, x).expand_as(x) == 0
        torch.testing.assert_close(x[known], condition.lowres[known])
        return Estimate(condition.lowres)


def drawing() -> Draw:
    return Draw(Told(), build_sampler("ddim"), 3, 1.0, 8, torch.Generator().manual_seed(0))


def condition(frames: int) -> Condition:
    return Condition(lowres=numbers(frames), stride=torch.tensor([1, 1]))


@pytest.mark.parametrize("given", [0, 1, 12])
@pytest.mark.parametrize("name", ["clean", "keyframes", "rolling"])
def test_each_window_is_told_of_its_own_frames(name: str, given: int) -> None:
    strategy: Strategy = STRATEGIES[name]()
    parts = list(strategy(drawing(), numbers(given), 21, 3, condition(given + 21)))
    torch.testing.assert_close(torch.cat([numbers(given), *parts], dim=2), numbers(given + 21))


def whole(parts: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(parts), dim=2)


def test_so_is_each_that_extends_a_clip_and_each_that_edits_one() -> None:
    draw, codec = drawing(), Identity()
    made = whole(edit.extend(draw, codec, numbers(12), 15, 3, condition(27)))
    torch.testing.assert_close(made, numbers(27)[:, :, 12:])
    parts = list(edit.extend(draw, codec, numbers(27)[:, :, 15:], 15, 3, condition(27), backwards=True))
    torch.testing.assert_close(torch.cat(parts[::-1], dim=2), numbers(27)[:, :, :15])
    mask = (torch.arange(21) % 3 == 1).view(1, 1, -1, 1, 1)
    torch.testing.assert_close(whole(edit.inpaint(draw, codec, numbers(21), mask, 3, condition(21))), numbers(21))
    torch.testing.assert_close(whole(edit.edit(draw, codec, numbers(21), 0.9, 3, condition(21))), numbers(21))
