"""A clip seen at a frame rate of one's own, by the time stamps of its frames; and a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidiff.store.place import Place
from vidiff.video.decode import Decoder, check_indices

ROUNDED = 1e-3  # s to which containers such as Matroska round time stamps


class Retimed:
    """A decoder whose frame n is the one that another decoder shows at time n / fps: the last that has begun by then.

    Where the rate is lower than the clip's own, frames are left out; where it is higher, frames repeat. Time counts
    from the first frame, and the last is shown as long as most others are (the median). A single picture stays one
    frame. Where time stamps do not rise, frames count as evenly spaced.

    Args:
        path: of the clip, for messages.
        decoder: of the clip as it is.
        fps: frames per second, above 0.
    """

    def __init__(self, path: Path | Place, decoder: Decoder, fps: float) -> None:
        self.path, self._decoder, self._fps = path, decoder, fps
        self._shown: np.ndarray | None = None

    @property
    def name(self) -> str:
        return self._decoder.name

    @property
    def frames(self) -> int:
        return len(self._sources())

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def times(self) -> np.ndarray:
        return np.arange(self.frames) / self._fps

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        shown = self._sources()
        indices = range(len(shown)) if indices is None else indices
        check_indices(self.path, indices, len(shown))
        return self._decoder.decode(shown[list(indices)].tolist(), size)

    def close(self) -> None:
        self._decoder.close()

    def _sources(self) -> np.ndarray:
        """The other decoder's frame behind each of this one's."""
        if self._shown is None:
            self._shown = shown_at(self._decoder.times, self._fps, self._decoder.fps)
        return self._shown


class Part:
    """A decoder of some frames of another, which follow each other.

    Args:
        path: of the clip, for messages.
        decoder: of the clip as it is.
        start, stop: the first of its frames, and the one past the last.
    """

    def __init__(self, path: Path | Place, decoder: Decoder, start: int, stop: int) -> None:
        self.path, self._decoder, self._start, self._stop = path, decoder, start, stop

    @property
    def name(self) -> str:
        return self._decoder.name

    @property
    def frames(self) -> int:
        return self._stop - self._start

    @property
    def fps(self) -> float:
        return self._decoder.fps

    @property
    def times(self) -> np.ndarray:
        return self._decoder.times[self._start : self._stop]

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        indices = range(self.frames) if indices is None else indices
        check_indices(self.path, indices, self.frames)
        return self._decoder.decode([self._start + number for number in indices], size)

    def close(self) -> None:
        self._decoder.close()


def shown_at(times: np.ndarray, fps: float, average: float) -> np.ndarray:
    """Which frame is shown at 0, 1 / fps, 2 / fps, ... until the end.

    Args:
        times: seconds at which each frame begins.
        fps: of what is asked for.
        average: frames per second of the clip, on which to fall back where its times do not rise.
    """
    if len(times) < 2:
        return np.zeros(len(times), dtype=np.int64)
    begins = np.asarray(times, dtype=np.float64) - times[0]
    gaps = np.diff(begins)
    if not (np.isfinite(begins).all() and (gaps >= 0).all() and begins[-1] > 0):
        begins = np.arange(len(times)) / average
        gaps = np.diff(begins)
    end = begins[-1] + float(np.median(gaps[gaps > 0]))
    count = max(1, int(np.ceil((end - ROUNDED) * fps)))
    early = np.minimum(ROUNDED, np.concatenate([[0.0], gaps]) / 4)  # so that no frame comes late by rounding
    return np.searchsorted(begins - early, np.arange(count) / fps, side="right") - 1
