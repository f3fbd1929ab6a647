"""Checks in processes of their own: whatever one comes to, it is told, and the others are made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidiff.selftest import check
from vidiff.selftest.check import Fails, Finding, Place, Seen, Skipped, find, find_all, find_apart
from vidiff.selftest.processes import PROC, end, family, running

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
if name.startswith("launches"):
    subprocess.run([sys.executable, "-m", "some_launcher", name, given["folder"]])
if name == "leaves":
    sys.exit(3)
found = {"name": name, "outcome": "works", "line": "seen", "seconds": 0.0, "numbers": {"a": 1}, "error": ""}
Path(answer).write_text(json.dumps(found))
"""

LAUNCHER = """
# As torchrun does: a worker in a session of its own, which the launcher ends once it is asked to end, or leaves behind.
import signal, subprocess, sys, time
from pathlib import Path

name, folder = sys.argv[1], Path(sys.argv[2])
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

def stop(*_):
    time.sleep(0.3)
    if name == "launches":
        worker.terminate()
        worker.wait()
        (folder / "asked").touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
(folder / "child").write_text(str(worker.pid))
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "some_checks.py").write_text(CHECKS)
    (tmp_path / "some_launcher.py").write_text(LAUNCHER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return Place(tmp_path / "place", "cpu", quick=True)


def test_whatever_a_process_comes_to_is_told(place: Place) -> None:
    names = ("works", "dies", "leaves", "works again")
    works, dies, leaves, again = (find_apart(name, place, 60, "some_checks") for name in names)
    assert (works.outcome, works.line, works.numbers) == ("works", "seen", {"a": 1}) and works.seconds > 0
    assert dies.outcome == "fails" and "signal 11" in dies.line and dies.error == "dies on cpu"
    assert leaves.outcome == "fails" and "exit code 3" in leaves.line
    assert again.outcome == "works"


def child_of(place: Place) -> int:
    """Its number, once it is there, however long that takes."""
    file = place.folder / "child"
    while not (file.exists() and file.read_text()):
        time.sleep(0.02)
    return int(file.read_text())


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch, place: Place) -> list[BaseException]:
    """Time is over once a check's child is there, and then comes what is in this list."""
    came, real = list[BaseException](), check.subprocess.Popen.wait

    def once_begun(self: check.subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout != 5.0:
            return real(self, timeout)
        child_of(place)
        raise came.pop() if came else check.subprocess.TimeoutExpired("a check", timeout)

    monkeypatch.setattr(check.subprocess.Popen, "wait", once_begun)
    return came


def gone(number: int) -> bool:
    """Whether it ends within a moment, in which whoever inherited it takes note."""
    until = time.monotonic() + 30
    while there := any(process.number == number for process in running()):
        if time.monotonic() > until:
            os.kill(number, signal.SIGKILL)
            break
        time.sleep(0.05)
    return not there


def test_what_hangs_is_ended_with_all_that_it_has_started(
    place: Place, over: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what does not end when it is asked to."""
    monkeypatch.setattr(check.end, "__defaults__", (0.5,))
    found = find_apart("hangs", place, 5.0, "some_checks")
    assert found.outcome == "no time" and "hangs on cpu" in found.error
    assert gone(child_of(place))


@pytest.mark.skipif(not PROC.exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["launches", "launches and leaves"])
@pytest.mark.parametrize("interrupt", [False, True])
def test_workers_in_sessions_of_their_own_are_ended_as_well(
    place: Place, over: list[BaseException], kind: str, interrupt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a launcher that needs a moment for it once it is asked, or by us where it leaves them behind; when time is
    over, and on Ctrl-C."""
    monkeypatch.setattr(check.end, "__defaults__", (60.0 if kind == "launches" else 1.0,))
    if interrupt:
        over.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            find_apart(kind, place, 5.0, "some_checks")
    else:
        assert find_apart(kind, place, 5.0, "some_checks").outcome == "no time"
    assert (place.folder / "asked").exists() == (kind == "launches")
    assert gone(child_of(place))


@pytest.mark.skipif(not PROC.exists(), reason="needs /proc")
def test_a_family_is_what_a_session_has_started_and_nobody_else() -> None:
    """Known by session, by parent, and, once that has ended, by what was found before."""
    code = "import subprocess, sys, time; {}; time.sleep(600)"
    inner = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    other, leader = (
        subprocess.Popen([sys.executable, "-c", code.format(does)], start_new_session=True) for does in ("0", inner)
    )
    try:
        while len(found := family(leader.pid)) < 2:
            time.sleep(0.02)
        worker = next(one for one in found if one.parent == leader.pid)
        assert {one.number for one in found} == {leader.pid, worker.number} and worker.session == worker.number
        leader.kill()
        leader.wait()
        assert family(leader.pid) == set()
        assert {one.number for one in family(leader.pid, found)} == {worker.number}
        os.kill(worker.number, signal.SIGKILL)
        assert {one.number for one in family(other.pid)} == {other.pid}
    finally:
        end(other)
        end(leader)


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
