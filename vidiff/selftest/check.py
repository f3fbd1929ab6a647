"""A check and what it finds; each runs in a process of its own, so that none can take others down with it.

On a GPU more than an error may happen: a kernel that fails is the end of its process, and a collective may wait for
ever. So whoever asks starts `python -m vidiff.selftest.one`, waits as long as there is time, and ends it if need be.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidiff.selftest.processes import end
from vidiff.store.plain import read_json

Outcome = Literal["works", "fails", "skipped", "no time"]


@dataclass(frozen=True)
class Place:
    """Where checks are made.

    Args:
        folder: for what they write, which is thrown away; later checks find there what earlier ones have made.
        device: as commands take it.
        quick: with narrow networks and few repeats, which tell that all works and not how fast.
    """

    folder: Path
    device: str
    quick: bool = False


@dataclass(frozen=True)
class Seen:
    """What a check saw: a line to be read, and all its numbers."""

    line: str
    numbers: dict[str, Any] = field(default_factory=dict)


class Skipped(Exception):
    """This machine lacks what the check is about; with what that is."""


class Fails(Exception):
    """Something works otherwise than it should; with what was seen."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen.line)
        self.seen = seen


@dataclass(frozen=True)
class Finding:
    """What became of a check.

    Attributes:
        error: a traceback, and the end of what was said on the way; empty where nothing went wrong.
    """

    name: str
    outcome: Outcome
    line: str
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    error: str = ""


Check = Callable[[Place], Seen]
SAID = 4000  # characters of what a failed check said, its end


def find(name: str, check: Check, place: Place) -> Finding:
    """What a check finds, in this process."""
    import traceback

    began = time.monotonic()
    try:
        seen = check(place)
        return Finding(name, "works", seen.line, time.monotonic() - began, seen.numbers)
    except Skipped as reason:
        return Finding(name, "skipped", str(reason), time.monotonic() - began)
    except Fails as found:
        return Finding(name, "fails", found.seen.line, time.monotonic() - began, found.seen.numbers)
    except Exception as error:  # whatever it is, others are to be made after it
        line = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
        return Finding(name, "fails", line, time.monotonic() - began, error=traceback.format_exc())


def find_apart(name: str, place: Place, seconds: float, module: str = "vidiff.selftest.one") -> Finding:
    """The same in a process of its own, which has so many seconds.

    Args:
        module: what that process runs, as `vidiff.selftest.one`.
    """
    began, said, answer = time.monotonic(), place.folder / f"{name}.txt", place.folder / f"{name}.json"
    place.folder.mkdir(parents=True, exist_ok=True)
    given = json.dumps(asdict(place) | {"folder": str(place.folder)})
    command = [sys.executable, "-m", module, name, str(answer), given]
    with open(said, "wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
    spent = time.monotonic() - began
    if code is None:
        return Finding(name, "no time", f"not done after {spent:.0f} s", spent, error=_end_of(said))
    try:
        finding = Finding(**read_json(answer))
    except (OSError, ValueError, TypeError):  # none, or half of one
        what = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return Finding(name, "fails", f"its process ended with {what}", spent, error=_end_of(said))
    more = f"{finding.error}\n{_end_of(said)}".strip() if finding.outcome == "fails" else finding.error
    return Finding(finding.name, finding.outcome, finding.line, spent, finding.numbers, more)


def find_all(names: list[str], place: Place, minutes: float) -> Iterator[Finding]:
    """One check after another, until the time is over; those that are left then are told, too."""
    until = time.monotonic() + 60 * minutes
    for name in names:
        left = until - time.monotonic()
        yield find_apart(name, place, left) if left > 0 else Finding(name, "no time", "not begun")


def _end_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")[-SAID:].strip()
