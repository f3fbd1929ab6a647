"""What can be done in a frame, and how a network is told what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNKNOWN = -1  # a discrete action that is none of those there are: of a frame that no action led to


@dataclass(frozen=True)
class Action:
    """A dimension of what can be done in a frame.

    Args:
        name: of the dimension.
        kind: discrete, a whole number from 0 on, or continuous.
        names: what each number does, where the environment tells; of a discrete one.
        count: of the numbers that a discrete one takes.
        low, high: of a continuous one.
    """

    name: str
    kind: str
    count: int = 0
    names: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, told: dict[str, Any]) -> Action:
        """From what `facts` tells of it. Raises ValueError for anything else."""
        wanted = "a name, and kind discrete with a count, or continuous with low and high"
        try:
            made = cls(**{**told, "names": tuple(map(str, told.get("names", ())))})
            sound = made.count > 1 if made.kind == "discrete" else made.kind == "continuous" and made.low < made.high
        except (TypeError, AttributeError):
            sound = False
        if not sound or len(made.names) not in (0, made.count):
            raise ValueError(f"{told} is no dimension of actions; expected {wanted}")
        return made

    @property
    def range(self) -> str:
        if self.kind == "continuous":
            return f"numbers from {self.low:g} to {self.high:g}"
        return f"whole numbers from 0 to {self.count - 1}"

    @property
    def width(self) -> int:
        """Numbers by which a network is told it."""
        return self.count if self.kind == "discrete" else 2

    def has(self, values: np.ndarray) -> bool:
        """Whether all of some values, `(n,)`, are ones that it takes."""
        if self.kind == "continuous":
            return bool(((values >= self.low) & (values <= self.high)).all())
        return bool(np.isin(values, np.arange(self.count)).all())

    def known(self, values: np.ndarray) -> np.ndarray:
        """Which of some values say what was done: of those that do not, a discrete one is -1, or either NaN."""
        known = ~np.isnan(values)
        return known & (values != UNKNOWN) if self.kind == "discrete" else known

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values `(n,)` as a network is told them, `(n, width)`: one of a discrete one's is 1; a continuous one is
        scaled to [-1, 1] and followed by a 1; all are 0 where it is not known what was done."""
        known = self.known(values)
        if self.kind == "discrete":
            return (values[:, None] == np.arange(self.count)) & known[:, None]
        scaled = 2 * (values - self.low) / (self.high - self.low) - 1
        return np.stack([np.where(known, scaled, 0), known], axis=1)

    def facts(self) -> dict[str, Any]:
        """What `actions.json` tells of it."""
        told: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "continuous":
            return {**told, "low": self.low, "high": self.high}
        return {**told, "count": self.count, **({"names": [*self.names]} if self.names else {})}


@dataclass(frozen=True)
class ActionSpace:
    """All that can be done in a frame, a dimension at a time.

    Args:
        dimensions: in the order in which rows of actions have them.
    """

    dimensions: tuple[Action, ...]

    @classmethod
    def of(cls, told: Sequence[dict[str, Any]]) -> ActionSpace:
        """From what `facts` tells of it. Raises ValueError for anything else, and for no dimension at all."""
        if not (isinstance(told, list | tuple) and told):
            raise ValueError("no dimension of actions is told: give one or more")
        return cls(tuple(Action.of(one) for one in told))

    def __str__(self) -> str:
        return ", ".join(f"{one.name} ({', '.join(one.names) or one.range})" for one in self.dimensions)

    def facts(self) -> list[dict[str, Any]]:
        return [one.facts() for one in self.dimensions]

    @property
    def width(self) -> int:
        """Numbers by which a network is told an action."""
        return sum(one.width for one in self.dimensions)

    def check(self, rows: np.ndarray, where: str) -> None:
        """Raises ValueError unless rows `(n, a)` are of these dimensions, each within its range or unknown."""
        if rows.ndim != 2 or rows.shape[1] != len(self.dimensions):
            raise ValueError(f"{where}: numbers of shape {rows.shape}; expected {len(self.dimensions)} a row")
        for column, one in zip(rows.T, self.dimensions, strict=True):
            column = column.astype(np.float64)
            if not one.has(column[one.known(column)]):
                odd = next(value for value in column[one.known(column)] if not one.has(np.array([value])))
                raise ValueError(f"{where}: {one.name} is {odd:g}; it takes {one.range}, or {self.unknown(one)}")

    def unknown(self, one: Action) -> str:
        """How messages call what stands for an action that is not known."""
        return f"{UNKNOWN} where it is unknown" if one.kind == "discrete" else "NaN where it is unknown"

    def encode(self, rows: np.ndarray) -> Tensor:
        """Rows `(n, a)` as a network is told them: float32 `(n, width)`, all 0 where it is not known what was done."""
        parts = [one.encode(column) for one, column in zip(self.dimensions, rows.T.astype(np.float64), strict=True)]
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def rows(self, given: Any, where: str = "actions") -> np.ndarray:
        """Actions as a user gives them, as rows `(n, a)`, float64.

        Args:
            given: numbers, `(n, a)` or, where there is one dimension, `(n,)`; of that, names as well, such as
                ["LEFT", "FIRE"]. None, alone or as one of them, is unknown.

        Raises:
            ValueError: another shape, a name that there is not, a number out of range.
        """
        if isinstance(given, Tensor | np.ndarray):
            rows = np.asarray(given, dtype=np.float64)
        else:
            rows = np.array([self._row(row, where) for row in given], dtype=np.float64)
        if rows.ndim == 1 and len(self.dimensions) == 1:
            rows = rows[:, None]
        self.check(rows, where)
        return rows

    def _row(self, row: Any, where: str) -> list[float]:
        values = [*row] if isinstance(row, list | tuple | np.ndarray) else [row] * (1 if row is not None else 0)
        values = values or [None] * len(self.dimensions)
        if len(values) != len(self.dimensions):
            raise ValueError(f"{where}: {row!r} has {len(values)} numbers; expected {len(self.dimensions)} a row")
        return [self._number(one, value, where) for one, value in zip(self.dimensions, values, strict=True)]

    def _number(self, one: Action, value: Any, where: str) -> float:
        if value is None:
            return float("nan")
        if isinstance(value, str):
            named = {name.lower(): number for number, name in enumerate(one.names)}
            if value.lower() in named:
                return float(named[value.lower()])
            there = f"; there are {', '.join(one.names)}" if one.names else f"; it takes {one.range}"
            raise ValueError(f"{where}: {one.name} has no action {value!r}{there}")
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {one.name} is {value!r}; it takes {one.range}") from None


def stacked(told: Tensor, ends: Sequence[int], spans: Sequence[int], slots: int) -> Tensor:
    """What led to each frame of a clip, of which one may follow on several of the file: all of it, the last first.

    Args:
        told: `(n, w)`, what led to each frame of the file.
        ends: the file's frame behind each of the clip's.
        spans: frames of the file by which each follows the one before.
        slots: the most of these.

    Returns:
        `(len(ends), slots, w)`, 0 in slots that a span does not fill.
    """
    end, back = torch.tensor([*ends])[:, None], torch.arange(slots)
    place = end - back  # f slots
    there = (back < torch.tensor([*spans])[:, None]) & (place >= 0) & (place < len(told))
    rows = told[place.clamp(0, max(len(told) - 1, 0))]  # f slots w
    return torch.where(there[..., None], rows, 0.0)
