"""Clocks, ratios of what runs by turns, what the machine itself can do, and the file that keeps what was found."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.plan.trace import count_flops
from vidiff.selftest.machine import describe
from vidiff.store.plain import read_json

ROUNDS = 7  # of turns
CPU = torch.device("cpu")


def clock(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def worked() -> float:
    """Seconds of processor time that this process has taken, for each thread of torch: others' work is none of it."""
    return time.process_time() / torch.get_num_threads()


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each in each round, after one round that warms up.

    Every other round goes the other way, so that what runs beside slows no side down more than another.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name in [*works][:: -1 if number % 2 else 1]:
            seconds = clock(works[name])
            if number:
                found[name].append(seconds)
    return found


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times as long they take: of the pairs of each round, the median, the least and the most."""
    ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
    return {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}


def spread(found: Mapping[str, float]) -> str:
    """A ratio as it is printed."""
    return "{median:.2f} ({min:.2f} to {max:.2f})".format(**found)


def flops(work: Callable[[], object]) -> int:
    """Of the products that something computes; two for a multiplication with an addition."""
    with count_flops() as counter:
        work()
    return counter.get_total_flops()


def matrix_rate(dtype: torch.dtype, side: int = 1536, repeats: int = 5) -> float:
    """FLOP/s of a product of square matrices, the best of some."""
    a, b = torch.randn(2, side, side).to(dtype)
    torch.mm(a, b)
    return 2 * side**3 / min(clock(lambda: torch.mm(a, b)) for _ in range(repeats))


def copy_rate(size: int = 256 << 20, repeats: int = 5) -> float:
    """Bytes/s of a copy in memory, read and written ones counted; the best of some."""
    one, other = torch.zeros(2, size, dtype=torch.uint8)
    one.copy_(other)
    return 2 * size / min(clock(lambda: one.copy_(other)) for _ in range(repeats))


def machine_rates() -> dict[str, float]:
    """What this machine does at most, with the threads that torch has now."""
    return {"fp32": matrix_rate(torch.float32), "bf16": matrix_rate(torch.bfloat16), "copy": copy_rate()}


def figures_of(path: Path) -> dict[str, Any]:
    """What a file of figures has, by measure; nothing where it is not there. Raises ValueError for any other file."""
    figures = read_json(path) if path.exists() else {}
    if not isinstance(figures, dict):
        raise ValueError(f"{path} holds no figures by measure: choose another file")
    return figures


class Machine:
    """What is measured on, and how much of it others took meanwhile."""

    def __init__(self) -> None:
        self.began, self.before, self.own = time.perf_counter(), _busy(), _own()

    def facts(self) -> dict[str, Any]:
        """Of the machine, from when this was made until now.

        "others" is the share of all cores that other processes took; None where the system does not tell.
        """
        seconds, others = time.perf_counter() - self.began, None
        if self.before is not None:
            busy = _busy()
            assert busy is not None
            cores = os.cpu_count() or 1
            others = max(0.0, busy - self.before - (_own() - self.own)) / (seconds * cores)
        return {"date": time.strftime("%Y-%m-%d"), "seconds": round(seconds, 1), "others": others, **describe(CPU)}


def _own() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy() -> float | None:
    """Seconds that all processors have worked, or been kept from it by other machines, since the system began."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, _, _, interrupt, soft, stolen = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def noise(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
