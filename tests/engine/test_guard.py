from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vidiff.engine.guard import Interrupted, Signals, StopNow, locked, signals, uncut, unwinding


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


def test_what_must_not_be_cut_is_not() -> None:
    done: list[int] = []
    for number, end in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)):
        with unwinding():
            before = signal.getsignal(number)
            with pytest.raises(end), uncut():
                with uncut():
                    os.kill(os.getpid(), number)
                    done.append(number)
                done.append(number)
            assert signal.getsignal(number) == before
    assert done == [signal.SIGINT] * 2 + [signal.SIGTERM] * 2
    with signals() as stop:
        with uncut():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == 0
        assert stop.number == signal.SIGTERM


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_comes_while_an_object_is_finalized_is_not_lost(
    number: int, ends: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # in which the handler raises, and Python drops it

    hook = sys.unraisablehook
    with pytest.raises(ends), unwinding("left"):
        Dying()
        time.sleep(60)
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err.count("stopped; left") == (number == signal.SIGTERM)


def test_a_signal_counts_for_more_than_the_error_that_it_caused() -> None:
    with pytest.raises(KeyboardInterrupt), uncut():
        os.kill(os.getpid(), signal.SIGINT)
        raise EOFError("the process that was to be started got the signal too")


def test_a_second_signal_cuts_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uncut():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # at once: the same wish, delivered twice
        done.append(1)
        monkeypatch.setattr(Signals, "patience", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        done.append(2)
    assert done == [1]


def test_elsewhere_than_in_the_main_thread(tmp_path: Path) -> None:
    found = []

    def work() -> None:
        with signals() as stop, uncut():
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
