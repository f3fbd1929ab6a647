"""A disk that is full, as a limit on the size of files makes one: the training goes on, and what was saved stays."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("size", [0, 1_200, 3_000, 9_000])
def test_full_for_a_while(runs, whole: Path, tmp_path: Path, size: int) -> None:
    """At whatever file it fills up, the log that its lines are printed to included: a save is missed, no more."""
    run = tmp_path / "run"
    assert runs.finish(run, full=[4, 5], size=size, validate_every=1) == 0, runs.said(run)
    if size:
        assert "could not write the checkpoint of step 4 (" in runs.said(run)
        assert "); training goes on" in runs.said(run)
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["latest", "step-0000002", "step-0000006"]
    runs.assert_same(run, whole, metrics=False)  # those of the steps at which the disk was full are lost


def test_full_to_the_end(runs, whole: Path, tmp_path: Path) -> None:
    """The last save must succeed, so the run ends in an error; and goes on once there is room."""
    run = tmp_path / "run"
    assert runs.finish(run, full=[4, 5, 6], size=3_000, validate_every=1) == 1
    assert "could not write the checkpoint of step 4 (" in runs.said(run)
    assert "OSError" in runs.said(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step-0000002"]
    assert runs.saved(run) == 2
    assert runs.finish(run) == 0
    runs.assert_same(run, whole)
