"""Where a run stands, in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidiff.engine.parallel import Group


@dataclass
class Counters:
    """Part of each checkpoint."""

    step: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    """Wall-clock of training, over all earlier starts."""
    validated: int = 0
    """The last step at which this was done, so that what an interruption cut short is made up for."""
    sampled: int = 0
    best: float = math.inf
    """The lowest score of validation that `keep_best` names, and the step that had it."""
    best_step: int = 0
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps, by which one that stands out is known."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of each scalar since the last logged step, where it was finite; with how often that was."""
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            known = math.isfinite(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if known else 0.0)
            self.counts[name] = self.counts.get(name, 0) + known

    def note_best(self, name: str, scores: Mapping[str, float]) -> None:
        """Remembers the lowest score of that name. Raises ValueError where the validation gives none."""
        if not name:
            return
        if name not in scores:
            raise ValueError(f"train.keep_best is {name}; the validation gives {', '.join(scores)}")
        if scores[name] < self.best:
            self.best, self.best_step = scores[name], self.step

    def take_means(self) -> dict[str, float]:
        """The mean of each scalar since this was last asked; nan where none was finite."""
        means = {name: total / (self.counts[name] or math.nan) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def collect(results: list[dict[str, Tensor]], norm: Tensor, group: Group) -> tuple[dict[str, float], bool]:
    """Means over parts and processes of what is finite, and whether every loss and gradient was.

    Every process gets the same answer, so that all skip a step or none does. It costs one wait for the
    device.
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
