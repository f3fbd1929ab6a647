"""A clip of the user's as a model sees it: at the rate of its clips, and of their size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from vidiff.pipeline.facts import Facts
from vidiff.video.fit import Fit, Size, is_picture, read_fitted, size_of
from vidiff.video.reader import VideoReader

CHUNK = 64  # frames that are read at once, where all are wanted


class GivenClip:
    """A video or a picture, seen as often as a model's clips are, and brought to a size of theirs. A context manager.

    A model that was trained with `data.fps` sees what is shown at each of its own moments, by the time stamps, as its
    training did; one whose least stride is above 1 sees every so many frames; any other sees the clip's own.

    Args:
        size: height and width of the frames; by default of the model's sizes the one of the nearest aspect.
        factor: by which the model is to enlarge them.

    Attributes:
        size: of the frames, which are resized until they just cover it, and cropped to their middle.
        frames: number of them.
        fps: of them a second; None for a picture.
        note: one line on how they differ from the clip's own; None where they are all of those, and nothing else.

    Raises:
        VideoError: where the file is missing, is no video and no picture, or is damaged.
    """

    def __init__(self, path: str | Path, facts: Facts, size: Size | None = None, factor: int = 1) -> None:
        self.path = Path(path)
        self.fps: float | None = None
        self.note: str | None = None
        self._picture: Tensor | None = None
        self._reader = VideoReader(self.path, treatment=facts.treatment)
        if is_picture(self.path) and self._reader.frames == 1:
            self._reader.close()
            self.size = size or facts.nearest(*size_of(self.path), factor)
            self._picture = read_fitted(self.path, self.size, treatment=facts.treatment)[0][0]  # 3 1 h w
            self.frames = 1
            return
        try:
            given = self._reader.size
            self.size = size or facts.nearest(*given, factor)
            self._fit = Fit(given, self.size)
            self._shown = self._seen_by(facts)
        except BaseException:
            self._reader.close()
            raise
        self.frames = len(self._shown)

    def __enter__(self) -> GivenClip:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._picture is None:
            self._reader.close()

    def read(self, numbers: range | None = None) -> Tensor:
        """Frames of these numbers, or all: `(3, f, h, w)` in [-1, 1]."""
        if self._picture is not None:
            return self._picture
        shown = self._shown if numbers is None else self._shown[numbers.start : numbers.stop]
        return self._fit.read(self._reader, shown.tolist())

    def pieces(self, end: int | None = None) -> Iterator[Tensor]:
        """The frames up to number `end`, or all, some at a time: `(1, 3, n, h, w)`."""
        end = self.frames if end is None else end
        for start in range(0, end, CHUNK):
            yield self.read(range(start, min(start + CHUNK, end)))[None]

    def _seen_by(self, facts: Facts) -> np.ndarray:
        """The clip's frame behind each that the model sees."""
        own, count = self._reader.fps, self._reader.frames
        shown, self.fps = facts.seen(self._reader)
        why = "which is the model's rate" if facts.rate else f"the model sees every {facts.strides[0]} frames of a clip"
        if not np.array_equal(shown, np.arange(count)):
            self.note = (
                f"{self.path} is seen at {self.fps:.4g} frames a second, {why}, not at its own {own:.4g}: its {count} "
                f"frames become {len(shown)}"
            )
        return shown
