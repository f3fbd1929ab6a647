"""What a training writes down as it goes: metrics, what stood out, and the report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vidiff.engine import log
from vidiff.engine.counters import Counters
from vidiff.engine.sinks import SINKS, Sink
from vidiff.report.run import write_report

REFRESH = 30.0
"""Seconds between two writings of the report, at least; it also takes no more than a twentieth of the time."""


class Recorder:
    """Of one run. The main process writes; on the others nothing happens.

    Args:
        sinks: names of `vidiff.engine.sinks.SINKS`.
    """

    def __init__(self, run: Path, title: str, steps: int, main: bool, sinks: Sequence[str]) -> None:
        self.run, self.title, self.main = run, title, main
        self.progress = log.Progress(title, steps, show=main)
        self.say = self.progress.say
        # Since the last logged step: samples, seconds in steps, and those of them spent waiting for data.
        self.clips, self.spent, self.waited = 0, 0.0, 0.0
        self._names = sinks if main else ()
        self._sinks: dict[str, Sink] = {}
        self._reported, self._cost = -math.inf, 0.0

    def begin(self, step: int) -> None:
        """Steps after `step` come now. Raises ValueError where a sink cannot be had."""
        for name in self._names:
            self._sinks[name] = SINKS[name](self.run, self.title, step)
        self._reported = time.monotonic()
        self.progress.begin(step)

    def close(self) -> None:
        for name in list(self._sinks):
            self._send(name, "close")
        self.progress.close()

    def took(self, clips: int, seconds: float) -> None:
        """A step of so many samples, which took so long."""
        self.clips += clips
        self.spent += seconds

    def step(self, at: Counters, seconds: float, rate: float, device: torch.device) -> None:
        """Logs the means since the last logged step, and what they cost."""
        line = {
            "step": at.step,
            "seconds": round(seconds, 3),
            **at.take_means(),
            "lr": rate,
            "clips_per_second": self.clips / self.spent,
            "data_wait": self.waited / self.spent,
            "memory_gb": log.memory_used(device) / 2**30,
            "skipped": at.skipped,
        }
        self.clips, self.spent, self.waited = 0, 0.0, 0.0
        self.metrics(line)
        self.progress.advance(at.step, line)
        if time.monotonic() - self._reported > max(REFRESH, 20 * self._cost):
            self.report()

    def metrics(self, line: Mapping[str, Any]) -> None:
        """A line for metrics.jsonl, with "step"; numbers among it also go to the sinks."""
        if not self.main:
            return
        with self.going_on("metrics"):
            log.append_metrics(self.run / "metrics.jsonl", line)
        numbers = {k: v for k, v in line.items() if k != "step" and isinstance(v, float | int) and math.isfinite(v)}
        for name in list(self._sinks):
            self._send(name, "metrics", line["step"], numbers)

    def sampled(self, step: int) -> None:
        """Sends the videos of a step to the sinks."""
        for name in list(self._sinks):
            for file in sorted((self.run / "samples").glob(f"step-{step:07d}*.mp4")):
                self._send(name, "sample", step, file)

    def _send(self, name: str, what: str, *given: Any) -> None:
        """What fails outside is told once, gets no more, and does not end the training."""
        if name in self._sinks:
            try:
                getattr(self._sinks[name], what)(*given)
            except Exception as error:
                del self._sinks[name]
                self.say(f"{name} failed ({error}) and gets no more; training goes on")

    def report(self) -> None:
        """Writes the report anew."""
        if self.main:
            began = time.monotonic()
            with self.going_on("report"):
                write_report(self.run, self.title)
            self._reported = time.monotonic()
            self._cost = self._reported - began

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """A full or failing disk is told, and does not end the training."""
        try:
            yield
        except OSError as error:
            self.say(f"could not write the {what} ({error}); training goes on")
