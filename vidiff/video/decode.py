"""What all decoders have in common: they give frames by number, as uint8 `(f, h, w, 3)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vidiff.store.error import VideoError
from vidiff.store.place import Place

MPEG = {".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".m2p", ".vob", ".mod", ".tod", ".ts", ".mts", ".m2ts", ".m2t"}
MP4 = {".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2"}
OTHERS = {".avi", ".divx", ".flv", ".wmv", ".asf", ".wtv", ".rm", ".rmvb", ".mxf", ".gxf", ".dv", ".nut", ".y4m"}
# All containers whose frames decord or PyAV finds exactly. Bare streams without times, as .h264, are not among them.
VIDEO_SUFFIXES = frozenset({".mkv", ".mk3d", ".webm", ".ogv", ".ogm"} | MP4 | MPEG | OTHERS)
FPS = 8.0  # of a clip of which nothing tells how long a frame is shown, as of one of a single frame


@dataclass(frozen=True)
class Treatment:
    """What is done to frames as they are read, beside turning them upright and making their pixels square.

    Args:
        background: colour over which what is transparent is put, as CSS names it: "white", "#00ff00".
        deinterlace: make whole frames of those that are of two fields.
        tonemap: bring high dynamic range (PQ, HLG) to the colours of BT.709.
    """

    background: str = "white"
    deinterlace: bool = False
    tonemap: bool = False


PLAIN = Treatment()


class Decoder(Protocol):
    """Decodes one video, which is opened at the first question. Raises `VideoError` where that fails."""

    @property
    def name(self) -> str:
        """Of the library that decodes."""
        ...

    @property
    def frames(self) -> int:
        """Number of frames, as the container tells."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second, averaged."""
        ...

    @property
    def times(self) -> np.ndarray:
        """Seconds at which each frame begins to be shown, `(frames,)`, as the container tells."""
        ...

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        """Frames `indices`, or all, in the order given, resized to `size` (h, w): uint8 `(f, h, w, 3)`."""
        ...

    def close(self) -> None: ...


def average_rate(header: float, times: np.ndarray) -> float:
    """Frames per second of a clip, averaged: as its header tells, unless its times contradict that by a tenth.

    Args:
        header: what that tells; 0 for nothing.
        times: at which frames begin, in seconds, `(frames,)`, rising.
    """
    if len(times) < 2:
        return header or FPS
    measured = (len(times) - 1) / float(times[-1] - times[0])
    return header if 0.9 < header / measured < 1.1 else measured


def check_indices(path: Path | Place, indices: Sequence[int], frames: int) -> None:
    """Raises `VideoError` unless there are indices, all of a video of so many frames."""
    if not len(indices):
        raise VideoError(f"{path}: no frames asked for")
    if min(indices) < 0 or max(indices) >= frames:
        raise VideoError(f"{path}: frames {min(indices)} to {max(indices)} asked for, but it has {frames}")


def check_file(place: Place) -> None:
    """Raises `VideoError` unless there is a regular file with something in it, or in the part that is meant."""
    file = place.file
    if file is None or not file.is_file():
        reason = "is a folder" if place.is_folder else "no such file"
        raise VideoError(f"{place}: {'is not a regular file' if file is not None and file.is_fifo() else reason}")
    if not place.length:
        raise VideoError(f"{place}: is empty (0 bytes)")
