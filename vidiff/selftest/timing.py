"""How long something takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 6) -> float:
    """Of the quickest of a few, after one that warms up; on a GPU until it has done them."""
    best = float("inf")
    for number in range(repeats + 1):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        if number:
            best = min(best, time.perf_counter() - began)
    return best


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
