"""The clips that scores are of: fixed windows of files, and what a run makes for them.

They are the same for everyone, whatever the number of processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.data.clip import Clip
from vidiff.data.clips import long_enough
from vidiff.data.index import Index
from vidiff.data.probe import probe_all
from vidiff.engine.parallel import Group
from vidiff.pipeline.pipeline import Pipeline
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.video.fit import Fit
from vidiff.video.sources import CLIP_SUFFIXES

BATCH = 8
"""Clips of one batch: a batch is one process's from decoding to features, so its bits depend on no other."""


@dataclass(frozen=True)
class Windows:
    """Windows of the files of an index.

    Args:
        starts: (file number, first frame) of each.
        frames: of a window, `stride` source frames apart.
        size: height and width in pixels: the shorter side is resized to it, then the middle is cropped.
    """

    index: Index
    starts: list[tuple[int, int]]
    frames: int
    stride: int
    size: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def labels(self) -> Tensor:
        """(n,) int64, -1 for none."""
        return torch.tensor([self.index.files[number].label for number, _ in self.starts])

    @property
    def sha256(self) -> str:
        """A hash that says which clips these are, wherever the files lie."""
        return hashlib.sha256(json.dumps([self.index.digest, self.starts]).encode()).hexdigest()

    def read(self, which: range) -> Tensor:
        """Windows `which`: `(b, 3, f, size, size)` in [-1, 1]. Raises VideoError for a damaged file."""
        clips = []
        for number, start in (self.starts[i] for i in which):
            file = self.index.files[number]
            fit = Fit((file.height, file.width), (self.size, self.size))
            with file.place.held() as here, self.index.manner(file).open(here) as reader:
                clips.append(fit.read(reader, range(start, start + self.frames * self.stride, self.stride)))
        return torch.stack(clips)


def choose_windows(index: Index, frames: int, size: int, stride: int = 1, count: int | None = None) -> Windows:
    """Windows that do not overlap, as many of each file as fit; `count` of them, evenly chosen.

    Raises:
        ValueError: no file is long enough, or fewer windows than `count`; sizes below 1.
    """
    if min(frames, size, stride) < 1 or (count is not None and count < 1):
        raise ValueError(f"frames={frames}, size={size}, stride={stride}, clips={count}: give 1 or more of each")
    kept = long_enough([file.frames for file in index.files], frames, stride, index.root)
    needed, pace = (frames - 1) * stride + 1, frames * stride
    starts = [(n, start) for n in kept for start in range(0, index.files[n].frames - needed + 1, pace)]
    if count is not None:
        if count > len(starts):
            raise ValueError(
                f"{index.root} has {len(starts)} clips of {frames} frames, but {count} are asked for: "
                "ask for fewer, or for shorter ones"
            )
        starts = [starts[i * len(starts) // count] for i in range(count)]
    return Windows(index, starts, frames, stride, size)


def gathered(
    count: int, group: Group, make: Callable[[range], dict[str, Tensor]], title: str, progress: bool = True
) -> dict[str, Tensor]:
    """What `make` returns for each batch, all processes' together in the clips' order, on the main process.

    Args:
        make: numbers of clips -> tensors `(b, ...)` by name, the same names for each batch.

    Returns:
        tensors `(count, ...)` by name; elsewhere than on the main process nothing.
    """
    own: dict[int, dict[str, Tensor]] = {}
    batches = range(group.rank * BATCH, count, BATCH * group.world)
    with tqdm(total=len(batches), desc=title, unit="batch", disable=not (progress and group.main)) as bar:
        for start in batches:
            own[start] = make(range(start, min(start + BATCH, count)))
            bar.update()
    parts: dict[int, dict[str, Tensor]] = {}
    for share in group.gather(own):
        parts.update(share)
    if not group.main:
        return {}
    names = parts[0]
    return {name: torch.cat([parts[start][name] for start in sorted(parts)]) for name in names}


def index_folder(root: str | Path, labels: list[str], workers: int = 2) -> Index:
    """All videos in a folder and in folders in it, in order of their paths. Every one of them must be readable.

    Args:
        labels: names of classes; a clip is of the class that its folder is named after, if any.

    Raises:
        DataError: no such folder, no videos, or a file that cannot be read (named).
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give a trained run, or a folder of clips, one a file")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in CLIP_SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise DataError(f"no videos in {root}: expected {', '.join(sorted(CLIP_SUFFIXES))}, one clip a file")
    clips = []
    for path in paths:
        label = labels.index(path.parent.name) if path.parent.name in labels else -1
        clips.append(Clip(path.relative_to(root).as_posix(), place_of(path), label))
    with closing(probe_all(clips, workers)) as outcomes:
        outcome_of = {clip.name: outcome for clip, outcome in outcomes}
    files = []
    for clip in clips:
        outcome = outcome_of[clip.name]
        if isinstance(outcome, str):
            raise DataError(f"{clip.place} cannot be read ({outcome}): mend or remove it")
        files.append(outcome)
    return Index(str(root), files, labels)


@dataclass(frozen=True)
class DrawnClips:
    """Clips that a trained run makes: one for each real clip, with its label, and seeds that batches fix.

    Args:
        names: the real clips' labels, None for none. Where the run does not know them all, none is asked for.
        frames: of a clip.
        options: `guidance`, `steps` and `sampler`, None for the run's own.
        captions: `names` are what the clips show in words, and not labels.
    """

    run: Pipeline
    names: Sequence[str | None]
    frames: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    captions: bool = False

    @property
    def untold(self) -> str:
        """A sentence on classes of the real clips that the run does not know, for which it is told none; "" if none."""
        names = (
            [] if self.captions or not self.run.labels else sorted({*self.names} - {None, *self.run.labels}, key=str)
        )
        if not names:
            return ""
        some = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return f"the run knows no class {some} of the real clips, so its clips are drawn without any label"

    def read(self, which: range) -> Tensor:
        """Clips `which`: `(b, 3, f, h, w)`, the same whatever else is made."""
        return self.run.generate(self.frames, count=len(which), **self._asked(which), **self._drawn(which, 0)).cpu()

    def extend(self, which: range, given: Tensor, attempt: int) -> Tensor:
        """The real clips `which` continued from their first frames, with other noise at each attempt."""
        return self.run.extend(given, self.frames, **self._asked(which), **self._drawn(which, attempt)).cpu()

    def onward(self, which: range, given: Tensor, frames: int) -> Iterator[Tensor]:
        """New frames of the real clips `which` after those given, up to `frames` in all, piece by piece."""
        return self.run.stream(frames, clip=given, **self._asked(which), **self._drawn(which, 0))

    def how(self, source: str, **weights: Any) -> dict[str, Any]:
        """For a card; `weights` as `engine.checkpoint.describe_weights` tells them, where more is known than a name."""
        settings = self.run.settings(**self.options)
        chosen = {name: settings[name] for name in ("weights", "sampler", "steps", "guidance")}
        return chosen | weights | {"source": source, "seed": self.seed}

    def _asked(self, which: range) -> dict[str, Any]:
        names = list(self.names[which.start : which.stop])
        if self.captions:
            return {"text": names}
        return {"label": names if self.run.labels and not self.untold else None}

    def _drawn(self, which: range, attempt: int) -> dict[str, Any]:
        return {**self.options, "seed": 1_000_003 * self.seed + 10_007 * attempt + which.start}
