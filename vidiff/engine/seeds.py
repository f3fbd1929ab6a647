"""Randomness that depends on the step, and not on what happened before it.

Before each step the global generators (Python's, NumPy's, torch's) are seeded from (seed, step, rank). So a
step draws the same numbers in a run that was interrupted, resumed, validated or sampled in between as in one
that was not.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds every global generator for one step of one process."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def random_state() -> dict[str, Any]:
    """The state of every global generator, in types that JSON has."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)),
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
    }


def _text(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _state(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_state(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_state(state["cuda"]))


@contextmanager
def kernels(deterministic: bool, one_shape: bool) -> Iterator[None]:
    """Which kernels a GPU takes inside; afterwards those that it took before. One training may begin within another,
    as an autoencoder's does, and each has its own.

    Args:
        deterministic: only those that give the same bits every time. Where an operation has none, it is an error.
        one_shape: all batches are alike, so that trying out kernels for convolutions pays.
    """
    if deterministic:  # read when the first product is made, and so never taken back
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it matrix products may differ
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = one_shape and not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warns)
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on afterwards as if it had not been."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
