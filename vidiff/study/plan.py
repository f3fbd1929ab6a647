"""What a study shows: pairs of clips, checks of attention, and for each rater an order and a side for each clip.

<folder>/study.json             the pairs and checks, where the clips came from, and the SHA-256 of each file
         clips/a-0000.mp4       the clips of one model; b-0000.mp4 those of the other, asked for the same
         clips/real-0000.mp4    a real clip, and worse-0000.mp4, the same clip spoilt: who does not see that does
                                not look
         votes.sqlite
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.metrics.degrade import blur, noise
from vidiff.store.files import sha256, write_whole
from vidiff.store.plain import parse_json
from vidiff.video.writer import write_video

FORMAT = 1
BEGUN = "begun.json"  # what a study that is not all there is made of
BATCH = 4
SPOILT = 0.5  # strength of noise and blur in the spoilt clip of a check


class StudyError(ValueError):
    """A study that cannot be made or opened; the message says what to do."""


class ClipSource(Protocol):
    """Where clips come from."""

    def read(self, which: range) -> Tensor:
        """Clips `which`, `(b, 3, f, h, w)` in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Trial:
    """Two clips side by side, as one rater sees them.

    Args:
        item: number of the pair or check in the study.
        left, right: kinds of the clips: "a" and "b", or "real" and "worse".
    """

    item: int
    left: str
    right: str


@dataclass(frozen=True)
class Study:
    """A study's folder, and what study.json says.

    Args:
        labels: of each item, what its clips are to show; None for nothing. Pairs come first, then checks.
        checks: how many of the items are a real and a spoilt clip.
        a, b: what is known of the two models.
    """

    folder: Path
    labels: Sequence[str | None]
    checks: int
    seed: int
    a: Mapping[str, Any]
    b: Mapping[str, Any]

    @property
    def items(self) -> int:
        return len(self.labels)

    @property
    def pairs(self) -> int:
        return self.items - self.checks

    def clip(self, kind: str, item: int) -> Path:
        """The file of a clip of an item."""
        number = item if kind in ("a", "b") else item - self.pairs
        return self.folder / "clips" / f"{kind}-{number:04d}.mp4"

    def trials(self, rater: int) -> list[Trial]:
        """All items in the order in which rater 1, 2, ... sees them.

        Of the pairs, model a stands left in half, to within one; raters 2n - 1 and 2n see each pair both ways. So does
        each half of the checks. No check comes first.
        """
        sides = random.Random(f"{self.seed} sides {(rater - 1) // 2}")
        kinds = [("a", "b")] * self.pairs + [("real", "worse")] * self.checks
        turned: list[bool] = []
        for count in (self.pairs, self.checks):
            half = [i % 2 == 0 for i in range(count)]
            sides.shuffle(half)
            turned += half
        order = random.Random(f"{self.seed} order {rater}")
        pairs = list(range(self.pairs))
        order.shuffle(pairs)
        check_turns = order.sample(range(1, self.items), self.checks)  # not the first
        left = iter(pairs)
        check = iter(range(self.pairs, self.items))
        items = [next(check) if turn in check_turns else next(left) for turn in range(self.items)]
        trials = []
        for item in items:
            one, other = kinds[item] if turned[item] == (rater % 2 == 1) else kinds[item][::-1]
            trials.append(Trial(item, one, other))
        return trials


