"""Processes that answer questions about files: one that crashes or hangs takes nothing else with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from vidiff.data.processes import decoding_processes
from vidiff.engine.guard import shield_worker
from vidiff.store.patience import heard_by

Question = TypeVar("Question")
Answer = TypeVar("Answer")

now = time.monotonic
TELL = 0.5  # seconds between two words of a process that is at work


class Lost(NamedTuple):
    """What became of a process that gave no answer."""

    reason: str
    hung: bool  # and so was killed; else it crashed


class AtWork:
    """What a process sends while it fetches what it is to decode."""


class Helper(Generic[Question, Answer]):
    """A process that answers one question after the other. It ends with this one, however that comes.

    Args:
        answer: a function of a module, which the process imports. Questions and answers are pickled.
    """

    def __init__(self, answer: Callable[[Question], Answer]) -> None:
        context = decoding_processes()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, answer), daemon=True)
        self.process.start()
        theirs.close()  # it is theirs alone: when they die, ours tells
        self.alive = True
        self._answers: list[Answer] = []
        try:
            self.pipe.recv()  # it is there: from now on, time is that of its answers
        except EOFError:
            self.end()
            raise RuntimeError(f"a process that decodes could not start (exit code {self.process.exitcode})") from None
        except BaseException:
            self.end()
            raise

    def ask(self, question: Question) -> None:
        self.question, self.begun = question, now()
        with suppress(BrokenPipeError):  # dead already: `answer` tells
            self.pipe.send(question)

    def is_at_work(self) -> bool:
        """Whether what has come is no answer, but word that a file is still on its way: its time begins anew."""
        try:
            return not self._receive()
        except (EOFError, ConnectionResetError):  # it is dead: `answer` tells
            return False

    def _receive(self) -> bool:
        """Whether an answer has come. Waits for anything to come."""
        found = self.pipe.recv()
        if isinstance(found, AtWork):
            self.begun = now()
            return False
        self._answers.append(found)
        return True

    def answer(self, patience: float) -> Answer | Lost:
        """The answer to the last question, if it comes within `patience` seconds of that; else the process is ended.

        The time that it takes to fetch a remote file does not count.
        """
        try:
            while not self._answers and self.pipe.poll(max(0.0, self.begun + patience - now())):
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
        self.process.kill()
        self.process.join()
        self.pipe.close()


def ask_all(
    questions: Iterable[Question], answer: Callable[[Question], Answer], processes: int, patience: float
) -> Generator[tuple[Question, Answer | Lost], None, None]:
    """Ask each question, a few at a time; yields each with its answer, in the order in which they come.

    Where a process crashes, or stays silent for `patience` seconds, another takes over. Closing the generator ends the
    processes.
    """
    waiting = iter(questions)
    busy: list[Helper[Question, Answer]] = []
    try:
        for _, question in zip(range(processes), waiting, strict=False):
            busy.append(Helper(answer))
            busy[-1].ask(question)
        while busy:
            first = min(helper.begun for helper in busy)
            ready: list[Any] = wait([helper.pipe for helper in busy], timeout=max(0.0, first + patience - now()))
            for place, helper in reversed(list(enumerate(busy))):
                if helper.pipe not in ready and now() <= helper.begun + patience:
                    continue
                if helper.pipe in ready and helper.is_at_work():
                    continue
                yield helper.question, helper.answer(patience)
                try:
                    following = next(waiting)
                except StopIteration:
                    busy.pop(place).end()
                    continue
                if not helper.alive:
                    busy[place] = Helper(answer)
                busy[place].ask(following)
    finally:
        for helper in busy:
            helper.end()


def _serve(pipe: Connection, answer: Callable[[Any], Any]) -> None:
    shield_worker()  # a signal may reach the whole process group; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send(None)
        told = now()

        def tell() -> None:
            nonlocal told
            if now() > told + TELL:
                told = now()
                pipe.send(AtWork())

        with heard_by(tell):
            while True:
                pipe.send(answer(pipe.recv()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # even where the decoder hangs
