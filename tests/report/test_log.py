from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

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


def test_the_revision_is_of_the_code_and_not_of_a_repository_that_it_is_installed_in(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("there is no git")

    def git(*words: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        return subprocess.run([*own, *words], check=True, capture_output=True, text=True).stdout.strip()

    copy = tmp_path / ".venv" / "vidiff" / "report" / "log.py"
    copy.parent.mkdir(parents=True)
    shutil.copy(log.__file__, copy)
    spec = importlib.util.spec_from_file_location("another_log", copy)
    assert spec is not None and spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    git("init", "--quiet")
    (tmp_path / "notes.txt").write_text("a project of something else")
    git("add", "notes.txt")
    git("commit", "--quiet", "-m", "notes")
    assert other.git_revision() is None
    git("add", "--force", str(copy))
    git("commit", "--quiet", "-m", "code")
    assert other.git_revision() == git("rev-parse", "HEAD")
    copy.write_text(copy.read_text() + "# changed\n")
    assert other.git_revision() == git("rev-parse", "HEAD") + "+"
