"""What a run tells: metrics.jsonl, environment.json, a progress bar or plain lines."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vidiff.engine.parallel import Group
from vidiff.store.files import write_whole
from vidiff.store.plain import parse_json, read_json

Line = dict[str, Any]
"""Numbers by name, None for what was not finite; "clips", where it is there, is a list of names."""


def append_metrics(file: Path, line: Mapping[str, Any]) -> None:
    """Adds one line of JSON; numbers that are not finite become null, since JSON has none."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    with open(file, "a") as stream:
        stream.write(json.dumps(plain) + "\n")


def read_metrics(file: Path) -> list[Line]:
    """The lines of a metrics file, in order; a last line cut off by a crash is left out."""
    lines: list[Line] = []
    if file.exists():
        for text in file.read_text(errors="replace").splitlines():
            try:
                line = parse_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return lines


def trim_metrics(file: Path, step: int) -> None:
    """Drops lines of steps after `step`: a resumed run takes those steps again."""
    if not file.exists():
        return
    kept = [line for line in read_metrics(file) if (line["step"] or 0) <= step]
    write_whole(file, "".join(json.dumps(line) + "\n" for line in kept))


def memory_used(device: torch.device) -> int:
    """Bytes: the peak of this process on a GPU; on the CPU, what it holds now (without loader workers)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
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


def device_name(device: torch.device) -> str:
    """Of the GPU or the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _earlier_starts(file: Path) -> list[Any]:
    try:
        return list(read_json(file)["starts"])
    except (OSError, ValueError, TypeError, LookupError):  # none yet, or not ours
        return []


def versions(*names: str) -> dict[str, str]:
    """Of the installed packages, by name; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The revision of the code that runs, with a + where it was changed since."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return revision.stdout.strip() + "+" * (changes.returncode == 1) if revision.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return next((n.split(":", 1)[1].strip() for n in lines if n.startswith("model name")), platform.processor())


def duration(seconds: float) -> str:
    """3725.0 -> "1:02:05", 65.0 -> "1:05"."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


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
            told = "  ".join(f"{k} {v}" for k, v in facts.items())
            self.say(f"step {step}/{self._steps}  {told}  left {left}")

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
