"""What a run leaves for those who look at it: the lines of metrics.jsonl, and facts of the machine and the code."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vidiff.store.files import write_whole
from vidiff.store.plain import parse_json

Line = dict[str, Any]  # numbers by name, None for what was not finite; "clips", where it is there, is a list of names


def append_metrics(file: Path, line: Mapping[str, Any]) -> None:
    """Adds one line of JSON; numbers that are not finite become null, since JSON has none."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(plain) + "\n")


def read_metrics(file: Path) -> list[Line]:
    """The lines of a metrics file, in order; a last line cut off by a crash is left out."""
    lines: list[Line] = []
    if file.exists():
        for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
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


def device_name(device: torch.device) -> str:
    """Of the GPU or the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def versions(*names: str) -> dict[str, str]:
    """Of the installed packages, by name; those that are missing are left out."""
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def git_revision() -> str | None:
    """The revision of the code that runs, with a + where it was changed since; None where git does not keep it."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        own = subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, timeout=10)
        if own.returncode != 0:  # it may be installed within a repository that is of something else
            return None
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return revision.stdout.strip() + "+" * (changes.returncode == 1) if revision.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    return next((n.split(":", 1)[1].strip() for n in lines if n.startswith("model name")), platform.processor())


def duration(seconds: float) -> str:
    """3725.0 -> "1:02:05", 65.0 -> "1:05"."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
