from __future__ import annotations

import json
import math
from pathlib import Path

from vidiff.report import log


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


def test_duration() -> None:
    assert [log.duration(s) for s in (0, 65, 3599.6, 3725)] == ["0:00", "1:05", "1:00:00", "1:02:05"]
