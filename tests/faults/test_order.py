"""Each sample once, in one order: however often a run stops, and whoever loads and trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidiff.data.order import Order
from vidiff.report.log import read_metrics

pytestmark = pytest.mark.faults

EPOCH = 48  # six steps
WANTED = Order([range(EPOCH)], EPOCH).permutation(0)


def noted(file: Path, world: int = 1) -> list[int]:
    """The samples that a training saw, in the order of its steps; of each, those of rank 0 first."""
    ranks = [[json.loads(line) for line in Path(f"{file}{rank}").read_text().splitlines()] for rank in range(world)]
    return [key for step in zip(*ranks, strict=True) for part in step for key in part]


def test_three_resumes_in_one_epoch(runs, tmp_path: Path) -> None:
    """With two workers, then none, one, and two."""
    seen = []
    for steps, workers in ((2, 2), (3, 0), (5, 1), (6, 2)):
        keys = str(tmp_path / f"keys{steps}-")
        assert runs.finish(tmp_path / "run", steps=steps, workers=workers, epoch=EPOCH, faults={"keys": keys}) == 0
        seen += noted(Path(keys))
    assert seen == WANTED
    assert sorted(seen) == list(range(EPOCH))


def test_two_processes_then_one_then_two(runs, tmp_path: Path) -> None:
    """The same order as of one process throughout, and its losses to 1e-5."""
    seen, options = [], {"noise": 0.0, "epoch": EPOCH}
    for steps, world in ((2, 2), (4, 1), (6, 2)):
        faults = {"keys": str(tmp_path / f"keys{steps}-")}
        runs.finish_ranks(tmp_path / "run", world, steps=steps, faults=faults, **options)
        seen += noted(Path(faults["keys"]), world)
    assert seen == WANTED
    assert runs.finish(tmp_path / "one", **options) == 0
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("run", "one")]
    assert len(losses[1]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_half_and_the_rest(runs, whole: Path, tmp_path: Path) -> None:
    """As two processes of the system: weights, average, optimizer and losses are those of one run, bit for bit."""
    assert runs.finish(tmp_path / "run", steps=3) == 0
    assert runs.finish(tmp_path / "run", workers=1) == 0
    runs.assert_same(tmp_path / "run", whole)
