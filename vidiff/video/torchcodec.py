"""Decoding by torchcodec, which is an extra: it needs FFmpeg's shared libraries, and a build that suits torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place, place_of
from vidiff.video.convert import resized
from vidiff.video.decode import average_rate, check_file, check_indices
from vidiff.video.pyav import PyAVFile
from vidiff.video.stream import stream_of

_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError)


@cache
def why_not() -> str:
    """Why torchcodec cannot be used here, in a line; empty where it can."""
    try:
        import torchcodec.decoders  # noqa: F401
    except Exception as error:
        # with a reason of one line where it is not installed, else with pages about libraries that do not load
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


class TorchcodecFile:
    """A video file, by torchcodec. Where frames are resized, it is done once they are RGB.

    Args:
        path: where it is, on this machine.
    """

    name = "torchcodec"

    def __init__(self, path: Path | Place) -> None:
        self.path = place_of(path)
        self._decoder: Any = None

    @property
    def frames(self) -> int:
        return int(self._open().metadata.num_frames)

    @property
    def fps(self) -> float:
        return average_rate(float(self._open().metadata.average_fps or 0), self.times)

    @property
    def times(self) -> np.ndarray:
        packets = PyAVFile(self.path)  # torchcodec tells a frame's time once it is decoded
        try:
            return packets.times
        finally:
            packets.close()

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        decoder, frames = self._open(), self.frames
        indices = range(frames) if indices is None else indices
        check_indices(self.path, indices, frames)
        try:
            found = decoder.get_frames_at([int(number) for number in indices]).data  # f h w 3
        except _REFUSALS as error:
            self.close()
            raise VideoError(f"{self.path}: damaged or truncated, {_last(error)}") from None
        pixels = found.contiguous().numpy()
        size = size or stream_of(self.path).square
        return pixels if size is None or pixels.shape[1:3] == size else resized(pixels, size)

    def close(self) -> None:
        self._decoder = None

    def _open(self) -> Any:
        if self._decoder is None:
            if reason := why_not():
                raise ValueError(
                    f"data.decoder is torchcodec, which cannot be imported: {reason}. Install FFmpeg and "
                    f"`vidiff[torchcodec]` in a build that suits torch {torch.__version__}, or set data.decoder=auto"
                )
            from torchcodec.decoders import VideoDecoder

            check_file(self.path)
            try:
                self._decoder = VideoDecoder(self.path.url, dimension_order="NHWC", num_ffmpeg_threads=1)
            except _REFUSALS as error:
                raise VideoError(f"{self.path}: not a video, or cut off: {_last(error)}") from None
        return self._decoder


def _last(error: BaseException) -> str:
    """What torchcodec says, without the place in its source."""
    return reason_of(error).split(".cpp:")[-1].partition(", ")[2] or reason_of(error)
