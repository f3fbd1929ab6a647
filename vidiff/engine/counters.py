"""Where a run stands, in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


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
    sums: dict[str, float] = field(default_factory=dict)
    """Of each scalar since the last logged step, where it was finite; with how often that was."""
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            known = math.isfinite(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if known else 0.0)
            self.counts[name] = self.counts.get(name, 0) + known

    def take_means(self) -> dict[str, float]:
        """The mean of each scalar since this was last asked; nan where none was finite."""
        means = {name: total / (self.counts[name] or math.nan) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
