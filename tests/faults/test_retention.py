"""Old checkpoints that cannot be removed: no more than one too many, and never the newest lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.engine.publish import published

pytestmark = pytest.mark.faults

DELETE = ["shutil.rmtree", "os.remove", "os.rmdir"]


@pytest.mark.parametrize("refused", [DELETE, ["os.rename"]])
def test_what_cannot_be_deleted(runs, whole: Path, tmp_path: Path, refused: list[str]) -> None:
    """Where only deleting fails, or only renaming."""
    run = tmp_path / "run"
    assert runs.finish(run, refuse=refused, keep=1) == 0, runs.said(run)
    assert len(published(run / "checkpoints")) <= 2
    assert ("could not remove" in runs.said(run)) == (refused == DELETE)
    runs.assert_same(run, whole)
    assert runs.finish(run, keep=1, steps=8) == 0
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name != "latest"] == ["step-0000008"]


def test_nothing_can_be_taken_away(runs, whole: Path, tmp_path: Path) -> None:
    """Then all stay, which is told at each save, and the newest is what a run goes on from."""
    run = tmp_path / "run"
    assert runs.finish(run, refuse=[*DELETE, "os.rename"], keep=1) == 0, runs.said(run)
    assert runs.said(run).count("could not remove") >= 2
    assert runs.saved(run) == 6
    runs.assert_same(run, whole)
