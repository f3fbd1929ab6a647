"""Stopped by signals, at the worst moments: what is left goes on to the same bits, and the folder is free."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from vidiff.engine import checkpoint
from vidiff.engine.guard import Signals

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("number", "code", "method"), [(signal.SIGTERM, 0, "forkserver"), (signal.SIGINT, 130, "fork")]
)
def test_a_signal_to_the_group_saves_and_stops(
    runs, whole: Path, tmp_path: Path, number: int, code: int, method: str
) -> None:
    """The loader's workers get it too, and must not take the training down."""
    run, mark = tmp_path / "run", tmp_path / "mark"
    process = runs.start(run, workers=2, method=method, checkpoint_every=0, own_group=True, faults=held(mark, 3))
    runs.wait(mark.exists)
    os.killpg(process.pid, number)
    release(mark)
    assert runs.end(process) == code, runs.said(run)
    assert runs.saved(run) == runs.step(run) == 3
    assert "the same command goes on" in runs.said(run)
    runs.wait(lambda: _gone(process.pid))
    assert runs.finish(run) == 0
    runs.assert_same(run, whole)


def test_a_signal_while_workers_start(runs, tmp_path: Path) -> None:
    """Before they are shielded, and before there is any data."""
    run = tmp_path / "run"
    process = runs.start(run, workers=1, method="forkserver", own_group=True, slow=[0])
    runs.wait((run / "environment.json").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert runs.end(process) == 130, runs.said(run)
    assert "Error" not in runs.said(run)
    assert runs.step(run) == 0


def held(mark: Path, step: int) -> dict[str, object]:
    """A fault: the training waits within this step, from when `mark` is there until it is released."""
    return {"hold": [8 * (step - 1)], "mark": str(mark)}


def release(mark: Path) -> None:
    Path(f"{mark}.go").touch()


def _gone(group: int) -> bool:
    """Whether a process group has no process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_signal_cuts_validation_short(runs, tmp_path: Path) -> None:
    """The averaged weights, in place for validating, must not be saved as the weights; and it is made up for."""
    run, other = tmp_path / "run", tmp_path / "other"
    process = runs.start(run, slow_validation=1000, validate_every=3)
    runs.wait(Path(f"{run}.slow").exists)
    process.terminate()
    assert runs.end(process) == 0
    assert runs.saved(run) == 3
    for folder in (run, other):
        assert runs.finish(folder, slow_validation=0.01, validate_every=3) == 0
    runs.assert_same(run, other)
    for folder in (run, other):
        text = (folder / "metrics.jsonl").read_text()
        assert [line.split(",")[0] for line in text.splitlines() if "val/loss" in line] == ['{"step": 3', '{"step": 6']


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cuts_sampling_short(runs, whole: Path, tmp_path: Path, number: int) -> None:
    """With the training's loader open, and its two workers in the same process group."""
    run = tmp_path / "run"
    process = runs.start(run, slow_sampling=1000, sample_every=3, workers=2, own_group=True)
    runs.wait(Path(f"{run}.slow").exists)
    os.killpg(process.pid, number)
    assert runs.end(process) == (0 if number == signal.SIGTERM else 130)
    assert runs.saved(run) == 3
    runs.wait(lambda: _gone(process.pid))
    assert runs.finish(run, slow_sampling=0.01, sample_every=3) == 0
    runs.assert_same(run, whole)


def test_a_second_signal_while_saving_leaves_the_last_checkpoint(runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = runs.start(run, slow_save=1000)
    runs.wait(lambda: (run / "checkpoints" / ".writing-step-0000004").exists())
    process.terminate()
    runs.wait(lambda: "once more to leave at once" in runs.said(run))
    time.sleep(Signals.patience)  # which passes in the training as well, since it has said that
    process.terminate()
    assert runs.end(process) == 128 + signal.SIGTERM
    assert "again: leaving now" in runs.said(run)
    assert runs.saved(run) == 2
    assert checkpoint.load(run / "checkpoints" / "step-0000002").state["counters"]["step"] == 2


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_killed_training_frees_its_folder_at_once(runs, tmp_path: Path, method: str) -> None:
    """Its loader's workers live on for a moment, and must not hold the lock; but only for a moment."""
    run, mark = tmp_path / "run", tmp_path / "mark"
    process = runs.start(run, workers=2, method=method, own_group=True, faults=held(mark, 2))
    runs.wait(mark.exists)
    process.kill()
    runs.wait(lambda: not Path(f"/proc/{process.pid}").exists())
    assert runs.finish(run) == 0
    assert runs.saved(run) == 6
    runs.wait(lambda: _gone(process.pid))


def test_two_trainings_on_one_folder(runs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = runs.start(run, pause=0.05, steps=10_000)
    runs.wait(lambda: runs.step(run) >= 1)
    assert runs.finish(run) == 1
    assert f"held by another training (process {first.pid} on " in runs.said(run)
    first.terminate()
    assert runs.end(first) == 0
