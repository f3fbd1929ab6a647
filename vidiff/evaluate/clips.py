"""The clips that scores are of: those of a folder, and what a run makes for real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vidiff.data.clip import Clip
from vidiff.data.index import Index
from vidiff.data.probe import probe_all
from vidiff.pipeline.pipeline import Pipeline
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.video.sources import CLIP_SUFFIXES


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
