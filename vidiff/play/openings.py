"""What a world begins with: a few frames of a real clip, and what was done in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from vidiff.data.actions.read import place_of_actions, rows_of
from vidiff.data.clip import Clip
from vidiff.data.find import chosen_splits, take_stock
from vidiff.data.options import DataConfig
from vidiff.data.root import copies_of, local, root_of
from vidiff.pipeline.facts import Facts
from vidiff.store.place import place_of
from vidiff.store.tree import Folder, Tree
from vidiff.video.fit import Fit
from vidiff.video.reader import Manner
from vidiff.video.sources import CLIP_SUFFIXES


@dataclass(frozen=True)
class Opening:
    """Frames that a world goes on from.

    Attributes:
        name: of the clip that they are of.
        video: `(3, f, h, w)` in [-1, 1], of the model's size.
        rows: `(f, a)`, what led to each frame; NaN, or -1 of a discrete one, where that is not known.
        label: the class of the clip, where the model knows it.
    """

    name: str
    video: Tensor
    rows: np.ndarray
    label: str | None = None


class Openings:
    """The held-out clips of a data set, or one clip of the user's.

    Args:
        data: a clip's file; or a data set as `data.root` names one, of which those of the test split are taken.
        options: how the model's own data set is laid out, and which split of it is held out.
        runs: folder of runs, where copies of remote files are kept.
        facts: of the model, by which frames are chosen and brought to its size.
        frames: the most that a clip begins with.

    Raises:
        DataError: nothing there, or no clips of that split.
    """

    def __init__(self, data: str | Path, options: DataConfig, runs: Path, facts: Facts, frames: int) -> None:
        self.facts, self.frames, self.labels = facts, frames, list[str]()
        file = local(data)
        if file.is_file() and file.suffix.lower() in CLIP_SUFFIXES:
            self.tree: Tree = Folder(file.parent)
            self.clips = [Clip(file.name, place_of(file))]
        else:
            own = str(data) == options.root
            layout = options.layout if own else "auto"
            layout = "folders" if layout == "shapes" else layout
            root = root_of(data, copies_of(runs, options.remote_cache_gb))
            stock = take_stock(root, layout, options.fold, {options.split, options.test_split}, camera=options.camera)
            split = options.test_split
            if not own and stock.is_split and not stock.splits.get(split):
                there = [name for name, clips in stock.splits.items() if clips]
                split = (chosen_splits(there) or {"test_split": there[0]})["test_split"]
            self.tree, self.labels, self.clips = root.tree, stock.labels, stock.of(split)

    @property
    def names(self) -> list[str]:
        return [clip.name for clip in self.clips]

    def read(self, number: int) -> Opening:
        """The first frames of a clip. Raises ValueError where there is none of this number, or it cannot be read."""
        if not 0 <= number < len(self.clips):
            raise ValueError(f"there is no clip {number}; choose 0 to {len(self.clips) - 1}")
        clip, facts = self.clips[number], self.facts
        manner = Manner(decoder=clip.decoder, treatment=facts.treatment, part=clip.part)
        with clip.place.held() as place, manner.open(place) as reader:
            shown, _ = facts.seen(reader)
            size = reader.size
            video = Fit(size, facts.nearest(*size)).read(reader, shown[: self.frames].tolist())
            rows = self._rows(clip, reader.frames)
        name = self.labels[clip.label] if 0 <= clip.label < len(self.labels) else None
        return Opening(clip.name, video, rows[shown[: self.frames]], name if name in facts.labels else None)

    def _rows(self, clip: Clip, frames: int) -> np.ndarray:
        """What led to each frame of a clip, as a file beside it tells; unknown where there is none."""
        space = self.facts.actions
        assert space is not None
        if place_of_actions(self.tree, clip) is not None:
            return rows_of(self.tree, replace(clip, frames=frames), space)
        return np.full((frames, len(space.dimensions)), np.nan)
