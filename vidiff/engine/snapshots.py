"""Snapshots of power-function averages, kept over a training, and averages of other widths made of them.

ema/step-0001000/0.050.safetensors  0.100.safetensors    the averages of each width, in half precision
                 manifest.json                           sizes, hashes, and the number of updates so far
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidiff.engine.power import gamma_of, synthesis
from vidiff.engine.publish import CheckpointError, begin, publish, published, read_tensors, step_of, verify
from vidiff.engine.publish import write_tensors as write_file
from vidiff.store.files import remove


def write(folder: Path, step: int, updates: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Publishes `folder`/step-... with each width's average after so many updates. Raises OSError as the disk does."""
    draft = begin(folder, step)
    for width, tensors in averages.items():
        write_file({name: _half(tensor) for name, tensor in tensors.items()}, draft / f"{width:.3f}.safetensors")
    publish(draft, step, updates=updates)


def _half(tensor: Tensor) -> Tensor:
    """In float16, where no value is too large for it."""
    half = tensor.half()
    return half if half.isfinite().all() else tensor


def trim(folder: Path, step: int) -> None:
    """Removes snapshots of later steps: of a course that the run has left."""
    for path in published(folder):
        if step_of(path) > step:
            remove(path)


@dataclass(frozen=True)
class Snapshot:
    """One file: the average of a width after so many updates."""

    path: Path
    step: int
    updates: int
    width: float


def found(folder: Path, say: Callable[[str], None] = warnings.warn) -> list[Snapshot]:
    """All that are sound, from old to new; each that is not is told to `say`."""
    snapshots = []
    for path in published(folder):
        try:
            facts = verify(path)
        except CheckpointError as error:
            say(f"{error}; making do without it")
            continue
        for name in sorted(facts["files"]):
            width = float(name.removesuffix(".safetensors"))
            snapshots.append(Snapshot(path / name, facts["step"], facts["updates"], width))
    return snapshots


def synthesise(
    snapshots: list[Snapshot], width: float, step: int | None = None, bar: Callable[[Iterable], Iterable] = iter
) -> tuple[dict[str, Tensor], int]:
    """The average of any width, by default as of the last snapshot.

    Args:
        snapshots: as `found` returns them.
        width: relative, as of `train.ema_widths`.
        step: of one of the snapshots.
        bar: shows how far it is, as tqdm does.

    Returns:
        the average's tensors, in float32, and its step.

    Raises:
        ValueError: no snapshots, none of that step, or a width that cannot be.
    """
    gamma = gamma_of(width)
    if not snapshots:
        raise ValueError("there are no snapshots: train with ema_widths=[0.05,0.1], which keeps some in the run's ema/")
    steps = sorted({each.step for each in snapshots})
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(f"step is {step}; there are snapshots of {', '.join(map(str, steps))}")
    used = [each for each in snapshots if each.step <= step]
    factors = synthesis([(each.updates, gamma_of(each.width)) for each in used], (used[-1].updates, gamma))
    total: dict[str, Tensor] = {}
    for snapshot, factor in bar(list(zip(used, factors.tolist(), strict=True))):
        for name, tensor in read_tensors(snapshot.path).items():
            total[name] = total.get(name, torch.zeros(())) + factor * tensor.float()
    return total, step
