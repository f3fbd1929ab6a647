"""Checks in processes of their own: whatever one comes to, it is told, and the others are made."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from vidiff.selftest import check
from vidiff.selftest.check import Fails, Finding, Place, Seen, Skipped, find, find_all, find_apart

CHECKS = """
import os, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import json

name, answer, place = sys.argv[1:]
given = json.loads(place)
print(f"{name} on {given['device']}")
if name == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(given["folder"], "child").write_text(str(child.pid))
    time.sleep(600)
if name == "leaves":
    sys.exit(3)
found = {"name": name, "outcome": "works", "line": "seen", "seconds": 0.0, "numbers": {"a": 1}, "error": ""}
Path(answer).write_text(json.dumps(found))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "some_checks.py").write_text(CHECKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return Place(tmp_path / "place", "cpu", quick=True)


def test_whatever_a_process_comes_to_is_told(place: Place) -> None:
    names = ("works", "dies", "leaves", "works again")
    works, dies, leaves, again = (find_apart(name, place, 60, "some_checks") for name in names)
    assert (works.outcome, works.line, works.numbers) == ("works", "seen", {"a": 1}) and works.seconds > 0
    assert dies.outcome == "fails" and "signal 11" in dies.line and dies.error == "dies on cpu"
    assert leaves.outcome == "fails" and "exit code 3" in leaves.line
    assert again.outcome == "works"


def test_what_hangs_is_ended_with_all_that_it_has_started(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what does not end when it is asked to."""
    monkeypatch.setattr(check.end, "__defaults__", (0.5,))
    began, real = time.monotonic(), check.subprocess.Popen.wait

    def once_begun(self: check.subprocess.Popen[bytes], timeout: float | None = None) -> int:
        """Time is over once its child is there, however long that takes."""
        while timeout == 5.0 and not (place.folder / "child").exists():
            time.sleep(0.02)
        return real(self, 0.1 if timeout == 5.0 else timeout)

    monkeypatch.setattr(check.subprocess.Popen, "wait", once_begun)
    found = find_apart("hangs", place, 5.0, "some_checks")
    assert found.outcome == "no time" and "hangs on cpu" in found.error
    child = int((place.folder / "child").read_text())
    while os.path.exists(f"/proc/{child}/cmdline") and Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.05)  # until whoever inherited it has taken note
    assert time.monotonic() > began


def test_once_the_time_is_over_the_rest_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    left = list[float]()

    def slow(name: str, place: Place, seconds: float) -> Finding:
        left.append(seconds)
        clock.append(clock[-1] + 50)
        return Finding(name, "works", "")

    clock = [0.0]
    monkeypatch.setattr(check, "find_apart", slow)
    monkeypatch.setattr(check.time, "monotonic", lambda: clock[-1])
    found = list(find_all(["a", "b", "c", "d"], place, 1.5))
    assert [one.outcome for one in found] == ["works", "works", "no time", "no time"]
    assert left == [90.0, 40.0]


def test_an_error_is_a_finding(place: Place) -> None:
    def raising(error: Exception) -> Finding:
        def check(place: Place) -> Seen:
            raise error

        return find("it", check, place)

    wrong = raising(RuntimeError("CUDA error: no kernel\nis there"))
    assert (wrong.outcome, wrong.line) == ("fails", "RuntimeError: CUDA error: no kernel")
    assert "raise error" in wrong.error
    assert raising(Skipped("there is one GPU")).line == "there is one GPU"
    other = raising(Fails(Seen("other bits", {"apart": ["a"]})))
    assert (other.outcome, other.line, other.numbers) == ("fails", "other bits", {"apart": ["a"]})
    json.dumps(vars(other))
