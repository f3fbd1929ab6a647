from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from vidiff.engine import log
from vidiff.engine.parallel import Group


def test_metrics_survive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert log.read_metrics(file) == []
    for step in range(1, 5):
        log.append_metrics(file, {"step": step, "loss": math.nan if step == 2 else 1 / step})
    with open(file, "a") as stream:
        stream.write('{"step": 5, "lo')
    lines = log.read_metrics(file)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["loss"] is None
    log.trim_metrics(file, 3)
    log.append_metrics(file, {"step": 4, "loss": 0.5})
    assert [json.loads(text)["step"] for text in file.read_text().splitlines()] == [1, 2, 3, 4]
    assert log.read_metrics(file)[-1]["loss"] == 0.5


def test_memory_grows_by_what_is_held() -> None:
    before = log.memory_used(torch.device("cpu"))
    held = torch.ones(25 << 20)
    assert 0.9 * held.nbytes < log.memory_used(torch.device("cpu")) - before < 1.5 * held.nbytes


def test_environment_keeps_all_starts(tmp_path: Path) -> None:
    group = Group(torch.device("cpu"), 0, 2)
    log.write_environment(tmp_path, group, "fp32", seed=7, step=0)
    log.write_environment(tmp_path, group, "fp32", seed=7, step=40)
    record = json.loads((tmp_path / "environment.json").read_text())
    assert [start["step"] for start in record["starts"]] == [0, 40]
    assert (record["seed"], record["processes"], record["versions"]["torch"]) == (7, 2, torch.__version__)


def test_duration() -> None:
    assert [log.duration(s) for s in (0, 65, 3599.6, 3725)] == ["0:00", "1:05", "1:00:00", "1:02:05"]


def test_plain_lines(capsys) -> None:
    progress = log.Progress("codec", 100)
    progress.begin(0)
    progress.advance(1, None)
    progress.advance(2, {"loss": 0.123456, "lr": 3e-4, "clips_per_second": 21.04, "memory_gb": 1.234})
    progress.close()
    line = capsys.readouterr().out
    assert line.startswith("codec: step 2/100  loss 0.1235  lr 0.0003  clips/s 21  GB 1.23  left 0:0")
    quiet = log.Progress("codec", 100, show=False)
    quiet.begin(0)
    quiet.say("nothing")
    assert capsys.readouterr().out == ""
