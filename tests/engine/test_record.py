from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidiff.engine import record
from vidiff.engine.parallel import Group
from vidiff.engine.record import LEAST, deviations


@pytest.mark.parametrize(("seconds", "wanted"), [(0.0, [1, 2, 3, 4, 5, 6, 6]), (30.0, [6])])
def test_the_report_is_written_as_the_run_goes(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, wanted: list[int]
) -> None:
    """At logged steps once some time has passed, and in the end."""
    written: list[int] = []

    def write(run: Path, title: str) -> None:
        written.append(len((run / "metrics.jsonl").read_text().splitlines()))

    monkeypatch.setattr(record, "write_report", write)
    monkeypatch.setattr(record, "REFRESH", seconds)
    tiny.train(tmp_path, pause=0.0 if seconds else 0.5)  # 20 times what the fake report takes, on a busy machine too
    assert written == wanted


def test_memory_grows_by_what_is_held() -> None:
    """In a process of its own: this one may hold what earlier tests have let go of, and give it out again."""
    code = """
import torch
from vidiff.engine.record import memory_used
before = memory_used(torch.device("cpu"))
held = torch.ones(25 << 20)
grown = memory_used(torch.device("cpu")) - before
assert 0.9 * held.nbytes < grown < 1.5 * held.nbytes, grown
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_environment_keeps_all_starts(tmp_path: Path) -> None:
    group = Group(torch.device("cpu"), 0, 2)
    record.write_environment(tmp_path, group, "fp32", seed=7, step=0)
    record.write_environment(tmp_path, group, "fp32", seed=7, step=40)
    noted = json.loads((tmp_path / "environment.json").read_text())
    assert [start["step"] for start in noted["starts"]] == [0, 40]
    assert (noted["seed"], noted["processes"], noted["versions"]["torch"]) == (7, 2, torch.__version__)


def test_plain_lines(capsys) -> None:
    progress = record.Progress("codec", 100)
    progress.begin(0)
    progress.advance(1, None)
    progress.advance(2, {"loss": 0.123456, "lr": 3e-4, "clips_per_second": 21.04, "memory_gb": 1.234})
    progress.close()
    line = capsys.readouterr().out
    assert line.startswith("codec: step 2/100  loss 0.1235  lr 0.0003  clips/s 21  GB 1.23  left 0:0")
    quiet = record.Progress("codec", 100, show=False)
    quiet.begin(0)
    quiet.say("nothing")
    assert capsys.readouterr().out == ""


def test_in_standard_deviations_of_normal_losses() -> None:
    chance = random.Random(0)
    recent = [chance.gauss(1.0, 0.2) for _ in range(20_001)]
    assert deviations(3.0, recent) == pytest.approx(10, rel=0.03)
    recent[::3] = [1e9] * len(recent[::3])  # a third of spikes moves it little
    assert 3 < deviations(3.0, recent) < 10


def test_exactly() -> None:
    recent = [float(n) for n in range(1, 22)]  # median 11, median deviation 5
    assert deviations(26.0, recent) == 15 / (1.4826 * 5)
    assert deviations(-4.0, recent) == -deviations(26.0, recent)
    assert deviations(100 * statistics.median(recent), recent) > 100


def test_few_losses_and_equal_ones() -> None:
    assert deviations(100.0, [1.0] * (LEAST - 1)) == 0
    assert deviations(2.0, [1.0] * LEAST) == pytest.approx(20)
    assert deviations(0.0, [0.0] * LEAST) == 0
