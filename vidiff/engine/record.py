"""What a training counts, says and writes down: counters, losses that stand out, progress, metrics and the report."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.engine.parallel import Group
from vidiff.report.log import append_metrics, device_name, duration, git_revision, versions
from vidiff.report.run import write_report
from vidiff.report.sinks import SINKS, Sink
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json

REFRESH = 30.0  # seconds between two writings of the report, at least; it also takes a twentieth of the time at most
LENGTH, LEAST = 128, 16  # losses that are looked back upon, and how many there must be before any is judged


@dataclass
class Counters:
    """Where a run stands, in numbers; they are part of each checkpoint.

    Attributes:
        seconds: wall-clock of training, over all earlier starts.
        validated, sampled: the last step at which this was done, so that what an interruption cut short is made up for.
        best, best_step: the lowest score of validation that `keep_best` names, and the step that had it.
        recent: losses of the last steps, by which one that stands out is known.
        sums, counts: of each scalar since the last logged step, where it was finite; and how often that was.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    validated: int = 0
    sampled: int = 0
    best: float = math.inf
    best_step: int = 0
    recent: list[float] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            known = math.isfinite(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if known else 0.0)
            self.counts[name] = self.counts.get(name, 0) + known

    def note_best(self, name: str, scores: Mapping[str, float]) -> None:
        """Remembers the lowest score of that name, if any."""
        if name and scores[name] < self.best:
            self.best, self.best_step = scores[name], self.step

    def take_means(self) -> dict[str, float]:
        """The mean of each scalar since this was last asked; nan where none was finite."""
        means = {name: total / (self.counts[name] or math.nan) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def collect(results: list[dict[str, Tensor]], norm: Tensor, group: Group) -> tuple[dict[str, float], bool]:
    """Means over parts and processes of what is finite, and whether every loss and gradient was.

    Every process gets the same answer, so that all skip a step or none does. It costs one wait for the device.
    """
    names = [*sorted(results[0]), "grad_norm"]
    rows = [torch.stack([(r | {"grad_norm": norm})[n] for n in names]) for r in results]
    values = torch.stack(rows)
    finite = values.isfinite()
    sums = values.where(finite, 0.0).sum(0)
    totals, counts = group.reduce_sum(torch.stack([sums, finite.float().sum(0)])).tolist()
    means = {n: t / c if c else math.nan for n, t, c in zip(names, totals, counts, strict=True)}
    whole = len(results) * group.world
    return means, all(counts[names.index(n)] == whole for n in ("loss", "grad_norm"))


def deviations(loss: float, recent: Sequence[float]) -> float:
    """How far a loss lies above the median of `recent`, in standard deviations; 0 where these are fewer than LEAST.

    The deviation is 1.4826 times the median absolute deviation, which neither the spikes themselves nor a slow fall of
    the loss move much (Rousseeuw and Croux 1993); at least a twentieth of the median, as losses may hardly differ.
    """
    if len(recent) < LEAST:
        return 0.0
    median = statistics.median(recent)
    spread = 1.4826 * statistics.median(abs(value - median) for value in recent)
    return (loss - median) / max(spread, 0.05 * abs(median), 1e-30)


def memory_used(device: torch.device) -> int:
    """Bytes: the peak of this process on a GPU; on the CPU, what it holds now (without loader workers)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # not Linux: the peak will do
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def write_environment(run: Path, group: Group, precision: str, seed: int, step: int) -> None:
    """environment.json: what the run last started with, and a list of all its starts."""
    file = run / "environment.json"
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    record = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions("vidiff", "torch", "numpy", "xformers", "safetensors", "decord2", "imageio", "av"),
        "git": git_revision(),
        "device": device_name(group.device),
        "precision": precision,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": group.world,
        "seed": seed,
        "starts": [*_earlier_starts(file), start],
    }
    write_whole(file, json.dumps(record, indent=1) + "\n")


def _earlier_starts(file: Path) -> list[Any]:
    try:
        return list(read_json(file)["starts"])
    except (OSError, ValueError, TypeError, LookupError):  # none yet, or not ours
        return []


class Progress:
    """A bar on a terminal; plain lines, one for each logged step, where output goes to a file."""

    def __init__(self, title: str, steps: int, show: bool = True) -> None:
        self._title, self._steps, self._show = title, steps, show
        self._bar: tqdm | None = None

    def begin(self, step: int) -> None:
        """From here on steps are taken, and timed for what is left."""
        self._first, self._began = step, time.perf_counter()
        if self._show and sys.stderr.isatty():
            bar = {"total": self._steps, "initial": step, "desc": self._title, "unit": "step"}
            self._bar = tqdm(**bar, dynamic_ncols=True)

    def advance(self, step: int, line: Mapping[str, float | int] | None) -> None:
        """After each step, with the step's line of metrics where it was logged."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if not line:
            return
        facts = {
            "loss": f"{line['loss']:.4g}",
            "lr": f"{line['lr']:.2g}",
            "clips/s": f"{line['clips_per_second']:.3g}",
            "GB": f"{line['memory_gb']:.2f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
        elif self._show:
            pace = (time.perf_counter() - self._began) / max(1, step - self._first)
            left = duration(pace * (self._steps - step))
            text = "  ".join(f"{k} {v}" for k, v in facts.items())
            self.say(f"step {step}/{self._steps}  {text}  left {left}")

    def say(self, text: str) -> None:
        """One line for the reader, above the bar."""
        text = f"{self._title}: {text}" if self._title else text
        if self._bar is not None:
            self._bar.write(text)
        elif self._show:
            with suppress(OSError):  # output may go to a file, on a disk that is full
                print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Recorder:
    """The records of one run. The main process writes them; on the others nothing happens.

    Args:
        sinks: names of `vidiff.report.sinks.SINKS`.
    """

    def __init__(self, run: Path, title: str, steps: int, main: bool, sinks: Sequence[str]) -> None:
        self.run, self.title, self.main = run, title, main
        self.progress = Progress(title, steps, show=main)
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
            "memory_gb": memory_used(device) / 2**30,
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
            append_metrics(self.run / "metrics.jsonl", line)
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
