"""One clip is one record, from where it is found to where it is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from vidiff.store.place import Place, Stamp

NEVER = Stamp()
FACTS = ("frames", "fps", "height", "width", "fingerprint", "decoder")  # what is known once a clip has been opened


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
