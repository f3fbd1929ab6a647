from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from vidiff.engine.guard import Interrupted, StopNow, locked, signals


def test_exit_codes() -> None:
    assert Interrupted(signal.SIGTERM).code == 0
    assert Interrupted(signal.SIGINT).code == 130
    assert not isinstance(Interrupted(signal.SIGINT), Exception)


def test_a_signal_is_a_wish_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: the same wish, delivered twice
        assert stop.number == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_cuts_work_short_and_nothing_else() -> None:
    done = []
    with signals() as stop:
        assert stop.cut_short(lambda: "whole") == "whole"

        def work() -> None:
            done.append(1)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except Exception:  # what callbacks may do must not hold it up
                done.append(2)
            done.append(3)

        assert stop.cut_short(work) is None
        assert stop.cut_short(lambda: done.append(4)) is None  # no new work after the wish
    assert done == [1]
    assert not issubclass(StopNow, Exception)


def test_elsewhere_than_in_the_main_thread(tmp_path: Path) -> None:
    found = []

    def work() -> None:
        with signals() as stop:
            found.append(stop.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_a_lock_may_be_taken_again_inside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run):
        assert f"process {os.getpid()} on " in (run / ".lock").read_text()
        with locked(run):
            pass
        assert (run / ".lock").read_text()
        child = os.fork()
        if child == 0:  # another process, that had the lock file open when it was forked
            try:
                with locked(run):
                    os._exit(1)
            except ValueError as error:
                os._exit(0 if f"process {os.getppid()} on " in str(error) else 2)
        assert os.waitpid(child, 0)[1] == 0
    assert (run / ".lock").read_text() == ""
    with pytest.raises(RuntimeError), locked(run):
        raise RuntimeError
    with locked(run):
        pass
