"""Grids: where their times stand, by what each kind says of itself and by diffusers' own numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from vidiff.diffusion.grid import KINDS, SPACINGS, SUBSEQUENCES, Grid, discrete_times, time_grid
from vidiff.diffusion.schedule import SCHEDULES, Cosine, Flow, Linear, build_schedule

DOUBLE = torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_grid_falls_between_finite_ends(name: str, kind: str) -> None:
    schedule = build_schedule(name)
    times = Grid(kind=kind)(schedule, 31)
    assert times.shape == (31,) and times.dtype == torch.float32
    assert (times.diff() < 0).all() and times[-1] > 0 and times[0] <= 1
    bell = (-0.3 - 2.0 * math.log(31 / 0.25), -0.3 + 2.4 * math.log(30.25))
    if kind in SPACINGS:
        for ends in (None, [-6.0, 5.0]):
            log_snr = schedule.log_snr(Grid(kind=kind, ends=ends)(schedule, 31, DOUBLE)).tolist()
            lowest, highest = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=DOUBLE)).tolist()
            first, last = ends or (bell if kind == "logistic" else (-12.0, 10.0))
            assert log_snr[0] == pytest.approx(max(first, lowest), abs=1e-6)
            assert log_snr[-1] == pytest.approx(min(last, highest), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_time_is_the_first(kind: str) -> None:
    schedule = Cosine()
    assert Grid(kind=kind)(schedule, 1).shape == (1,)
    if kind not in ("leading", "logistic"):  # whose first time depends on their number
        assert float(Grid(kind=kind)(schedule, 1)) == pytest.approx(float(Grid(kind=kind)(schedule, 9)[0]))


def test_grids_are_spaced_as_they_say() -> None:
    schedule = Cosine()
    even = time_grid(schedule, 10, "uniform", dtype=DOUBLE).diff()
    torch.testing.assert_close(even, even[:1].expand(10), rtol=1e-9, atol=0)
    square = time_grid(schedule, 10, "quadratic", dtype=DOUBLE).sqrt().diff()
    torch.testing.assert_close(square, square[:1].expand(10), rtol=1e-9, atol=0)
    log_snr = schedule.log_snr(time_grid(schedule, 10, "log_snr", dtype=DOUBLE)).diff()
    torch.testing.assert_close(log_snr, log_snr[:1].expand(10), rtol=1e-7, atol=0)
    for rho in (None, 3.0):
        alpha, sigma = schedule(time_grid(schedule, 10, "karras", rho=rho, dtype=DOUBLE))
        root = ((sigma / alpha) ** (1 / (rho or 7.0))).diff()
        torch.testing.assert_close(root, root[:1].expand(10), rtol=1e-7, atol=0)


def test_the_bell_is_logistic_on_both_sides_and_begins_in_noise() -> None:
    schedule = Flow()
    for count in (5, 8, 10, 20, 100):
        log_snr = schedule.log_snr(Grid()(schedule, count, DOUBLE))
        off = log_snr + 0.3
        share = torch.sigmoid(off / torch.where(off < 0, 2.0, 2.4))
        even = (torch.arange(count, dtype=DOUBLE) + 0.25) / (count + 0.25)
        torch.testing.assert_close(share, even, rtol=0, atol=1e-9)
    for count in (1, 2, 3, 4):  # pure noise must not pass for a clip
        assert float(schedule.log_snr(Grid()(schedule, count, DOUBLE))[0]) == pytest.approx(-6.0)


def test_a_bell_follows_where_half_is_known() -> None:
    schedule = Flow()
    for half, below in ((0.0, 2.45), (-1.5, 1.94), (-2.5, 1.6), (-12.0, 0.5)):
        for count in (5, 10, 20):
            log_snr = schedule.log_snr(Grid(half=half)(schedule, count, DOUBLE))
            assert log_snr[[0, -1]].tolist() == pytest.approx([-7.0, 5.6 + 4.5 * math.log(count / 10)])
            off = log_snr - (2.7 + math.log(count / 10) + 1.7 * half)
            share = torch.sigmoid(off / torch.where(off < 0, below, 3.25)).diff()
            torch.testing.assert_close(share, share.mean().expand(count - 1), rtol=1e-5, atol=1e-12)
    told = schedule.log_snr(Grid(half=-1.5, ends=[-8.0, 5.0])(schedule, 9, DOUBLE))
    assert told[[0, -1]].tolist() == pytest.approx([-8.0, 5.0])
    for count in (1, 2, 3):  # pure noise must not pass for a clip
        assert float(schedule.log_snr(Grid(half=-1.5)(schedule, count, DOUBLE))[0]) == pytest.approx(-7.0)
    assert float(schedule.log_snr(Grid(half=-0.5)(schedule, 999, DOUBLE))[-1]) == pytest.approx(10.0, abs=1e-6)


def test_what_was_measured_of_a_model_moves_a_bell_that_was_told_nothing() -> None:
    assert Grid().measured(-2.0) == Grid(half=-2.0) and Grid().measured(None) == Grid()
    for told in (Grid(half=-1.0), Grid(ends=[-8.0, 5.0]), Grid(kind="karras")):
        assert told.measured(-2.0) == told


@pytest.mark.parametrize("count", [1, 3, 7, 10, 20, 999, 1000])
@pytest.mark.parametrize("kind", SUBSEQUENCES)
def test_subsequences_are_those_of_diffusers(kind: str, count: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    if (kind, count) == ("linspace", 1):
        return  # its only step is that of no noise
    scheduler = diffusers.DDIMScheduler(timestep_spacing=kind)
    scheduler.set_timesteps(count)
    times = Grid(kind=kind)(Linear(), count, DOUBLE)
    assert torch.equal((times * 1000).round().long() - 1, scheduler.timesteps)
    assert torch.equal(times, discrete_times(Linear(), scheduler.timesteps.tolist(), DOUBLE))


def test_subsequences_count_the_steps_of_the_schedule_s_own_table() -> None:
    assert Grid(kind="linspace")(Linear(steps=5), 5, DOUBLE).tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert discrete_times(Linear(), [999, 500, 0], DOUBLE).tolist() == [1.0, 0.501, 0.001]


def test_steps_are_between_two_times_each() -> None:
    times = time_grid(Cosine(), 4, "karras", ends=(-8.0, 6.0), rho=5.0)
    assert torch.equal(times, Grid(kind="karras", ends=[-8.0, 6.0], rho=5.0)(Cosine(), 5))
    assert len(list(pairwise(times))) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(kind="even"), "unknown grid kind 'even'; choose one of karras, leading, linspace, log_snr"),
        (lambda: Grid(ends=[5.0, -5.0]), r"ends is \[5.0, -5.0\]; give log-SNR of the first time and a higher one"),
        (lambda: Grid(ends=[-5.0]), r"ends is \[-5.0\]"),
        (lambda: Grid(kind="leading", ends=[-5.0, 5.0]), "a grid of kind leading has its own: leave it out"),
        (lambda: Grid(rho=7.0), "rho is 7.0, but a grid of kind logistic has none"),
        (lambda: Grid(kind="karras", half=-2), "half is -2, but a grid of kind karras does not ask"),
        (lambda: Grid(half=-15.0), "half is -15.0; give a log-SNR from -14 to 6"),
        (lambda: Grid(kind="karras", rho=0.0), "rho is 0.0; give a positive number"),
        (lambda: Grid()(Cosine(), 0), "steps is 0; give 1 or more"),
        (lambda: Grid(kind="trailing")(Linear(), 1001), "steps is 1001, but the schedule has 1000 discrete steps"),
        (lambda: Grid(ends=[-18.0, -16.0])(Linear(), 5), "leaves no time between them"),
        (lambda: time_grid(Cosine(), 0), "steps = 0 must be at least 1"),
        (lambda: discrete_times(Linear(), [0, 5]), r"discrete steps \[0, 5\] must fall"),
        (lambda: discrete_times(Linear(), [1000, 5]), "within 0..999"),
    ],
)
def test_bad_input_is_named_with_the_choices(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
