"""Which decoder reads a video file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vidiff.store.place import Place, place_of
from vidiff.video.decode import Decoder
from vidiff.video.decord import DecordFile
from vidiff.video.exact import fault_of_decord
from vidiff.video.pyav import PyAVFile
from vidiff.video.torchcodec import TorchcodecFile, why_not

BY_NAME: dict[str, Callable[[Place], Decoder]] = {
    PyAVFile.name: PyAVFile,
    DecordFile.name: DecordFile,
    TorchcodecFile.name: TorchcodecFile,
}
DECODERS = ("auto", *BY_NAME)


def check_decoder(name: str) -> None:
    """Raises ValueError for a decoder that is not known, or cannot be used here."""
    if name not in DECODERS:
        raise ValueError(f"data.decoder is {name!r}; choose {', '.join(DECODERS)}")
    if name == TorchcodecFile.name and (reason := why_not()):
        raise ValueError(
            f"data.decoder is torchcodec, which cannot be imported here ({reason}): install FFmpeg and "
            "`vidiff[torchcodec]`, in a build that suits torch, or set data.decoder=auto"
        )


class Automatic:
    """A video file, by decord where that reads it exactly, and else by PyAV. It is looked into at the first question.

    Args:
        path: where it is, on this machine.
    """

    def __init__(self, path: Path | Place) -> None:
        self.path = place_of(path)
        self._decoder: Decoder | None = None

    @property
    def name(self) -> str:
        return self._chosen().name

    @property
    def frames(self) -> int:
        return self._chosen().frames

    @property
    def fps(self) -> float:
        return self._chosen().fps

    @property
    def times(self) -> np.ndarray:
        return self._chosen().times

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        return self._chosen().decode(indices, size)

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()

    def _chosen(self) -> Decoder:
        if self._decoder is None:
            kind = PyAVFile if fault_of_decord(self.path) else DecordFile
            self._decoder = kind(self.path)
        return self._decoder


def video_file(place: Place, decoder: str) -> Decoder:
    """A video file, by the decoder of this name, one of DECODERS."""
    return Automatic(place) if decoder == "auto" else BY_NAME[decoder](place)
