"""Processes that stand still or are killed: the others do not wait for ever, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import tiny as module

from vidiff.engine import checkpoint
from vidiff.engine.guard import CODE
from vidiff.report.log import read_metrics

pytestmark = pytest.mark.faults

HERE = Path(module.__file__).parent
WAIT = 2.0  # seconds


def test_one_of_two_stands_still(runs, tmp_path: Path) -> None:
    """Both tell who they are and their stacks, which show who it is, and end in time; then the run goes on."""
    run, key = tmp_path / "run", 8 * 3 + 6  # of step 4, in the second process
    ranks = runs.start_ranks(run, 2, hang=WAIT, faults={"stall": [key]})
    runs.wait(lambda: runs.step(run) == 3)
    assert [runs.end(process) for process in ranks] == [CODE, CODE]
    said = runs.said(run)
    for rank in range(2):
        told = f"rank {rank} of 2 (process {ranks[rank].pid} on "
        dump = (run / f"hang-rank{rank}.txt").read_text()
        assert told in said
        assert told in dump
        assert f"has stood still for {WAIT:g} s, taking step 4" in dump
        assert ("in strike" in dump) == (rank == 1), dump
        assert "in step\n" in dump
    assert runs.saved(run) == 2
    runs.finish_ranks(run, 2, hang=WAIT)
    runs.finish_ranks(tmp_path / "other", 2)
    runs.assert_same(run, tmp_path / "other")


def test_the_code_is_that_of_a_hang_whoever_notices_first(runs, tmp_path: Path) -> None:
    """The second process gives up, and the first, whose limit is not over, meets what it waits for broken."""
    run = tmp_path / "run"
    ranks = runs.start_ranks(run, 2, {0: {"hang": 100.0}}, hang=WAIT, faults={"stall": [8 * 3 + 6]})
    runs.wait(lambda: runs.step(run) == 3)
    assert [runs.end(process) for process in ranks] == [CODE, CODE]
    said = runs.said(run)
    assert f"rank 1 of 2 (process {ranks[1].pid} on " in said and f"has stood still for {WAIT:g} s" in said
    assert "met an error, taking step 4, after another had stood still: see hang-rank1.txt" in said
    assert not (run / "hang-rank0.txt").exists()


def test_an_error_after_an_earlier_hang_is_no_hang(runs, tmp_path: Path) -> None:
    """What an earlier start has left in the folder says nothing of this one."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "hang-rank1.txt").write_text("of an earlier start")
    assert runs.finish(run, hang=WAIT, bad=range(1000), max_skips=2) == 1
    assert "Diverged" in runs.said(run)


def test_data_that_do_not_come(runs, whole: Path, tmp_path: Path) -> None:
    """The stacks are those of the training; its workers end with it."""
    run = tmp_path / "run"
    process = runs.start(run, hang=WAIT, workers=1, slow=[8 * 4])
    runs.wait(lambda: runs.step(run) == 4)
    assert runs.end(process) == CODE
    assert f"rank 0 of 1 (process {process.pid} on " in runs.said(run)
    assert "waiting for the data of step 5" in (run / "hang-rank0.txt").read_text()
    assert runs.finish(run) == 0
    runs.assert_same(run, whole)


def test_validation_and_sampling_may_take_longer(runs, tmp_path: Path) -> None:
    """Ten times as long, after which they hang as well."""
    assert runs.finish(tmp_path / "slow", hang=0.5, slow_validation=1.0, validate_every=3) == 0
    assert not list((tmp_path / "slow").glob("hang*"))
    began = time.monotonic()
    assert runs.finish(tmp_path / "stuck", hang=0.3, slow_sampling=1000, sample_every=3) == CODE
    assert time.monotonic() - began > 3
    assert "has stood still for 3 s, looking at step 3" in (tmp_path / "stuck" / "hang-rank0.txt").read_text()


def test_stopped_as_a_whole_and_continued(runs, whole: Path, tmp_path: Path) -> None:
    """As by Ctrl-Z and fg: that is no hang."""
    run = tmp_path / "run"
    process = runs.start(run, hang=0.5, faults={"stop": [8 * 3]})
    runs.wait(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    assert runs.end(process) == 0, runs.said(run)
    runs.assert_same(run, whole)


def test_killed_under_torchrun(runs, tmp_path: Path) -> None:
    """One of two processes, by kill -9: with --max-restarts the run ends with the weights of one that was not."""
    run = tmp_path / "run"
    options = {"noise": 0.1, "steps": 8}
    faults = {"die": [8 * 4 + 6], "mark": str(tmp_path / "killed")}
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1"]
    command = [*launch, str(HERE / "tiny.py"), json.dumps({"run": str(run), "faults": faults, **options})]
    path = os.pathsep.join(filter(None, [str(HERE), *sys.path]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *command], env=environment, timeout=200)
    assert done.returncode == 0, runs.said(run)
    assert (tmp_path / "killed").exists()
    assert "going on from step 4 of 8" in runs.said(run) or "going on from step 2 of 8" in runs.said(run)
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, 9))
    runs.finish_ranks(tmp_path / "other", 2, **options)
    runs.assert_same(run, tmp_path / "other")
    assert len(checkpoint.load(checkpoint.newest(run / "checkpoints")).state["random"]) == 2
