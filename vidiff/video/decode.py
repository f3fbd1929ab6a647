"""What all decoders have in common: they give frames by number, as uint8 `(f, h, w, 3)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vidiff.store.error import VideoError
from vidiff.store.place import Place

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg"})


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
