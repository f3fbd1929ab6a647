"""The training clock."""

from __future__ import annotations

import pytest
import torch

from vidiff.objective.task import Tasks, draw_clock, draw_known

B, F = 400, 12


def drawn(**options: float) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    tasks = Tasks(**options)
    known, level, task = draw_known(tasks, B, F, torch.device("cpu"))
    t = (torch.arange(B) + 0.5) / B
    clock, learned = draw_clock(tasks, t, known, level)
    return t, known.flatten(1), level.flatten(), task, clock.flatten(1), learned.flatten(1)


def test_without_a_rise_every_unknown_frame_stands_at_t() -> None:
    t, known, level, _, clock, learned = drawn(rising=0.0)
    assert torch.equal(learned, ~known)
    torch.testing.assert_close(clock, torch.where(known, level[:, None], t[:, None]))


def test_clocks_rise_evenly_from_one_unknown_frame_to_the_next() -> None:
    _, known, _, _, clock, learned = drawn(rising=1.0, slope=0.4)
    assert (learned.sum(1) >= 1).all() and not (learned & known).any()
    rises = []
    for i in range(B):
        unknown = clock[i, ~known[i]]
        assert (unknown.diff() >= 0).all()
        assert torch.equal(learned[i, ~known[i]], (unknown > 0) & (unknown < 1))
        inside = unknown[(unknown > 0) & (unknown < 1)].diff()
        if len(inside):
            torch.testing.assert_close(inside, inside[:1].expand_as(inside), atol=1e-5, rtol=0)
            rises.append(float(inside[0]))
    assert max(rises) <= 0.4 and 0.1 < sum(rises) / len(rises) < 0.25
    assert (clock[:, -1] == 1).any() and ((clock == 0) & ~known).any(), "some wait, and some have arrived"


def test_each_learned_frame_sees_the_whole_range_of_times() -> None:
    """A rolling draw takes every frame from 1 to 0, so the times that are learned cover all of it."""
    _, _, _, _, clock, learned = drawn(rising=1.0, generate=1.0, first=0.0, random=0.0)
    counts = torch.histc(clock[learned], 4, 0.0, 1.0)
    assert counts.min() > 0.7 * counts.mean()


def test_a_part_of_the_samples_rises() -> None:
    _, _, _, _, clock, _ = drawn(rising=0.25, generate=1.0, first=0.0, random=0.0)
    assert (clock.diff(dim=1) > 0).any(1).double().mean() == pytest.approx(0.25, abs=0.07)


def test_known_frames_are_at_0_for_half_and_forgotten_for_some() -> None:
    _, known, level, task, clock, _ = drawn(noise=0.2, forget=0.1)
    assert (level == 1).double().mean() == pytest.approx(0.1, abs=0.05)
    assert (level == 0).double().mean() == pytest.approx(0.45, abs=0.08)
    assert level[level < 1].max() <= 0.2
    assert not known[task == 0].any() and known[task == 1].any(1).all()
    assert torch.equal(clock[known], level[:, None].expand_as(clock)[known])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rising": 1.5}, "tasks.rising is 1.5"),
        ({"slope": -0.1}, "tasks.slope is -0.1"),
        ({"generate": 0, "first": 0, "random": 0}, "every weight is 0"),
        ({"noise": float("nan")}, "tasks.noise is nan"),
    ],
)
def test_bad_options_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tasks(**wrong)
