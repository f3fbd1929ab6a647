"""A training that stands still: noticed, told with the stack of every thread, and ended."""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from pathlib import Path

from vidiff.engine.parallel import Group

CODE = 75
"""Of the process that ends: EX_TEMPFAIL of sysexits.h, the same command may well succeed."""


class HangWatch:
    """A thread that ends the process once it has shown no sign of life for so many seconds.

    Each process of a training has its own. Where one stands still the others wait for it in a collective, and so stand
    still as well: each says which rank it is, what it was at, and the stack of each of its threads, on standard error
    and in `run`/hang-rank<rank>.txt. Under torchrun with --max-restarts the training goes on from its last checkpoint.

    A process that was stopped as a whole (Ctrl-Z, a scheduler's SIGSTOP) begins to count anew as it goes on. What a
    thread cannot see is a call into C that never lets go of Python's lock; decoders, which might, have processes and
    limits of their own (`data.patience`).

    Args:
        run: the folder for the dump.
        seconds: without a sign of life; 0 watches nothing.
    """

    def __init__(self, run: Path, group: Group, seconds: float) -> None:
        self.file, self.group, self.seconds = run / f"hang-rank{group.rank}.txt", group, seconds
        self.doing, self._until = "", 0.0
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

    def _watch(self) -> None:
        tick = min(1.0, self.seconds / 10)
        seen = time.monotonic()
        while not self._end.wait(tick):
            now = time.monotonic()
            if now - seen > tick + 1.0 + self.seconds / 10:  # this thread stood still, so all did
                self._until = now + self._allowed
            seen = now
            if now > self._until:
                self._give_up()

    def _give_up(self) -> None:
        group = self.group
        told = (
            f"\nrank {group.rank} of {group.world} (process {os.getpid()} on {socket.gethostname()}) has stood still "
            f"for {self._allowed:g} s, {self.doing}. Its stacks follow, also in {self.file}; it ends with code {CODE}, "
            "and the same command goes on from the last checkpoint. See train.hang\n"
        ).encode()
        os.write(2, told)
        faulthandler.dump_traceback(2)
        faulthandler.dump_traceback_later(2, exit=True, file=2)  # the disk may be what hangs
        try:
            with open(self.file, "wb") as file:
                file.write(told)
                file.flush()
                faulthandler.dump_traceback(file)
        finally:
            os._exit(CODE)
