"""What may end a run from outside: signals, and a second training on the same folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TypeVar

from vidiff.store.files import lock

T = TypeVar("T")


class Interrupted(SystemExit):
    """Training or encoding was asked to stop, has saved, and stops.

    Uncaught, it ends the process with code 0 after SIGTERM (a scheduler's orderly stop) and 130 after SIGINT
    (Ctrl-C, the shell's convention). As a SystemExit it passes every `except Exception`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(130 if number == signal.SIGINT else 0)
        self.signal = signal.Signals(number)


class StopNow(BaseException):
    """Raised by a signal inside `Signals.cut_short`, and only there."""


class Signals:
    """Turns SIGINT and SIGTERM into a wish to stop, which the training loop reads between steps.

    A second signal ends the process at once, with code 128 + its number; the last checkpoint stays whole,
    since checkpoints are published by renaming. Launchers may deliver one wish twice, so a signal within half
    a second of the first counts as the same.
    """

    patience = 0.5  # seconds

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._breaking = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.number:
            if time.monotonic() - self._since > self.patience:
                os.write(2, f"\n{name} again: leaving now; the last checkpoint is whole\n".encode())
                os._exit(128 + number)
            return
        self.number, self._since = number, time.monotonic()
        os.write(2, f"\n{name}: finishing this step and saving; once more to leave at once\n".encode())
        if self._breaking:
            self._breaking = False
            raise StopNow

    def cut_short(self, work: Callable[[], T]) -> T | None:
        """Runs `work` (validation, sampling), or as much of it as is done when a signal comes; then returns
        None.
        """
        try:
            self._breaking = True
            return None if self.number else work()
        except StopNow:
            return None
        finally:
            self._breaking = False


@contextmanager
def signals() -> Iterator[Signals]:
    """Catches SIGINT and SIGTERM inside the block; in a thread other than the main one it cannot, and does
    not.
    """
    caught = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, caught.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt: what is half done is taken back.

    In a thread other than the main one it does not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(2, b"\nSIGTERM: stopped; the same command goes on from what is finished\n")
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def shield_worker(worker: int = 0) -> None:
    """A DataLoader's `worker_init_fn`: the worker outlives a signal to the whole process group, but not its training.

    Ctrl-C, torchrun and job schedulers signal every process of a run. A loader's worker that died of it would take the
    training down before it has saved. So workers ignore SIGINT, and SIGTERM from anyone but the training. When that
    ends, however it does, they end within a second or two; torch alone would leave those of a fork server behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "darwin":  # macOS cannot tell who sent a signal; there workers keep torch's own handling
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_follow_training, daemon=True).start()


def _follow_training() -> None:
    training = multiprocessing.parent_process()  # not getppid, which may be a fork server's
    while training is not None and training.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == training.pid:
            break
    os._exit(0)


class RunBusy(ValueError):
    """Another training holds the run's folder."""


_held: dict[Path, IO[str]] = {}


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds the folder `run` for this process. Raises RunBusy, naming the holder, where another has it.

    The lock dies with the process, however that ends. Within the process it may be taken again inside.
    """
    run = Path(run).resolve()
    if run in _held:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "a+") as file:
        if not lock(file, wait=False):
            file.seek(0)
            raise RunBusy(
                f"{run} is held by another training ({file.read().strip() or 'just starting'}); "
                "wait for it, stop it, or give this one another run folder"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        _held[run] = file
        try:
            yield
        finally:
            del _held[run]
            file.truncate(0)


def _let_go() -> None:
    """A forked loader worker keeps no lock, which it would hold for a while after its training was killed."""
    while _held:
        _held.popitem()[1].close()


os.register_at_fork(after_in_child=_let_go)
