"""Decoding by decord, which is quick where the same file is read again: to open one, it reads all of it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import decord
import numpy as np

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place, place_of
from vidiff.video.decode import average_rate, check_indices
from vidiff.video.stream import stream_of
from vidiff.video.timetable import State, state_of

decord.logging.set_level(decord.logging.QUIET)  # every failure is raised, with the file's name

# decord silently puts its neighbour in place of a frame that does not decode; with next to no tolerance it raises.
_NO_PATCHED_FRAMES = 1e-9
LONGEST = 1e9  # s: times beyond are none
_REFUSALS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError, StopIteration)

_Key = tuple[Place, State, tuple[int, int] | None]  # file, and the size at which its frames are read
_KEPT: dict[_Key, Any] = {}  # the reader of the file that was closed last
os.register_at_fork(before=_KEPT.clear)  # decord hangs in a child that has inherited a reader
atexit.register(_KEPT.clear)  # and may crash where one is left for the interpreter to take down


class DecordFile:
    """A video file, by decord. Do not fork while one is open: decord hangs in the child.

    The process keeps the last one's reader, so that opening it again at the same size costs nothing.

    Args:
        path: where it is, on this machine.
    """

    name = "decord"

    def __init__(self, path: Path | Place) -> None:
        self.path = place_of(path)
        self._key: _Key | None = None
        self._reader: Any = None

    @property
    def frames(self) -> int:
        return len(self._opened())

    @property
    def fps(self) -> float:
        header = float(self._opened().get_avg_fps())
        try:
            return average_rate(header if 0 < header < inf else 0.0, self.times)
        except VideoError:
            if not 0 < header < inf:
                raise
            return header

    @property
    def times(self) -> np.ndarray:
        reader = self._opened()
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)[:, 0]
        if not np.abs(times).max() < LONGEST:
            raise VideoError(f"{self.path}: decord knows no times of its frames; set data.decoder=auto")
        return times

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        reader = self._open(size or stream_of(self.path).square)
        indices = range(len(reader)) if indices is None else indices
        check_indices(self.path, indices, len(reader))
        numbers, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        try:
            first = reader[int(numbers[0])].asnumpy()
            pixels = np.empty((len(numbers), *_unpadded(first).shape), np.uint8)
            pixels[0] = _unpadded(first)
            if first.shape[2] > 3:
                for place, number in enumerate(numbers[1:], 1):
                    pixels[place] = _unpadded(reader[int(number)].asnumpy())
            elif len(numbers) > 1:
                pixels[1:] = reader.get_batch(numbers[1:]).asnumpy()
        except _REFUSALS as error:
            self._reader = None  # after a failure the decoder's state is undefined
            raise VideoError(f"{self.path}: damaged or truncated, {reason_of(error)}") from None
        return pixels if len(places) == len(numbers) and (np.diff(places) == 1).all() else pixels[places]

    def close(self) -> None:
        if self._reader is not None and self._key is not None:
            _KEPT.clear()
            _KEPT[self._key] = self._reader
        self._reader = None

    def _opened(self) -> Any:
        """The reader at whatever size it is open."""
        return self._open(self._key[2] if self._key else stream_of(self.path).square)

    def _open(self, size: tuple[int, int] | None) -> Any:
        key = self.path, state_of(self.path), size
        if self._reader is None or key != self._key:
            self.close()
            self._reader = _KEPT.pop(key, None) or self._made(size)
            self._key = key
        return self._reader

    def _made(self, size: tuple[int, int] | None) -> Any:
        height, width = size or (-1, -1)
        settings = {"width": width, "height": height, "num_threads": 1, "fault_tol": _NO_PATCHED_FRAMES}
        try:
            return decord.VideoReader(self.path.url, **settings)
        except UnicodeEncodeError:
            raise VideoError(f"{self.path}: decord opens no file whose name is not UTF-8") from None
        except _REFUSALS as error:
            raise VideoError(f"{self.path}: not a video, or cut off: {reason_of(error)}") from None


def _unpadded(frame: np.ndarray) -> np.ndarray:
    """A frame as decord hands it out, made `(h, w, 3)`.

    decord takes bytes of a row / width for the number of channels where that is whole, so at some widths (32,
    48, 96, 144) a pixel seems to have more than 3 bytes, and its `get_batch` fails. In truth rows end in padding.
    """
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
