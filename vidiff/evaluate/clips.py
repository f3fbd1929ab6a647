"""The clips that scores are of: those of a folder, and what a run makes for real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vidiff.data.captions import read_captions
from vidiff.data.clip import Clip
from vidiff.data.index import Index
from vidiff.data.probe import probe_all
from vidiff.data.root import Root
from vidiff.evaluate.card import FILE as CARD
from vidiff.pipeline.pipeline import Pipeline
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.training.windows import Windows, evenly
from vidiff.video.sources import CLIP_SUFFIXES

SEARCHED = 2_000
"""Training clips among which copies are looked for, at most: each goes through the network once a scoring."""


def index_folder(root: str | Path, labels: list[str], workers: int = 2) -> Index:
    """All videos in a folder and in folders in it, in order of their paths. Every one of them must be readable.

    What a scoring has left there is no clip: folders in it that hold a card are passed by.

    Args:
        labels: names of classes; a clip is of the class that its folder is named after, if any.

    Raises:
        DataError: no such folder, no videos, or a file that cannot be read (named).
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give a trained run, or a folder of clips, one a file")
    scored = {card.parent for card in root.rglob(CARD)} - {root}
    paths = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in CLIP_SUFFIXES and not p.name.startswith(".") and scored.isdisjoint(p.parents)
    )
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


def classes_of(windows: Windows) -> list[str | None]:
    """The class of each window's file; None for one without."""
    return [windows.index.class_of(windows.index.files[number]) for number, _ in windows.starts]


def captions_of(windows: Windows, root: Root, kind: str = "auto") -> list[str]:
    """The caption of each window's file. Arguments and errors as of `read_captions`."""
    files = [windows.index.files[number] for number, _ in windows.starts]
    once = {file.name: file for file in files}
    captions = dict(zip(once, read_captions(root, [*once.values()], kind), strict=True))
    return [captions[file.name] for file in files]


def searched_windows(every: Windows, floor: int, most: int = SEARCHED) -> Windows:
    """Training clips among which copies are looked for: first those of the floor, as `choose_windows` chooses them,
    then of the others as many as make `most` in all, evenly chosen.

    Args:
        every: all windows that there are, `floor` or more.
    """
    first = evenly(floor, len(every))
    rest = sorted({*range(len(every))} - {*first})
    others = [rest[i] for i in evenly(max(0, most - floor), len(rest))]
    return replace(every, starts=[every.starts[i] for i in [*first, *others]])


@dataclass(frozen=True)
class DrawnClips:
    """Clips that a trained run makes: one for each real clip, with its label and caption, and seeds that batches fix.

    Args:
        names: the real clips' labels, None for none. Where the run does not know them all, none is asked for.
        frames: of a clip.
        options: `guidance`, `steps` and `sampler`, None for the run's own.
        texts: what the real clips show in words; None to ask for no text. Nor is one asked for that the run cannot read
            as a whole.
    """

    run: Pipeline
    names: Sequence[str | None]
    frames: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    texts: Sequence[str | None] | None = None

    @property
    def told(self) -> bool:
        """Whether the run is told what the real clips show, by label or text."""
        return self.texts is not None or bool(self.run.labels and not self._unknown)

    @property
    def cautions(self) -> list[str]:
        """Sentences on what the run could be told of the real clips, and is not."""
        run, unknown, said = self.run, self._unknown, []
        if unknown:
            some = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            said.append(f"the run knows no class {some} of the real clips, so its clips are drawn without any label")
        if self.texts is None and run.text is not None:
            said.append("the run reads text, and its clips are drawn without any")
        if unread := self._texts(range(len(self.names))).count(None):
            said.append(
                f"{unread} of {len(self.names)} real clips have captions with words that the run does not know, or too "
                "many: in their place clips are drawn without text"
            )
        if run.facts.actions is not None:
            said.append("the run is told actions, and its clips are drawn without any")
        if run.facts.control:
            said.append(
                "the run is shown another video of what it makes (control), and its clips are drawn without one"
            )
        return said

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

    @property
    def _unknown(self) -> list[str]:
        """Classes of the real clips that the run, which knows some, does not know."""
        return sorted({name for name in self.names if name is not None} - {*self.run.labels}) if self.run.labels else []

    def _texts(self, which: range) -> list[str | None]:
        encoder, texts = self.run.text, (self.texts or ())[which.start : which.stop]
        return [text if text is None or encoder is None or encoder.fits(text) else None for text in texts]

    def _asked(self, which: range) -> dict[str, Any]:
        names = list(self.names[which.start : which.stop])
        asked: dict[str, Any] = {"label": names if self.run.labels and not self._unknown else None}
        return asked | ({} if self.texts is None else {"text": self._texts(which)})

    def _drawn(self, which: range, attempt: int) -> dict[str, Any]:
        return {**self.options, "seed": (1_000_003 * self.seed + 10_007 * attempt + which.start) % 2**63}
