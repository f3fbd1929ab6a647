"""A look into video files, in processes of their own: a decoder that crashes or hangs takes nothing else with it."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from vidiff.data.processes import decoding_processes
from vidiff.data.video import VideoError, VideoReader

ENDS = 1 << 16  # bytes of each end of a file that its fingerprint reads


class Facts(NamedTuple):
    """What a readable video holds: height and width in pixels, and a fingerprint of its content."""

    frames: int
    fps: float
    height: int
    width: int
    fingerprint: str


now = time.monotonic
Outcome = Facts | str  # or why the file cannot be read


def probe(path: Path) -> Outcome:
    """Open one file, and decode its first and its last frame: what a truncated download lacks is the end."""
    try:
        with VideoReader(path) as reader:
            frames, fps, (height, width) = reader.frames, reader.fps, reader.size
            reader.read([frames - 1])
        return Facts(frames, fps, height, width, fingerprint(path))
    except (VideoError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")


def fingerprint(path: Path) -> str:
    """A hash of a file's size and both its ends, where containers keep their tables: a new encoding changes it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return hashlib.blake2b(head + file.read(ENDS) + str(size).encode(), digest_size=16).hexdigest()


def probe_all(
    paths: Sequence[Path], processes: int = 2, patience: float = 300.0, look: Callable[[Path], Outcome] = probe
) -> Generator[tuple[Path, Outcome], None, None]:
    """Look into each file, a few at a time; yields each with its outcome, in the order in which they come.

    A file on which its process dies, or stays silent for `patience` seconds, counts as one that cannot be read; another
    process takes over. Closing the generator ends the processes, and so does the end of this one, however it comes.
    """
    waiting = iter(paths)
    busy = [_Worker(look, path) for _, path in zip(range(processes), waiting, strict=False)]
    try:
        while busy:
            first = min(worker.begun for worker in busy)
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, first + patience - now()))
            for place, worker in reversed(list(enumerate(busy))):
                outcome: Outcome
                if worker.pipe in ready:
                    outcome = worker.answer()
                elif now() > worker.begun + patience:
                    worker.end()
                    outcome = f"its decoder gave no answer within {patience:g} s"
                else:
                    continue
                yield worker.path, outcome
                following = next(waiting, None)
                if following is None:
                    busy.pop(place).end()
                elif worker.alive:
                    worker.give(following)
                else:
                    busy[place] = _Worker(look, following)
    finally:
        for worker in busy:
            worker.end()


class _Worker:
    """A process that looks into one file after the other."""

    def __init__(self, look: Callable[[Path], Outcome], path: Path) -> None:
        context = decoding_processes()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, look), daemon=True)
        self.process.start()
        theirs.close()  # it is theirs alone: when they die, ours tells
        self.alive = True
        self.give(path)

    def give(self, path: Path) -> None:
        self.path, self.begun = path, now()
        with suppress(BrokenPipeError):  # dead already: `answer` tells
            self.pipe.send(path)

    def answer(self) -> Outcome:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.end()
            return f"its decoder crashed (exit code {self.process.exitcode})"

    def end(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, look: Callable[[Path], Outcome]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            pipe.send(look(pipe.recv()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # even where the decoder hangs
