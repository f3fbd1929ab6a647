"""The training clock."""

from __future__ import annotations

import pytest
import torch

from vidiff.objective.task import Tasks, draw_clock, draw_known

B, F = 400, 12


def drawn(**options: float) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    tasks = Tasks(**options)
    drawn = draw_known(tasks, torch.Size((B, 4, F, 8, 6)), torch.device("cpu"))
    t = (torch.arange(B) + 0.5) / B
    clock, learned = draw_clock(tasks, t, drawn)
    return t, drawn.known.flatten(1), drawn.level.flatten(), drawn.task, clock.flatten(1), learned.flatten(1)


ONLY = dict.fromkeys(Tasks.NAMES, 0.0) | {"rising": 0.0, "noise": 0.0, "forget": 0.0}


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


def test_backwards_knows_the_last_frames() -> None:
    _, known, _, _, clock, learned = drawn(**ONLY | {"last": 1.0})
    counts = known.sum(1)
    assert set(counts.tolist()) == set(range(1, F))
    assert torch.equal(known, torch.arange(F) >= (F - counts)[:, None])
    assert (clock[known] == 0).all() and torch.equal(learned, ~known)


def test_ends_are_known_on_both_sides() -> None:
    _, known, _, _, _, _ = drawn(**ONLY | {"ends": 1.0})
    counts = known.sum(1)
    assert set(counts.tolist()) == set(range(1, F))
    assert known[:, 0].all() and known[counts > 1, -1].all()
    assert (known.int().diff(dim=1) != 0).sum(1).max() == 2, "what is unknown is one run of frames"


def test_boxes_are_boxes() -> None:
    torch.manual_seed(0)
    tasks = Tasks(**ONLY | {"boxes": 1.0, "rising": 1.0})
    drawn = draw_known(tasks, torch.Size((B, 4, F, 8, 6)), torch.device("cpu"))
    assert drawn.known.shape == (B, 1, F, 8, 6)
    t = torch.rand(B)
    clock, learned = draw_clock(tasks, t, drawn)
    assert torch.equal(learned, ~drawn.known), "the clock does not rise"
    assert torch.equal(clock, torch.where(drawn.known, 0.0, t.view(-1, 1, 1, 1, 1)))
    unknown = ~drawn.known[:, 0]  # b f h w
    assert unknown.flatten(1).any(1).all(), "something is left to be made"
    outpainted = 0
    for sample in unknown:
        frames = sample.flatten(1).any(1)
        first = sample[frames][0]
        assert (sample[frames] == first).all(), "the same in each frame that has one"
        assert (frames.int().diff() != 0).sum() <= 2, "in a run of frames"
        outpainted += not _is_box(first)
        assert _is_box(first) or _is_box(~first)
        assert frames.all() or (first.any(1).sum() >= 2 and first.any(0).sum() >= 2), "a quarter of each side"
    assert 0.1 < outpainted / B < 0.3


def _is_box(mask: torch.Tensor) -> bool:
    return torch.equal(mask, mask.any(1)[:, None] & mask.any(0)[None])


def test_frames_of_their_own_clocks_have_the_times_of_the_distribution() -> None:
    tasks = Tasks(**ONLY | {"clocks": 1.0})
    drawn = draw_known(tasks, torch.Size((B, 4, F, 8, 6)), torch.device("cpu"))
    in_order = (torch.arange(B * F) + 0.5) / (B * F)
    clock, learned = draw_clock(tasks, torch.rand(B), drawn, lambda count: in_order[:count])
    assert learned.all() and not drawn.known.any()
    assert torch.equal(clock.flatten().sort().values, in_order), "as it draws them, in another order"
    correlation = torch.corrcoef(torch.stack([clock[:, 0, 0].flatten(), clock[:, 0, 1].flatten()]))[0, 1]
    assert abs(correlation) < 0.15, "neighbours are independent"


def test_a_task_of_no_weight_changes_nothing_of_the_others() -> None:
    """What a seed draws for a mixture does not depend on the tasks that are not in it."""
    torch.manual_seed(3)
    drawn = draw_known(Tasks(), torch.Size((64, 4, F, 8, 6)), torch.device("cpu"))
    torch.manual_seed(3)
    weights = torch.tensor([0.5, 0.35, 0.15])
    assert torch.equal(drawn.task, torch.multinomial(weights, 64, replacement=True))
    count = torch.randint(1, F, (64,))
    assert torch.equal(drawn.known[drawn.task == 1].sum((1, 2, 3, 4)), count[drawn.task == 1])


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


def test_a_single_frame_is_only_generated() -> None:
    weights = dict.fromkeys(Tasks.NAMES, 1.0)
    torch.manual_seed(1)
    drawn = draw_known(Tasks(**weights), torch.Size((B, 4, 1, 8, 6)), torch.device("cpu"))
    numbers = {Tasks.NAMES[int(task)] for task in drawn.task}
    assert numbers == {"generate", "boxes", "clocks"}
    boxed = drawn.task == Tasks.NAMES.index("boxes")
    assert not drawn.known[~boxed].any() and drawn.known[boxed].any()
    assert 0.5 < (drawn.task == 0).double().mean() < 0.9, "five tasks of seven"
    t = torch.rand(B)
    plain = Tasks(**{**weights, "boxes": 0.0})
    drawn = draw_known(plain, torch.Size((B, 4, 1, 8, 6)), torch.device("cpu"))
    clock, learned = draw_clock(plain, t, drawn)
    alone = drawn.task == 0
    risen = (clock.flatten() != t) & alone
    assert learned[alone].all() and not risen.any(), "there is nothing along which a clock could rise"
