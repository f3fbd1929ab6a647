"""A process, all that it has started, and how both are ended: also those in sessions of their own.

torchrun has each of its workers in one: whoever kills the launcher's group alone leaves them behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK = 0.05  # seconds between two looks at what is left


@dataclass(frozen=True)
class Running:
    """A process that has not ended. When it `began` tells it from a later one of its number."""

    number: int
    parent: int
    session: int
    began: int

    @property
    def same(self) -> tuple[int, int]:
        return self.number, self.began


def running() -> Iterator[Running]:
    """All of this machine, as /proc has them (proc(5)); none where there is no /proc."""
    for file in PROC.glob("[0-9]*/stat"):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        state, parent, _, session, *rest = text.rpartition(")")[2].split()  # its name may hold anything
        if state not in "ZX":
            yield Running(int(file.parent.name), int(parent), int(session), int(rest[15]))


def family(leader: int, known: Set[Running] = frozenset()) -> set[Running]:
    """What still runs of a session, and of what it has started.

    Args:
        leader: the number of the process that leads the session, which may have ended.
        known: what was found before. Who has lost its parent is found by that alone.
    """
    everyone, before = list(running()), {process.same for process in known}
    found = {process for process in everyone if process.session == leader or process.same in before}
    while True:
        sessions, parents = {process.session for process in found}, {leader, *(process.number for process in found)}
        more = {process for process in everyone if process.session in sessions or process.parent in parents}
        if more <= found:
            return found
        found |= more


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ends a process that leads a session, and all that it has started, first by asking: the session, since a launcher
    that is asked ends its workers. What is left after so many seconds is killed, and what an interrupt finds left."""
    left, until = family(process.pid), time.monotonic() + patience
    _tell_session(process.pid, signal.SIGTERM)
    try:
        while (process.poll() is None or left) and time.monotonic() < until:
            time.sleep(TICK)
            left = family(process.pid, left)
    finally:
        for one in family(process.pid, left):
            with suppress(ProcessLookupError):
                os.kill(one.number, signal.SIGKILL)
        _tell_session(process.pid, signal.SIGKILL)  # where there is no /proc
        process.wait()


def _tell_session(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS refuses where all have ended
        os.killpg(leader, number)
