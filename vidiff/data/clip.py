"""One clip is one record, from where it is found to where it is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vidiff.store.place import Place, Stamp
from vidiff.video.decode import Treatment
from vidiff.video.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES

NEVER = Stamp()
ABOUT = "actions.json"  # in each folder of clips, or in one above: the dimensions of an action
ACTION_SUFFIXES = ("npy", "csv", "jsonl")  # of the files `NAME.actions.*`, the first that is there
NAMED = 20  # files that are left out, each with its reason, where there are more
# what is known once a clip has been opened
FACTS = ("frames", "fps", "height", "width", "fingerprint", "decoder", "traits", "damage", "parts")


class LeftOut(NamedTuple):
    """A file of a data set that is no clip to train on.

    Args:
        name: as of a `Clip`.
        reason: why, in words that all of its kind share, such as "a clip beside the folders of classes".
        detail: what is this file's own of it.
        place: of a clip that could be read all the same.
    """

    name: str
    reason: str
    detail: str = ""
    place: Place | None = None


class ActionsAt(NamedTuple):
    """Where the actions of a clip are that a list or a tar brings along, or a data set of LeRobot.

    Args:
        rows: the file with a row for each frame; None where none is given, or it is not there.
        about: what names the dimensions; None where the nearest `actions.json` does.
        episode: of LeRobot, of which the file has the rows among those of others; -1 elsewhere.
        begin: the frame of the clip's file that the first of its rows is of.
    """

    rows: Place | None
    about: Place | None = None
    episode: int = -1
    begin: int = 0


def account(left_out: Sequence[LeftOut], total: int, where: str) -> list[str]:
    """What doctor, index and training say, in lines, of the files that are left out: how many, and why.

    Args:
        total: number of files, with these.
        where: how messages call the data set.
    """
    if not left_out:
        return []
    told = [f"left out {name}: {detail}" for name, _, detail, _ in left_out if detail]
    if len(told) > NAMED:
        told[NAMED:] = [f"and {len(told) - NAMED} more"]
    reasons = Counter(reason for _, reason, _, _ in left_out)
    example = {reason: name for name, reason, _, _ in reversed(left_out)}
    lines = [f"{count:8}  {reason}, such as {example[reason]}" for reason, count in reasons.most_common()]
    return [*told, f"{len(left_out)} of {total} files in {where} are left out:", *lines]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of a data set.

    Args:
        name: relative to the data set's folder, with forward slashes; within a tar, the tar's name comes first. Of an
            episode of LeRobot, several of which share a file, such as episode_000003.
        place: where its bytes are.
        label: number of its class; -1 for none.
        caption: that it brings along, which may be empty; None where one may lie beside it.
        actions: that it brings along; None where they may lie beside it.
        frames, fps, height, width: of the video; size in pixels.
        fingerprint: hash of its size and of its beginning and end.
        decoder: what reads it, as of `vidiff.video.reader.VideoReader`.
        traits: how its pixels are stored, of `vidiff.video.stream.TRAITS`.
        damage: the stretches of its own frames that are damaged: the first of each, and the one past the last.
        parts: what is left of a damaged clip, likewise, and how many frames each part has as it is seen.
        part: the first two of these, where this record is of one part; or of a file of several clips.
        stamp: of its bytes, when it was looked at.
        shared: whether its file has other clips as well, from which its name tells it apart.
    """

    name: str
    place: Place = field(compare=False)
    label: int = -1
    caption: str | None = None
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    fingerprint: str = ""
    decoder: str = "auto"
    traits: tuple[str, ...] = ()
    damage: tuple[tuple[int, int], ...] = ()
    parts: tuple[tuple[int, int, int], ...] = ()
    part: tuple[int, int] | None = None
    stamp: Stamp = NEVER
    actions: ActionsAt | None = field(default=None, compare=False)
    shared: bool = False

    @property
    def key(self) -> str:
        """By which the quarantine knows it: its place's, and where others share its file its name."""
        return f"{self.place.key}|{self.name}" if self.shared else self.place.key

    @property
    def facts(self) -> list[Any]:
        """The values of FACTS."""
        return [getattr(self, name) for name in FACTS]

    def with_facts(self, facts: list[Any]) -> Clip:
        """The same clip with the values of FACTS."""
        return replace(self, **from_json(dict(zip(FACTS, facts, strict=True))))

    @property
    def sound(self) -> list[Clip]:
        """The same clip; where it is damaged, each of its parts."""
        if not self.parts:
            return [self]
        return [replace(self, frames=frames, part=(start, stop)) for start, stop, frames in self.parts]


def from_json(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts by name as a record has them: where JSON has lists, tuples."""
    rows = {name: tuple(map(tuple, facts[name])) for name in ("damage", "parts")}
    return {**facts, **rows, "traits": tuple(facts["traits"])}


def told_of(files: Sequence[Clip], treatment: Treatment) -> list[str]:
    """Lines on the clips of an index that are not read just as they are stored."""
    clips = {file.name: file for file in files}
    meanings = {
        "squeezed": "pixels that are not square: they are stretched to what players show",
        "interlaced": "frames of two fields: "
        + ("made whole" if treatment.deinterlace else "set data.deinterlace=true to have them made whole"),
        "hdr": "high dynamic range: "
        + ("brought to BT.709" if treatment.tonemap else "set data.tonemap=true, or colours are pale"),
        "transparent": f"an alpha channel: they are put over {treatment.background} (data.background)",
    }
    lines = []
    for trait, meaning in meanings.items():
        if names := [name for name, file in clips.items() if trait in file.traits]:
            lines.append(f"{len(names)} of {len(clips)} files, such as {names[0]}, have {meaning}")
    damaged = [file for file in clips.values() if file.damage]
    for file in damaged[:NAMED]:
        lines.append(f"left out of {file.name}: {in_words(file.damage)}")
    if len(damaged) > NAMED:
        lines.append(
            f"{len(damaged)} of {len(clips)} files are damaged, {len(damaged) - NAMED} more than are named here"
        )
    return lines


def within(stretches: Sequence[tuple[int, int]], part: tuple[int, int] | None) -> list[tuple[int, int]]:
    """What of some stretches of frames, each the first and the one past the last, lies in a part; all without one."""
    first, stop = part or (0, max((end for _, end in stretches), default=0))
    cut = [(max(start, first), min(end, stop)) for start, end in stretches]
    return [(start, end) for start, end in cut if start < end]


def in_words(damage: Sequence[tuple[int, int]]) -> str:
    """Which frames are damaged, the last one included."""
    return f"frames {' and '.join(f'{start} to {stop - 1}' for start, stop in damage)}, which are damaged"


def stem_of(name: str) -> str:
    """The name of a clip without what tells its kind; that of a folder of pictures is whole, dots and all."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in CLIP_SUFFIXES | PICTURE_SUFFIXES else name
