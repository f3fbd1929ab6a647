"""What a folder of clips holds, as far as a recipe depends on it: how many, how long, how large, told by what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from vidiff.data.actions.read import has_actions, read_actions
from vidiff.data.actions.space import ActionSpace
from vidiff.data.captions import has_captions, read_captions
from vidiff.data.clip import Clip
from vidiff.data.find import chosen_splits, take_stock
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.data.root import copies_of, root_of
from vidiff.store.error import DataError

FEW = 600.0  # seconds of footage below which a model soon knows it by heart
ALIKE = 1.02  # ratio of two frame rates that count as one
SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Footage:
    """The clips of a data set, looked into.

    Args:
        root: as it was given.
        splits: keys of the config that say which split is which, where they are not train and test.
        train, test: the readable clips to train on, and those that are held out.
        shared: whether a clip is in both, since there is a single one.
        labels: names of the classes.
        captions: of the clips to train on; empty where there are none.
        actions: what can be done in a frame, where files of actions lie beside the clips.
        troubles: what was found that a user should know, a sentence each.
    """

    root: str
    splits: dict[str, str]
    train: list[Clip]
    test: list[Clip]
    shared: bool
    labels: list[str]
    captions: list[str] = field(default_factory=list)
    actions: ActionSpace | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of all clips to train on."""
        return sum(clip.frames / rate_of(clip) for clip in self.train)

    @property
    def few(self) -> bool:
        """Whether there is so little that a model soon knows it by heart."""
        return self.seconds < FEW

    @property
    def rates(self) -> tuple[float, float]:
        """Frames per second, the lowest and the highest."""
        rates = [rate_of(clip) for clip in self.train]
        return min(rates), max(rates)

    @property
    def rate_is_one(self) -> bool:
        least, most = self.rates
        return most <= ALIKE * least

    @property
    def rate(self) -> float:
        """Of the median clip."""
        return median(rate_of(clip) for clip in self.train)

    @property
    def side(self) -> int:
        """Pixels of the shorter side that nine clips in ten have, or more."""
        return int(lower(min(clip.height, clip.width) for clip in self.train))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Widths and heights, each once, the smallest first."""
        return sorted({(clip.width, clip.height) for clip in self.train}, key=lambda size: (size[0] * size[1], size))

    @property
    def clips_of_labels(self) -> list[int]:
        """Training clips of each class."""
        return [sum(clip.label == number for clip in self.train) for number in range(len(self.labels))]

    @property
    def tells_sides(self) -> bool:
        """Whether words tell left from right, so that a mirrored clip would show something else."""
        return any(SIDES.search(text.replace("_", " ")) for text in (*self.labels, *self.captions))

    def lines(self) -> list[str]:
        """What there is, to be read."""
        sizes, (least, most) = self.sizes, self.rates
        size = "x".join(map(str, sizes[0]))
        if len(sizes) > 1:
            size += " to " + "x".join(map(str, sizes[-1]))
        rate = f"{most:.4g}" if self.rate_is_one else f"{least:.4g} to {most:.4g}"
        held = "which is held out as well, since it is the only one" if self.shared else f"{len(self.test)} held out"
        told = counted(len(self.captions), "caption") if self.captions else counted(len(self.labels), "class")
        return [
            f"{counted(len(self.train), 'clip')} to train on, {held}; {length_of(self.seconds)} in all",
            f"{size} pixels, {rate} frames a second, {told}",
            *([f"actions of every frame: {self.actions}"] if self.actions else []),
            *self.troubles,
        ]


def look_at(root: str, runs: Path = Path("runs")) -> Footage:
    """Looks into each clip of a data set; what is found serves the training as well.

    Args:
        root: as `data.root`: a folder, a list, tars, or the URL of any of these.
        runs: the folder of runs, where what is known of files is kept.

    Raises:
        DataError: no clips, too many that cannot be read, or none that can be held out.
    """
    data = DataConfig(root)
    place = root_of(root, copies_of(runs))
    stock = take_stock(place, data.layout)
    splits: dict[str, str] = {}
    if stock.is_split:
        chosen = chosen_splits([name for name, clips in stock.splits.items() if clips])
        if chosen is None:
            raise DataError(
                f"{root} has clips of one split alone, {next(name for name, clips in stock.splits.items() if clips)}, "
                "and some are to be held out: put some in a folder test beside theirs, or all in one folder"
            )
        splits = {key: name for key, name in chosen.items() if name != getattr(data, key)}
        data = DataConfig(root, split=chosen["split"], test_split=chosen["test_split"])
    train, test = (index_of(data, runs, split) for split in (data.split, data.test_split))
    names = {clip.name for clip in test.files}
    captions, troubles = list[str](), [f"{name} cannot be read: {reason}" for name, reason in train.broken[:5]]
    clips = list({clip.name: clip for clip in train.files}.values())
    if has_captions(place, clips):
        try:
            captions = read_captions(place, clips)
        except DataError as error:
            troubles.append(f"captions are there, but not used: {error}")
    actions: ActionSpace | None = None
    if has_actions(place, clips):
        try:
            actions, _ = read_actions(place, [*clips, *test.files])
        except DataError as error:
            troubles.append(f"actions are there, but not used: {error}")
    shared = bool(clips) and all(clip.name in names for clip in clips)
    return Footage(root, splits, train.files, test.files, shared, train.labels, captions, actions, troubles)


def rate_of(clip: Clip) -> float:
    """Frames per second of a clip; of pictures without a rate, as they are played."""
    return clip.fps or 8.0


def lower(values: Iterable[float]) -> float:
    """What nine values in ten reach."""
    ranked = sorted(values)
    return ranked[len(ranked) // 10]


def counted(count: int, what: str) -> str:
    """No clips, 1 clip, 2 clips."""
    more = "es" if what.endswith("s") else "s"
    return f"{count or 'no'} {what}{more * (count != 1)}"


def length_of(seconds: float) -> str:
    """3.2 seconds, 12 minutes or 1.5 hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.3g} seconds"