def make_study(
    folder: Path,
    a: ClipSource,
    b: ClipSource,
    real: ClipSource,
    labels: Sequence[str | None],
    check_labels: Sequence[str | None],
    seed: int,
    facts: Mapping[str, Mapping[str, Any]],
    fps: float,
    progress: bool = True,
) -> Study:
    """Write the clips of a study, unless they are there.

    The files hold nothing but frames: no metadata that tells who made them. An interrupted making goes on.

    Args:
        a, b: of as many clips as there are labels, number n of both being asked for `labels[n]`.
        real: of as many clips as there are `check_labels`, which tell what they show.
        facts: what is known of "a" and "b", kept in study.json.

    Raises:
        StudyError: the folder holds another study; no pairs, or more checks than pairs.
    """
    checks = len(check_labels)
    if not labels or checks > len(labels):
        raise StudyError(f"{len(labels)} pairs and {checks} checks: give 1 pair or more, and at most as many checks")
    asked: dict[str, Any] = {
        "format": FORMAT,
        "labels": [*labels, *check_labels],
        "checks": checks,
        "seed": seed,
        "fps": fps,
        "a": dict(facts["a"]),
        "b": dict(facts["b"]),
    }
    known = folder / "study.json"
    if known.is_file():
        content = _read(known)
        if {key: content.get(key) for key in asked} != _plain(asked):
            raise StudyError(
                f"{folder} holds a study of {content['a'].get('source')} and {content['b'].get('source')} made with "
                "other options: give another --out, or remove that folder with its votes"
            )
        return open_study(folder)
    begun = folder / BEGUN
    if folder.is_dir() and any(p.name not in ("clips", BEGUN, ".DS_Store") for p in folder.iterdir()):
        raise StudyError(f"{folder} holds other things than a study: give another --out")
    if (folder / "clips").is_dir() and not (begun.is_file() and parse_json(begun.read_bytes()) == _plain(asked)):
        raise StudyError(
            f"{folder} holds clips of a study that was begun with other options: give another --out, or remove that "
            "folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(begun, json.dumps(asked, indent=1) + "\n")
    study = Study(folder, asked["labels"], checks, seed, asked["a"], asked["b"])
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    todo = [(kind, source, range(study.pairs)) for kind, source in (("a", a), ("b", b))]
    todo.append(("real", real, range(checks)))
    with tqdm(total=sum(len(numbers) for *_, numbers in todo), desc="clips", unit="clip", disable=not progress) as bar:
        for kind, source, numbers in todo:
            for start in range(0, len(numbers), BATCH):
                which = range(start, min(start + BATCH, len(numbers)))
                _write(study, kind, source, which, fps)
                bar.update(len(which))
    files = sorted((folder / "clips").glob("*.mp4"))
    content = asked | {"sha256": {file.name: sha256(file) for file in files}}
    write_whole(known, json.dumps(content, indent=1) + "\n")
    begun.unlink()
    return study


def _plain(asked: dict[str, Any]) -> Any:
    """What was asked for as a file of JSON says it."""
    return json.loads(json.dumps(asked))


def open_study(folder: Path) -> Study:
    """A study that was made before.

    Raises:
        StudyError: the folder holds none, or a clip is missing or was changed.
    """
    content = _read(folder / "study.json")
    for name, digest in content["sha256"].items():
        file = folder / "clips" / name
        if not file.is_file() or sha256(file) != digest:
            raise StudyError(f"{file} is missing or was changed since the study was made: make a new study")
    return Study(folder, content["labels"], content["checks"], content["seed"], content["a"], content["b"])


def _read(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
        if content["format"] != FORMAT:
            raise StudyError(f"{file} is of format {content['format']}, not {FORMAT}: make a new study")
        return content
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{file.parent} holds no study: make one with --a and --b") from None


def _write(study: Study, kind: str, source: ClipSource, which: range, fps: float) -> None:
    """Clips `which` of one kind, and of a real clip the spoilt one; those that are there are not made again."""
    first = study.pairs if kind == "real" else 0
    kinds = ("real", "worse") if kind == "real" else (kind,)
    if all(study.clip(one, first + number).is_file() for one in kinds for number in which):
        return
    videos = {kind: source.read(which)}
    if kind == "real":
        generator = torch.Generator().manual_seed(study.seed + which.start)
        videos["worse"] = noise(blur(videos["real"], SPOILT, generator), SPOILT, generator)
    for one, video in videos.items():
        for number, clip in zip(which, video, strict=True):
            write_video(study.clip(one, first + number), clip.cpu(), fps=fps)
