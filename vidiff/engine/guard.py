"""What may end a run: signals, a second training on the same folder, and standing still."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import register_after_fork
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, TypeVar

from vidiff.store.files import lock

if TYPE_CHECKING:  # workers import this file for `shield_worker`, and need no torch
    from vidiff.engine.parallel import Group

T = TypeVar("T")

CODE = 75  # of a process that stood still: EX_TEMPFAIL of sysexits.h, the same command may well succeed


class Interrupted(SystemExit):
    """Training or encoding was asked to stop, has saved, and stops.

    Uncaught, it ends the process with code 0 after SIGTERM (a scheduler's orderly stop) and 130 after SIGINT (Ctrl-C,
    the shell's convention). As a SystemExit it passes every `except Exception`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(130 if number == signal.SIGINT else 0)
        self.signal = signal.Signals(number)


class StopNow(BaseException):
    """Raised by a signal inside `Signals.cut_short`, and only there."""


class Signals:
    """Turns SIGINT and SIGTERM into a wish to stop, which the training loop reads between steps.

    A second signal ends the process at once, with code 128 + its number; the last checkpoint stays whole, since
    checkpoints are published by renaming. Launchers may deliver one wish twice, so a signal within half a second of the
    first counts as the same.
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
        """Runs `work` (validation, sampling), or as much of it as is done when a signal comes; then returns None."""
        try:
            self._breaking = True
            return None if self.number else work()
        except StopNow:
            return None
        finally:
            self._breaking = False


@contextmanager
def signals() -> Iterator[Signals]:
    """Catches SIGINT and SIGTERM inside the block; in a thread other than the main one it cannot, and does not."""
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
def unwinding(left: str = "the same command goes on from what is finished") -> Iterator[None]:
    """Inside, SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt: what is half done is taken back.

    What is `left` is said on standard error. Python drops what is raised while it finalizes an object: a signal that
    comes at such a moment comes again after it.

    In a thread other than the main one it does not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    said = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal said
        if not said:
            os.write(2, f"\nSIGTERM: stopped; {left}\n".encode())
        said = True
        raise Interrupted(number)

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Interrupted | KeyboardInterrupt):
            return hook(what)
        number = what.exc_value.signal if isinstance(what.exc_value, Interrupted) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uncut() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM wait for the end of the block; but not the second, half a second after the first.

    For what must not be done by half, such as to start a process, which would wait in vain for what it is to do. In a
    thread other than the main one nothing is cut, and nothing waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if waiting and time.monotonic() - since > Signals.patience:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        elif not waiting:
            since = time.monotonic()
            waiting.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


class Shielded(ForkServerProcess):
    """A process of a fork server that outlives a signal to the whole process group, but not the process it works for.

    So it is from its first moment: the server is started with these signals blocked, and whatever is forked from it
    inherits that, until `shield_worker` takes over. A worker that had only begun when Ctrl-C came would print a
    traceback, or die, and take its training down before that has saved.
    """

    blocked = {signal.SIGINT} if sys.platform == "darwin" else {signal.SIGINT, signal.SIGTERM}

    def start(self) -> None:
        with uncut():
            resource_tracker.ensure_running()  # which unblocks them
            before = signal.pthread_sigmask(signal.SIG_BLOCK, self.blocked)
            try:
                forkserver.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            super().start()

    def run(self) -> None:
        shield_worker()
        super().run()


def _unblock(kind: type[Shielded]) -> None:
    """In a new process: whoever else has processes of this one's fork server has them as they would be without us."""
    if forkserver.get_inherited_fds() is not None and not isinstance(multiprocessing.current_process(), kind):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, kind.blocked)


register_after_fork(Shielded, _unblock)


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
    with open(run / ".lock", "a+", encoding="utf-8") as file:
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


class HangWatch:
    """A thread that ends the process once it has shown no sign of life for so many seconds.

    Each process of a training has its own. Where one stands still the others wait for it in a collective, and so stand
    still as well: each says which rank it is, what it was at, and the stack of each of its threads, on standard error
    and in `run`/hang-rank<rank>.txt. As one ends, what the others wait for breaks: so it stays until they have had the
    time to notice for themselves, and who has not by then ends by `ended_by_another`. Under torchrun with
    --max-restarts the training goes on from its last checkpoint.

    A process that was stopped as a whole (Ctrl-Z, a scheduler's SIGSTOP) begins to count anew as it goes on. What a
    thread cannot see is a call into C that never lets go of Python's lock; decoders, which might, have processes and
    limits of their own (`data.patience`).

    Args:
        run: the folder for the dump.
        seconds: without a sign of life; 0 watches nothing.
    """

    def __init__(self, run: Path, group: Group, seconds: float) -> None:
        self.file, self.group, self.seconds = run / f"hang-rank{group.rank}.txt", group, seconds
        self._slack = 1.0 + seconds / 10  # by which processes that stand still together may notice at different times
        self.doing, self._until = "", 0.0
        self._earlier = self._dumps()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, doing: str, times: float = 1.0) -> None:
        """A sign of life, and what comes next, which may take `times` as long as usual."""
        if not self.seconds:
            return
        self.doing, self._allowed = doing, times * self.seconds
        self._until = time.monotonic() + self._allowed
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="hang", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Watches no more."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def ended_by_another(self, error: BaseException) -> None:
        """Ends the process with `CODE` after an error, if another one has given up, whose end may be its cause."""
        others = [name for name, stamp in self._dumps().items() if self._earlier.get(name) != stamp]
        if not self.seconds or not others:
            return
        text = (
            f"\n{self._name()} met an error, {self.doing}, after another had stood still: see {', '.join(others)}. It "
            f"ends with code {CODE} as well ({error})\n"
        )
        os.write(2, text.encode())
        os._exit(CODE)

    def _dumps(self) -> dict[str, int]:
        """The dumps of other processes, those of earlier starts too, and when each was written."""
        files = [file for file in self.file.parent.glob("hang-rank*.txt") if file != self.file]
        return {file.name: file.stat().st_mtime_ns for file in sorted(files)}

    def _name(self) -> str:
        return f"rank {self.group.rank} of {self.group.world} (process {os.getpid()} on {socket.gethostname()})"

    def _watch(self) -> None:
        tick = min(1.0, self.seconds / 10)
        seen = time.monotonic()
        while not self._end.wait(tick):
            now = time.monotonic()
            if now - seen > tick + self._slack:  # this thread stood still, so all did
                self._until = now + self._allowed
            seen = now
            if now > self._until:
                self._give_up()

    def _give_up(self) -> None:
        text = (
            f"\n{self._name()} has stood still for {self._allowed:g} s, {self.doing}. Its stacks follow, also in "
            f"{self.file}; it ends with code {CODE}, and the same command goes on from the last checkpoint. See "
            "train.hang\n"
        ).encode()
        os.write(2, text)
        faulthandler.dump_traceback(2)
        faulthandler.dump_traceback_later(2, exit=True, file=2)  # the disk may be what hangs
        try:
            with open(self.file, "wb") as file:
                file.write(text)
                file.flush()
                faulthandler.dump_traceback(file)
        finally:
            faulthandler.cancel_dump_traceback_later()
            if self.group.world > 1:
                time.sleep(self._slack)
            os._exit(CODE)
