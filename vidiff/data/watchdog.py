"""The watchdog of a loader's workers: a decoder that hangs or crashes costs one file, and not the training.

A worker sets the kernel's alarm clock before it reads. Where the decoder hangs, even in C code that no signal handler
and no thread of Python can interrupt, the alarm ends the worker. The loader then names the file, and goes on with new
workers from the same batch. Reading itself pays for two system calls.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, get_worker_info

from vidiff.store.patience import heard_by

MOST_WORKERS = 1024
CRASHES = {-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)}


class Watch:
    """Which file each worker is reading, in memory that all processes share.

    Args:
        patience: seconds that a worker may take for one.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.reading = torch.full((MOST_WORKERS,), -1).share_memory_()

    @contextmanager
    def over(self, number: int) -> Iterator[None]:
        """In a worker, the block ends within `patience` seconds, or the worker does. Elsewhere nothing is watched.

        The time that it takes to fetch a remote file does not count.
        """
        worker = get_worker_info()
        if worker is None:
            yield
            return
        self.reading[worker.id] = number

        def begin() -> None:
            signal.setitimer(signal.ITIMER_REAL, self.patience)

        begin()
        try:
            with heard_by(begin):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.reading[worker.id] = -1

    def lost(self, exit_codes: Sequence[int | None]) -> dict[int, str]:
        """The files whose decoders ended their workers, with the reason, given the workers' exit codes."""
        found = {}
        for worker, code in enumerate(exit_codes):
            number = int(self.reading[worker])
            if number >= 0 and code == -signal.SIGALRM:
                found[number] = f"its decoder gave no answer within {self.patience:g} s"
            elif number >= 0 and code in CRASHES:
                found[number] = f"its decoder crashed (exit code {code})"
        return found


@runtime_checkable
class Watched(Protocol):
    """A dataset whose reads are watched."""

    watch: Watch

    def lose(self, number: int, reason: str) -> None:
        """Leave out a file whose decoder ended a worker. Raises where too many are."""
        ...


class WatchedLoader:
    """Batches of a dataset in worker processes, which are started anew where the watchdog has ended one.

    Args:
        batches: keys of each batch. Samples depend on their keys alone, so a batch that is made again is the same.
        options: of `DataLoader`.
    """

    def __init__(self, dataset: Watched, batches: Iterable[Any], **options: Any) -> None:
        self.dataset, self.batches, self.options = dataset, batches, options

    def __iter__(self) -> Iterator[Any]:
        return _Batches(self)


class _Batches(Iterator[Any]):
    def __init__(self, loader: WatchedLoader) -> None:
        self.loader, self.done = loader, 0
        self.iterator = self.start()

    def start(self) -> Any:
        """An iterator of the batches from here on, with workers of its own."""
        batches = islice(iter(self.loader.batches), self.done, None)
        return iter(DataLoader(cast(Any, self.loader.dataset), batch_sampler=cast(Any, batches), **self.loader.options))

    def __next__(self) -> Any:
        while True:
            try:
                batch = next(self.iterator)
            except (RuntimeError, OSError, EOFError):
                self.recover()
            else:
                self.done += 1
                return batch

    def recover(self) -> None:
        """Called while an error is handled, which is raised again unless decoders have ended workers."""
        dataset, workers = self.loader.dataset, self.iterator._workers
        wait([worker.sentinel for worker in workers], timeout=2)  # its end may be heard of before its exit code
        lost = dataset.watch.lost([worker.exitcode for worker in workers])
        if not lost:
            raise
        self.iterator._shutdown_workers()
        dataset.watch.reading.fill_(-1)
        for number, reason in lost.items():
            dataset.lose(number, reason)
        self.iterator = self.start()


def start_alarm_clock() -> None:
    """In a new worker: its alarm ends it, whatever handler it inherited."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
