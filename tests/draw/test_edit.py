"""Windows one after the other: each known frame is kept, each new one counted, and each window sees the last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from draws import STEP, Line, drawing, tiny_codec, video, whole
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Estimate
from vidiff.diffusion.known import first_frames
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.edit import double, extend, generate, inpaint, interpolate
from vidiff.draw.long import Clean
from vidiff.draw.masks import encode_around
from vidiff.draw.window import lagged


class Counting:
    """Estimates that each frame is its predecessor plus one; the first, where nothing is known, is 0.

    What is known is what the clock says, so a wrong clock, mask or context gives wrong numbers.
    """

    schedule = Cosine()

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        self.calls += 1
        clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])
        known = int((clock[0, 0, :, 0, 0] == 0).sum())
        first = x[:, :, :1] if known else torch.zeros_like(x[:, :, :1])
        return Estimate(first + torch.arange(x.shape[2]).view(1, 1, -1, 1, 1))


def along(frames: int, start: float = 0.0) -> Tensor:
    return (start + torch.arange(float(frames))).view(1, 1, -1, 1, 1).expand(2, 3, frames, 4, 4)


@pytest.mark.parametrize(("window", "context"), [(2, 1), (5, 1), (5, 4), (8, 4)])
@pytest.mark.parametrize("frames", [1, 4, 5, 6, 23])
@pytest.mark.parametrize("given", [0, 1, 4, 9])
def test_frames_continue_from_the_last_and_are_as_many_as_asked(
    window: int, frames: int, given: int, context: int
) -> None:
    """Counting goes on over every seam, so no frame is lost, doubled or taken from elsewhere."""
    past = along(given)
    parts = list(Clean()(drawing(window, Counting()), past, frames, context, Condition()))
    assert all(1 <= part.shape[2] <= window for part in parts)
    torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(given + frames))


def test_each_window_looks_back_as_far_as_the_context() -> None:
    seen: list[int] = []

    class Spy(Counting):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])
            seen.append(int((clock[0, 0, :, 0, 0] == 0).sum()))
            return super().__call__(x, t, condition)

    parts = list(Clean()(drawing(8, Spy()), along(2), 20, 5, Condition()))
    assert [part.shape[2] for part in parts] == [6, 3, 3, 3, 3, 2]
    assert sorted(set(seen)) == [2, 5] and seen[0] == 2 and seen[-1] == 5


def test_a_context_that_fills_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 4; windows of 4 frames then have no room"):
        list(Clean()(drawing(4), along(4), 2, 4, Condition()))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_known_frames_come_back_bit_for_bit(sampler: str) -> None:
    frames = torch.randn(2, 3, 6, 4, 4)
    draw = drawing(6, sampler=sampler)
    found = draw(frames, first_frames(6, 4), Condition())
    assert torch.equal(found[:, :, :4], frames[:, :, :4])
    assert not torch.isclose(found[:, :, 4:], frames[:, :, 4:]).any()


def test_what_is_not_known_does_not_matter() -> None:
    frames = torch.randn(2, 3, 6, 4, 4)
    other = frames.clone()
    other[:, :, 4:] = 77.0
    known = first_frames(6, 4)
    assert torch.equal(drawing(6)(frames, known, Condition()), drawing(6)(other, known, Condition()))


def test_the_generator_decides_and_nothing_else() -> None:
    blank = torch.zeros(2, 3, 4, 4, 4)
    first = drawing(4, seed=1)(blank, None, Condition())
    torch.manual_seed(99)
    assert torch.equal(first, drawing(4, seed=1)(blank, None, Condition()))
    assert not torch.isclose(first, drawing(4, seed=2)(blank, None, Condition())).all()


def test_guidance_counts_where_a_label_is_asked_for() -> None:
    blank = torch.zeros(2, 3, 4, 4, 4)
    none, asked = Condition(label=torch.tensor([-1, -1])), Condition(label=torch.tensor([3, -1]))
    plain = drawing(4)(blank, None, none)
    assert torch.equal(plain, drawing(4, guidance=3.0)(blank, None, none))
    guided = drawing(4, guidance=3.0)(blank, None, asked)
    assert not torch.isclose(guided[0], drawing(4)(blank, None, asked)[0]).any()
    torch.testing.assert_close(guided[1], plain[1])  # the sample without a label is left as it was


def test_without_a_label_the_network_is_called_for_one_branch_alone() -> None:
    denoiser = Counting()
    drawing(4, denoiser, guidance=3.0)(torch.zeros(1, 3, 4, 4, 4), None, Condition())
    assert denoiser.calls == 4  # three steps and the last estimate


def test_generate_and_extend_go_through_the_codec() -> None:
    codec = Identity()
    made = torch.cat(list(generate(drawing(4), codec, 7, (4, 6), 2, Condition(), 3)), dim=2)
    assert made.shape == (3, 3, 7, 4, 6) and made.abs().max() <= 1
    clip = along(3, start=-1.0) / 20
    parts = list(extend(drawing(4, Counting()), codec, clip, 2, 2, Condition()))
    torch.testing.assert_close(torch.cat(parts, dim=2), (clip[:, :, 2:] + along(3)[:, :, 1:]).clamp(-1, 1))


def test_a_lagged_grid_takes_every_frame_along_the_whole_grid_one_after_the_other() -> None:
    times = torch.tensor([1.0, 0.7, 0.4, 0.1])
    known = torch.tensor([True, True, False, False, False])
    grid = lagged(times, known, 2)
    assert grid.shape == (3 + 2 * 2 + 1, 5)
    for frame, begins in ((2, 0), (3, 2), (4, 4)):
        expected = [1.0] * begins + times.tolist() + [times[-1].item()] * (4 - begins)
        torch.testing.assert_close(grid[:, frame], torch.tensor(expected))
    assert (grid.diff(dim=0) <= 0).all() and (grid[-1] == times[-1]).all()
    torch.testing.assert_close(lagged(times, known, 0), times[:, None].expand(4, 5))
    for lag in (3, 4, 9):  # from as many steps on as there are, a frame begins when the one before is done
        alone = lagged(times, known, lag)
        assert len(alone) == 3 + 2 * 3 + 1 and (alone.diff(dim=0) < 0).any(1).all()
    assert lagged(times[:1], known, 2).tolist() == [[1.0] * 5]


@pytest.mark.parametrize("given", [0, 3])
def test_a_lagged_draw_keeps_what_is_given_and_later_frames_see_cleaner_ones(given: int) -> None:
    clocks: list[Tensor] = []

    class Spy(Counting):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clocks.append(expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])[0, 0, :, 0, 0])
            return super().__call__(x, t, condition)

    draw = replace(drawing(6, Spy()), lag=2)
    past = along(given)
    parts = list(Clean()(draw, past, 6 - given, max(given, 1), Condition()))
    torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(6))
    assert len(clocks) == 3 + 2 * (6 - given - 1) + 1
    assert all((clock.diff() >= 0).all() for clock in clocks)
    assert any((clock[given:].diff() > 0).any() for clock in clocks)


def test_guidance_on_history_takes_the_place_of_guidance_where_frames_are_known() -> None:
    def made(**options: float | None) -> Tensor:
        label = Condition(label=torch.tensor([1, 1]))
        return torch.cat(list(Clean()(replace(drawing(6), **options), along(3), 3, 3, label)), dim=2)

    plain = made(guidance=1.0)
    torch.testing.assert_close(made(guidance=4.0, history=1.0), plain)
    assert not torch.allclose(made(guidance=1.0, history=3.0), plain)
    assert not torch.allclose(made(guidance=1.0, history=3.0), made(guidance=3.0))
    nothing_known = [
        torch.cat(list(Clean()(replace(drawing(6), history=h), along(0), 6, 3, Condition())), dim=2)
        for h in (None, 3.0)
    ]
    assert torch.equal(*nothing_known)


# Editing: every task is a mask


@pytest.mark.parametrize("new", [1, 3, 4, 11])
@pytest.mark.parametrize("given", [1, 2, 7])
def test_backwards_frames_lead_to_the_first(given: int, new: int) -> None:
    """The line goes on over every seam, and only the first frames of the clip are looked at."""
    line = Line()
    clip = along(given) * STEP
    parts = list(extend(drawing(5, line), Identity(), clip, new, 2, Condition(), backwards=True))
    torch.testing.assert_close(whole(*parts[::-1], clip), along(new + given, -new) * STEP)
    known = min(given, 2)
    assert line.seen[0] == list(range(5 - known, 5))  # the window ends with them
    assert all(seen in (line.seen[0], [3, 4]) for seen in line.seen)


def test_backwards_looks_at_the_first_frames_alone() -> None:
    clip = video(6)
    other = whole(clip[:, :, :2], torch.zeros(2, 3, 4, 16, 16))
    codec = tiny_codec()
    first, second = (whole(*extend(drawing(5), codec, x, 4, 2, Condition(), backwards=True)) for x in (clip, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, whole(*extend(drawing(5), codec, clip, 4, 2, Condition())))


@pytest.mark.parametrize("window", [10, 14])
@pytest.mark.parametrize(("context", "ends"), [(3, (3, 2)), (1, (1, 1)), (2, (2, 2))])
def test_interpolation_leads_from_the_one_to_the_other(window: int, context: int, ends: tuple[int, int]) -> None:
    line = Line()
    first, last = along(3) * STEP, along(2, start=8) * STEP
    made = whole(*interpolate(drawing(window, line), Identity(), first, last, 5, context, Condition()))
    torch.testing.assert_close(made, along(5, start=3) * STEP)
    after = ends[0] + 5
    assert all(seen == [*range(ends[0]), *range(after, after + ends[1])] for seen in line.seen)


def test_a_loop_leads_from_the_end_to_the_beginning() -> None:
    clip = along(6) * STEP
    made = whole(*interpolate(drawing(8, Line()), Identity(), clip, clip, 4, 2, Condition()))
    torch.testing.assert_close(made[0, 0, :, 0, 0], torch.tensor([4.0, 3.0, 2.0, 1.0]) * STEP)


@pytest.mark.parametrize(("window", "context"), [(5, 1), (6, 2), (8, 3)])
@pytest.mark.parametrize("between", [9, 16, 31])
def test_more_frames_than_a_window_holds_go_on_from_the_one_and_end_at_the_other(
    window: int, context: int, between: int
) -> None:
    """Each window looks back on the last; the one that ends the stretch sees what follows, and none ends before it."""
    line, clip = Line(), along(6) * STEP
    end = clip[:, :, :4] + 2 * between * STEP  # further than the steps lead
    parts = list(interpolate(drawing(window, line), Identity(), clip, end, between, context, Condition()))
    made = whole(*parts)
    assert made.shape[2] == between and all(part.shape[2] <= window - context for part in parts)
    steps = whole(clip, made, end).diff(dim=2)[0, 0, :, 0, 0] / STEP
    torch.testing.assert_close(steps[5 : 5 + between - parts[-1].shape[2]], torch.ones(between - parts[-1].shape[2]))
    last = steps[5 + between - parts[-1].shape[2] : 6 + between]
    torch.testing.assert_close(last, last[:1].expand(len(last)))
    assert parts[-1].shape[2] >= max((window - context) // 2, 1)
    ahead = parts[-1].shape[2] + context
    assert line.seen[-1][: context + 1] == [*range(context), ahead]


def test_no_frames_between_are_refused() -> None:
    clip = along(6) * STEP
    for between in (0, -1):
        with pytest.raises(ValueError, match=f"between is {between}; give 1 or more"):
            list(interpolate(drawing(10), Identity(), clip, clip, between, 1, Condition()))


@pytest.mark.parametrize("frames", [2, 3, 7, 16])
@pytest.mark.parametrize(("window", "context"), [(5, 2), (6, 3), (32, 8)])
def test_doubling_puts_a_frame_between_every_two(window: int, context: int, frames: int) -> None:
    clip = along(frames) * 2 * STEP
    made = whole(*double(drawing(window, Line()), Identity(), clip, context, Condition()))
    assert torch.equal(made[:, :, ::2], clip)
    torch.testing.assert_close(made, along(2 * frames - 1) * STEP)


def test_one_frame_has_nothing_to_double() -> None:
    with pytest.raises(ValueError, match=r"the clip has 1 frame, .*: give 2 or more"):
        double(drawing(5), Identity(), along(1), 2, Condition())


def test_holes_of_whole_frames_are_filled_over_windows() -> None:
    line, clip = Line(), along(14) * STEP
    hole = torch.zeros(1, 1, 14, 4, 4, dtype=torch.bool)
    hole[:, :, [1, 4, 5, 6, 10, 13]] = True
    broken = torch.where(hole, 0.9, clip)
    made = whole(*inpaint(drawing(6, line), Identity(), broken, hole, 2, Condition()))
    torch.testing.assert_close(made, clip)
    assert torch.equal(torch.where(hole, 0, made), torch.where(hole, 0, clip))
    seen = [[0, 2, 3], [0, 1, 4, 5], [0, 1, 2, 4, 5], [0, 1]]  # frames 5 and 6 come together, with 7 and 8 behind them
    assert [sorted(x) for x in dict.fromkeys(map(tuple, line.seen))] == seen


@pytest.mark.parametrize("frames", [1, 4, 6, 7, 15])
@pytest.mark.parametrize("history", [None, 2.0])
@pytest.mark.parametrize("make", [Identity, tiny_codec])
def test_a_mask_of_everything_is_generation(make, history: float | None, frames: int) -> None:
    codec, label = make(), Condition(label=torch.tensor([1, 2]))
    every = torch.ones(1, 1, 1, 16, 16, dtype=torch.bool)
    draws = [replace(drawing(6, guidance=1.5), history=history) for _ in range(2)]
    made = whole(*inpaint(draws[0], codec, video(frames), every, 2, label))
    assert torch.equal(made, whole(*generate(draws[1], codec, frames, (16, 16), 2, label, 2)))


def test_a_mask_of_nothing_is_the_clip() -> None:
    denoiser, clip = Line(), video(9)
    none = torch.zeros(1, 1, 1, 16, 16, dtype=torch.bool)
    made = whole(*inpaint(drawing(6, denoiser), tiny_codec(), clip, none, 2, Condition()))
    assert torch.equal(made, clip) and not denoiser.seen


@pytest.mark.parametrize("frames", [3, 6, 13])
def test_pixels_outside_the_mask_are_kept_and_those_inside_made(frames: int) -> None:
    codec, clip = tiny_codec(), video(frames)
    mask = torch.rand(2, 1, frames, 16, 16) < 0.05
    mask[..., 4:9, 4:9] = True
    mask[:, :, 1] = False  # a frame to be left alone
    made = whole(*inpaint(drawing(6), codec, clip, mask, 2, Condition()))
    every = mask.expand_as(clip)
    assert made.shape == clip.shape and made.abs().max() <= 1
    assert torch.equal(made[~every], clip[~every])
    assert (made[every] != clip[every]).all()
    again = torch.where(mask, torch.rand_like(clip), clip)
    assert torch.equal(made, whole(*inpaint(drawing(6), codec, again, mask, 2, Condition()))), "hidden pixels are seen"


def test_the_model_is_told_what_is_known_what_is_in_doubt_and_what_is_not() -> None:
    clocks: list[Tensor] = []

    class Spy(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clocks.append(expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:]))
            return super().__call__(x, t, condition)

    mask, codec, clip = torch.zeros(1, 1, 5, 16, 16, dtype=torch.bool), tiny_codec(), video(5)
    mask[:, :, 2, 0, 15] = True
    whole(*inpaint(drawing(5, Spy()), codec, clip, mask, 2, Condition()))
    _, doubt = encode_around(codec, clip, mask)
    until = torch.where(doubt.isfinite(), Cosine().time_of(-2 * doubt.log()), 1.0)
    assert doubt[:, :, 2, 0, 3].isinf().all() and not doubt[:, :, [0, 1, 3, 4]].any()
    assert int(((doubt > 0) & doubt.isfinite()).sum()) > 0, "those around the hole are in doubt"
    now = [clock[:, :, 2, 0, 3].view(2, 1, 1, 1, 1) for clock in clocks]
    assert clocks and all(torch.equal(clock, until.minimum(t)) for clock, t in zip(clocks, now, strict=True))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    for mask, said in ((torch.ones(1, 1, 1, 8, 8), "float32"), (torch.ones(1, 1, 1, 8, 9) > 0, "expected")):
        with pytest.raises(ValueError, match=said):
            list(inpaint(drawing(6), Identity(), video(4, 8), mask, 2, Condition()))
    with pytest.raises(ValueError, match="context is 6; windows of 6 frames"):
        list(inpaint(drawing(6), Identity(), video(4, 8), torch.ones(1, 1, 1, 8, 8) > 0, 6, Condition()))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_known_content_comes_back_bit_for_bit_over_windows(sampler: str) -> None:
    clip, mask = video(11, 4), torch.rand(2, 1, 11, 4, 4) < 0.5
    made = whole(*inpaint(drawing(4, sampler=sampler), Identity(), clip, mask, 1, Condition()))
    every = mask.expand_as(clip)
    assert torch.equal(made[~every], clip[~every]) and (made[every] != clip[every]).all()


@pytest.mark.parametrize("history", [None, 2.0])
def test_replacement_shows_parts_of_frames_at_the_time_of_the_rest_and_whole_frames_clean(
    history: float | None,
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            seen.append((x, expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])))
            return super().__call__(x, t, condition)

    frames, known = torch.randn(2, 3, 5, 4, 4), torch.rand(2, 1, 5, 4, 4) < 0.5
    known[:, :, 0], known[:, :, 1] = True, False
    draw = replace(drawing(5, Spy()), replace=True, history=history)
    made = draw(frames, known, Condition())
    assert torch.equal(made.where(known, 0), frames.where(known, 0))
    for x, clock in seen:
        assert (clock[:2, :, 0] == 0).all() and torch.equal(x[:2, :, 0], frames[:, :, 0])
        assert (clock[:2, :, 1:] == clock[0, 0, 1, 0, 0]).all() and clock[0, 0, 1, 0, 0] > 0
    x, clock = seen[0]
    content = x[:2, :, 2:].where(known[:, :, 2:], 0)
    assert not torch.isclose(content, frames[:, :, 2:].where(known[:, :, 2:], 0)).where(known[:, :, 2:], False).any()
    whole_frames = first_frames(5, 2)
    plain, replaced = (replace(drawing(5), replace=on)(frames, whole_frames, Condition()) for on in (False, True))
    assert torch.equal(plain, replaced), "whole frames are known as ever"
