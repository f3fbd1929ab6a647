"""Processes that decode: one that crashes or hangs costs one clip, and takes nothing else with it.

A `Helper` answers questions about clips, and is killed by the process that waits for it. A worker of a loader sets the
kernel's alarm clock before it decodes: where the decoder hangs, even in C code that no signal handler and no thread of
Python can interrupt, the alarm ends the worker. The loader then names the clip, and goes on with new workers from the
same batch. Either clock runs while a clip is decoded, and not while it is fetched.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, get_worker_info

from vidiff.engine.guard import Shielded, uncut
from vidiff.store.place import Place

now = time.monotonic
MOST_WORKERS = 1024
CRASHES = {-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)}

Begin = Callable[[], None]
"""Is called by who answers a question, once all that it takes is on this machine: from then on, its time counts."""


class About(Protocol):
    """A question about a clip."""

    @property
    def place(self) -> Place: ...


Question = TypeVar("Question", bound=About)
Answer = TypeVar("Answer")


class DecodingProcesses(ForkServerContext):
    """A context whose processes are forked from a server that has loaded the decoder and never used it.

    So a process starts at once and shares the memory of what is loaded. A fork of the training itself would do neither
    well: decoders hang where a file was open, and CUDA cannot be used again. Signals are left to the training.
    """

    Process = Shielded

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload(["vidiff.video.reader", Shielded.__module__])


class Lost(NamedTuple):
    """What became of a process that gave no answer."""

    reason: str
    hung: bool  # and so was killed; else it crashed


class Here:
    """What a process sends once it has fetched what it is to decode."""


def at_once() -> None:
    """The `Begin` of who waits for nothing."""


class Helper(Generic[Question, Answer]):
    """A process that answers one question after the other. It ends with this one, however that comes.

    Args:
        answer: a function of a module, which the process imports. Questions and answers are pickled.
    """

    def __init__(self, answer: Callable[[Question, Begin], Answer]) -> None:
        context = DecodingProcesses()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, answer), daemon=True)
        self.alive = True
        self._answers: list[Answer] = []
        try:
            self.process.start()
            theirs.close()  # it is theirs alone: when they die, ours tells
            self.pipe.recv()  # it is there: from now on, time is that of its answers
        except EOFError:
            self.end()
            raise RuntimeError(f"a process that decodes could not start (exit code {self.process.exitcode})") from None
        except BaseException:
            self.end()
            raise

    def ask(self, question: Question) -> None:
        self.question = question
        self.begun = math.inf if question.place.is_elsewhere else now()
        with suppress(BrokenPipeError):  # dead already: `answer` tells
            self.pipe.send(question)

    def has_begun(self) -> bool:
        """Whether what has come is no answer, but word that the clip is here: its time begins."""
        try:
            return not self._receive()
        except (EOFError, ConnectionResetError):  # it is dead: `answer` tells
            return False

    def _receive(self) -> bool:
        """Whether an answer has come. Waits for anything to come."""
        message = self.pipe.recv()
        if isinstance(message, Here):
            self.begun = now()
            return False
        self._answers.append(message)
        return True

    def answer(self, patience: float) -> Answer | Lost:
        """The answer to the last question, if it comes within `patience` seconds of that; else the process is ended.

        The time that it takes to fetch a clip does not count.
        """
        try:
            while not self._answers and self.pipe.poll(_left(self.begun + patience)):
                self._receive()
            if self._answers:
                return self._answers.pop()
        except (EOFError, ConnectionResetError):
            self.end()
            return Lost(f"its decoder crashed (exit code {self.process.exitcode})", hung=False)
        self.end()
        return Lost(f"its decoder gave no answer within {patience:g} s", hung=True)

    def end(self) -> None:
        """Kills the process, if it is there."""
        self.alive = False
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def ask_all(
    questions: Iterable[Question], answer: Callable[[Question, Begin], Answer], processes: int, patience: float
) -> Generator[tuple[Question, Answer | Lost], None, None]:
    """Ask each question, a few at a time; yields each with its answer, in the order in which they come.

    Where a process crashes, or stays silent for `patience` seconds, another takes over. Closing the generator ends the
    processes.

    Raises:
        ValueError: for less than one process.
    """
    if processes < 1:
        raise ValueError(f"workers is {processes}: give 1 or more, since files are opened in processes of their own")
    waiting = iter(questions)
    busy: list[Helper[Question, Answer]] = []
    try:
        for _, question in zip(range(processes), waiting, strict=False):
            busy.append(Helper(answer))
            busy[-1].ask(question)
        while busy:
            first = min(helper.begun for helper in busy)
            ready: list[Any] = wait([helper.pipe for helper in busy], timeout=_left(first + patience))
            for number, helper in reversed(list(enumerate(busy))):
                if helper.pipe not in ready and now() <= helper.begun + patience:
                    continue
                if helper.pipe in ready and helper.has_begun():
                    continue
                yield helper.question, helper.answer(patience)
                try:
                    following = next(waiting)
                except StopIteration:
                    busy.pop(number).end()
                    continue
                if not helper.alive:
                    busy[number] = Helper(answer)
                busy[number].ask(following)
    finally:
        for helper in busy:
            helper.end()


def _left(until: float) -> float | None:
    """Seconds until a moment; None where it is never."""
    return None if math.isinf(until) else max(0.0, until - now())


def _serve(pipe: Connection, answer: Callable[[Any, Begin], Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        pipe.send(None)
        while True:
            pipe.send(answer(pipe.recv(), partial(pipe.send, Here())))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # even where the decoder hangs


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
        """In a worker, the block ends within `patience` seconds, or the worker does. Elsewhere nothing is watched."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        self.reading[worker.id] = number
        signal.setitimer(signal.ITIMER_REAL, self.patience)
        try:
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


class Loader(DataLoader[Any]):
    """A `DataLoader` that is whole before a signal is heard: one whose workers are there by half complains."""

    def __iter__(self) -> Any:
        with uncut():
            return super().__iter__()


class WatchedLoader:
    """Batches of a dataset in worker processes, which are started anew where the watchdog has ended one.

    Args:
        batches: keys of each batch. Samples depend on their keys alone, so a batch that is made again is the same.
        options: of `Loader`.
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
        return iter(Loader(cast(Any, self.loader.dataset), batch_sampler=cast(Any, batches), **self.loader.options))

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


def start_alarm_clock(worker: int) -> None:
    """In a new worker: its alarm ends it, whatever handler it inherited."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
