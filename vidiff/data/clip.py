"""One clip is one record, from where it is found to where it is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vidiff.store.place import Place, Stamp

NEVER = Stamp()
NAMED = 20  # files that are left out, each with its reason, where there are more
FACTS = ("frames", "fps", "height", "width", "fingerprint", "decoder")  # what is known once a clip has been opened


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
        name: relative to the data set's folder, with forward slashes; within a tar, the tar's name comes first.
        place: where its bytes are.
        label: number of its class; -1 for none.
        caption: that it brings along, which may be empty; None where one may lie beside it.
        frames, fps, height, width: of the video; size in pixels.
        fingerprint: hash of its size and of its beginning and end.
        decoder: what reads it, as of `vidiff.video.reader.VideoReader`.
        stamp: of its bytes, when it was looked at.
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
    stamp: Stamp = NEVER

    @property
    def facts(self) -> list[Any]:
        """The values of FACTS."""
        return [getattr(self, name) for name in FACTS]

    def with_facts(self, facts: list[Any]) -> Clip:
        """The same clip with the values of FACTS."""
        return replace(self, **dict(zip(FACTS, facts, strict=True)))
