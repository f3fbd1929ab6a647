"""Killed as by kill -9, in the middle of saves and anywhere else: what is left goes on to the same bits."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

CHANCE = random.Random(0)
# Moments: 12 in the middle of a save, after so many of what it does to files (about 40 in each of three saves, of which
# the first has nothing before it and the last something to remove); 8 after so many seconds of training.
DURING_SAVES = [CHANCE.randrange(start, start + 10) for start in range(2, 122, 10)]
WHILE_TRAINING = [CHANCE.uniform(0.0, 0.3) for _ in range(8)]


@pytest.mark.parametrize("event", DURING_SAVES)
def test_killed_while_saving(runs, whole: Path, tmp_path: Path, event: int) -> None:
    run = tmp_path / "run"
    assert runs.finish(run, die_at=event, keep=2) == -signal.SIGKILL
    goes_on(runs, run, whole)


@pytest.mark.parametrize("seconds", WHILE_TRAINING)
def test_killed_while_training(runs, whole: Path, tmp_path: Path, seconds: float) -> None:
    run = tmp_path / "run"
    last = {"hold": [8 * 5], "mark": str(tmp_path / "mark")}  # where it waits, so that it is not done too soon
    process = runs.start(run, pause=0.15, keep=2, faults=last)
    runs.wait_for_more(run)
    time.sleep(seconds)
    process.kill()
    assert runs.end(process) == -signal.SIGKILL
    goes_on(runs, run, whole)


def goes_on(runs, run: Path, whole: Path) -> None:
    """A save begins at every second step, once the one before has ended; so only the last one begun may be lost."""
    begun = (runs.step(run) - 1) // 2 * 2
    left = runs.saved(run)  # raises where nothing sound is left
    assert left >= begun - 2, f"more than one save was lost: {left} is left of a run that was past step {begun}"
    assert runs.finish(run, keep=2) == 0
    runs.assert_same(run, whole)
    assert not [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".")], "debris stays"
