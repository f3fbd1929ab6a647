"""Decoders give frames by number, as uint8 `(f, h, w, 3)`; here that of video files, by decord."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import decord
import numpy as np

from vidiff.store.error import VideoError, reason_of

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg"})

decord.logging.set_level(decord.logging.QUIET)  # every failure is raised, with the file's name

# decord silently puts its neighbour in place of a frame that does not decode; with next to no tolerance it raises.
_NO_PATCHED_FRAMES = 1e-9
_REFUSALS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError, StopIteration)


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


def check_indices(path: Path, indices: Sequence[int], frames: int) -> None:
    """Raises `VideoError` unless there are indices, all of a video of so many frames."""
    if not len(indices):
        raise VideoError(f"{path}: no frames asked for")
    if min(indices) < 0 or max(indices) >= frames:
        raise VideoError(f"{path}: frames {min(indices)} to {max(indices)} asked for, but it has {frames}")


class DecordFile:
    """A video file, by decord. Do not fork while one is open: decord hangs in the child.

    Args:
        url: where its bytes are, as `vidiff.store.spans.Span.url` tells, if not in a file of its own.
    """

    name = "decord"

    def __init__(self, path: Path, url: str = "") -> None:
        self.path, self._url = path, url
        self._reader: Any = None
        self._size: tuple[int, int] | None = None

    @property
    def frames(self) -> int:
        return len(self._open(self._size))

    @property
    def fps(self) -> float:
        return float(self._open(self._size).get_avg_fps())

    @property
    def times(self) -> np.ndarray:
        reader = self._open(self._size)
        return np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)[:, 0]

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        reader = self._open(size)
        indices = range(len(reader)) if indices is None else indices
        check_indices(self.path, indices, len(reader))
        try:
            return np.stack([_unpadded(reader[i].asnumpy()) for i in indices])
        except _REFUSALS as error:
            self.close()  # after a failure the decoder's state is undefined
            raise VideoError(f"{self.path}: damaged or truncated, {reason_of(error)}") from None

    def close(self) -> None:
        self._reader = None

    def _open(self, size: tuple[int, int] | None) -> Any:
        if self._reader is not None and size == self._size:
            return self._reader
        if not self._url:
            check_file(self.path)
        height, width = size or (-1, -1)
        settings = {"width": width, "height": height, "num_threads": 1, "fault_tol": _NO_PATCHED_FRAMES}
        try:
            self._reader = decord.VideoReader(self._url or str(self.path), **settings)
        except _REFUSALS as error:
            raise VideoError(f"{self.path}: not a video, or cut off: {reason_of(error)}") from None
        self._size = size
        return self._reader


def check_file(path: Path) -> None:
    """Raises `VideoError` unless there is a regular file with something in it."""
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "no such file"
        raise VideoError(f"{path}: {'is not a regular file' if path.is_fifo() else reason}")
    if not path.stat().st_size:
        raise VideoError(f"{path}: is empty (0 bytes)")


def _unpadded(frame: np.ndarray) -> np.ndarray:
    """A frame as decord hands it out, made `(h, w, 3)`.

    decord takes bytes of a row / width for the number of channels where that is whole, so at some widths (32,
    48, 96, 144) a pixel seems to have more than 3 bytes, and its `get_batch` fails. In truth rows end in padding.
    """
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
