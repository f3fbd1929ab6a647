"""What the doctor tells of the actions of a data set's clips: who lacks them, what is wrong, what is done how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vidiff.data.actions.read import all_rows, place_of_actions, space_of
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.clip import ABOUT, Clip
from vidiff.data.doctor.record import Record
from vidiff.data.find import Stock
from vidiff.store.error import DataError
from vidiff.store.place import Place

FAULTS = {  # of the actions of a clip, and what to do about it
    "none": ("no actions", "write them, or take the clip out: with data.actions all clips need them"),
    "lost": ("actions that cannot be read, or are out of range", f"write them anew, or mend {ABOUT}"),
    "length": ("another number of rows than frames", "give one a frame: row i is what led from frame i - 1 to frame i"),
}
NAMED = 3  # clips of each fault that the lines name; the page names all


@dataclass
class Column:
    """What is done in one dimension, over all rows of all clips.

    Args:
        action: the dimension.
        rows: how many were seen; `unknown` of them do not say what was done.
        counts: of each number of a discrete one.
        low, high, total: the least and the most of a continuous one, and the sum.
    """

    action: Action
    rows: int = 0
    unknown: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Counts more values, `(n,)`."""
        known = values[self.action.known(values)]
        self.rows, self.unknown = self.rows + len(values), self.unknown + len(values) - len(known)
        if self.action.kind == "discrete":
            more = np.bincount(known.astype(np.int64), minlength=self.action.count)
            self.counts = more + (self.counts if len(self.counts) else 0)
        if len(known):
            self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
            self.total += float(known.sum())

    @property
    def known(self) -> int:
        return self.rows - self.unknown

    def name_of(self, value: float) -> str:
        """A value as people know it."""
        return self.action.names[int(value)] if self.action.names else f"{value:g}"

    @property
    def used(self) -> str:
        """The share of each action, or the range that is used, in words."""
        if not self.known:
            return "never known"
        if self.action.kind == "discrete":
            return ", ".join(
                f"{self.name_of(value)} {count / self.known:.1%}" for value, count in enumerate(self.counts)
            )
        share = (self.high - self.low) / (self.action.high - self.action.low)
        return (
            f"{self.low:g} to {self.high:g}, {share:.0%} of the range from {self.action.low:g} to "
            f"{self.action.high:g}, {self.total / self.known:.3g} on average"
        )

    @property
    def advice(self) -> str:
        """What is odd about it; "" for nothing."""
        if not self.known:
            return "no row tells it: leave it out"
        if self.low == self.high:
            return f"always {self.name_of(self.low)}: it tells a model nothing, leave it out"
        if self.action.kind == "discrete" and (never := np.flatnonzero(self.counts == 0)).size:
            return (
                f"never {', '.join(self.name_of(float(value)) for value in never)}: a model cannot learn what that does"
            )
        if self.action.kind == "continuous" and self.high - self.low < 0.1 * (self.action.high - self.action.low):
            return f"less than a tenth of its range is used: bring low and high of {ABOUT} closer"
        return ""


@dataclass
class ActionFacts:
    """What was found.

    Args:
        clips: how many were looked at.
        space: the dimensions; None where folders disagree or tell none, as `problem` says.
        columns: of each dimension.
        faults: the clips of each of FAULTS, and what is wrong with each.
    """

    clips: int
    space: ActionSpace | None = None
    problem: str = ""
    columns: list[Column] = field(default_factory=list)
    faults: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def sound(self) -> int:
        """How many clips have actions that can be trained on."""
        return self.clips - sum(map(len, self.faults.values()))


def look_at_actions(stock: Stock, records: Sequence[Record]) -> ActionFacts | None:
    """Reads the actions of all clips of a data set that can be read; None where there are none.

    Args:
        records: what is known of the clips.
    """
    frames = {record.name: record.frames for record in records if record.readable}
    clips = [replace(clip, frames=frames[clip.name]) for clip in stock.clips if clip.name in frames]
    tree = stock.root.tree
    places = {clip.name: place_of_actions(tree, clip) for clip in clips}
    if not any(places.values()):
        return None
    try:
        space = space_of(stock.root, [clip for clip in clips if places[clip.name]])
    except DataError as error:
        return ActionFacts(len(clips), problem=str(error))
    facts = ActionFacts(len(clips), space, columns=[Column(one) for one in space.dimensions])
    for clip in clips:
        if fault := _count(facts, clip, places[clip.name]):
            facts.faults.setdefault(fault[0], []).append((clip.name, fault[1]))
    return facts


def action_lines(facts: ActionFacts | None) -> list[str]:
    """What is told of actions in lines of plain words."""
    if facts is None:
        return []
    if facts.space is None:
        return [f"actions: {facts.problem}"]
    lines = [f"actions of {facts.sound} of {facts.clips} clips can be trained on (data.actions=true)"]
    for fault, clips in facts.faults.items():
        lines.append(f"  {len(clips):6}  {FAULTS[fault][0]}: {FAULTS[fault][1]}")
        lines += [f"          {detail}" for _, detail in clips[:NAMED]]
        lines += [f"          and {len(clips) - NAMED} more"] if len(clips) > NAMED else []
    for column in facts.columns:
        unknown = f"; {column.unknown / column.rows:.1%} of {column.rows:,} rows unknown" if column.unknown else ""
        lines.append(f"  {column.action.name}: {column.used}{unknown}")
        lines += [f"    {column.advice}"] if column.advice else []
    return lines


def _count(facts: ActionFacts, clip: Clip, place: Place | None) -> tuple[str, str] | None:
    """Adds the rows of a clip to the columns, as far as they can be told; returns what is wrong with them."""
    assert facts.space is not None
    if place is None:
        return "none", clip.name
    try:
        rows = all_rows(place, clip, facts.space)
    except ValueError as error:
        return "lost", str(error)
    for column, values in zip(facts.columns, rows.T, strict=True):
        column.add(values)
    if len(rows) != clip.frames:
        return "length", f"{clip.name}: {len(rows)} rows for {clip.frames} frames"
    return None
