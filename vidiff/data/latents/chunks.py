"""Whole files, chunk by chunk, decoded ahead in a process that may be killed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vidiff.data.workers import Begin, Helper, Lost
from vidiff.store.error import VideoError
from vidiff.store.place import Place
from vidiff.video.reader import Manner, VideoReader, to_float

OWN = Manner()  # every frame of its own


class Chunk(NamedTuple):
    """Frames start to stop of a file as it is read, resized to `size` (h, w)."""

    place: Place
    start: int
    stop: int
    size: tuple[int, int] | None
    manner: Manner = OWN


class ChunkReader:
    """Reads files in chunks, the next of which is decoded while one is in use. A context manager.

    Args:
        patience: seconds that a chunk may take; then its decoder is killed.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._helper: Helper[Chunk, np.ndarray | VideoError] | None = None

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None

    def read(
        self,
        place: Place,
        frames: int,
        chunk: int,
        size: tuple[int, int] | None,
        manner: Manner = OWN,
    ) -> Generator[Tensor, None, None]:
        """All frames of a file, resized to `size` (h, w), as `(3, f, h, w)` in [-1, 1] with f up to `chunk`.

        Raises VideoError where it does not decode, or its decoder hangs or crashes; Unreachable where it is elsewhere
        and cannot be fetched now.
        """
        starts = range(0, frames, chunk)
        chunks = [Chunk(place, start, min(start + chunk, frames), size, manner) for start in starts]
        if self._helper is None or not self._helper.alive:
            self._helper = Helper(_Decoding())
        helper = self._helper
        helper.ask(chunks[0])
        asked = True
        try:
            for following in [*chunks[1:], None]:
                answer, asked = helper.answer(self.patience), False
                if isinstance(answer, Lost):
                    raise VideoError(f"{place}: {answer.reason}")
                if isinstance(answer, VideoError):
                    raise answer
                if following is not None:
                    helper.ask(following)
                    asked = True
                yield to_float(answer)
        finally:
            if asked:  # nobody waits for the answer any more
                helper.end()


class _Decoding:
    """What the process does: it keeps a file open from chunk to chunk."""

    reader: VideoReader | None = None
    seen: tuple[Place, Manner] | None = None  # the file of the reader, and how it is read

    def __init__(self) -> None:
        self.held = ExitStack()

    def __call__(self, chunk: Chunk, begin: Begin) -> np.ndarray | VideoError:
        try:
            if self.reader is None or self.seen != (chunk.place, chunk.manner):
                self.held.close()
                self.reader = None
                here = self.held.enter_context(chunk.place.held())
                self.reader = self.held.enter_context(chunk.manner.open(here))
                self.seen = chunk.place, chunk.manner
            begin()
            return self.reader.pixels(range(chunk.start, chunk.stop), chunk.size)
        except VideoError as error:
            return error
