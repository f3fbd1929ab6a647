"""`python -m benchmarks.fresh MODULE FUNCTION JSON`: a function in a process of its own, for the memory that it takes.

What a process has held at most does not fall again, and what one side frees another gets for nothing: so each is alone.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vidiff.engine.record import memory_used

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run_fresh(function: str, **arguments: Any) -> Any:
    """What `benchmarks.FILE:NAME` makes of the arguments, which are plain, as is what it returns.

    Raises:
        ValueError: it failed; the message says how.
    """
    module, name = function.split(":")
    tools = str(Path(__file__).parents[1])
    paths = os.pathsep.join([tools, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarks.fresh", module, name, json.dumps(arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def held() -> int:
    """Bytes that this process holds in memory now."""
    return memory_used(torch.device("cpu"))


def peak() -> int:
    """Bytes that it has held at most, since `forget_peak` where the system can forget, else since it began."""
    if STATUS.is_file():
        return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line[:6] == "VmHWM:")
    return held()  # which is the peak where there is no /proc


def forget_peak() -> None:
    """What was held at most counts from now on, where the system can do that."""
    if CLEAR.exists():
        CLEAR.write_text("5")


if __name__ == "__main__":
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(arguments))))
