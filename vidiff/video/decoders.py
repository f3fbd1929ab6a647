"""Which decoder reads a video file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vidiff.store.place import Place, place_of
from vidiff.video.decode import PLAIN, Decoder, Treatment
from vidiff.video.decord import DecordFile
from vidiff.video.exact import fault_of_decord, untreated
from vidiff.video.pyav import PyAVFile
from vidiff.video.stream import stream_of
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
        treatment: what is done to its frames.
    """

    def __init__(self, path: Path | Place, treatment: Treatment = PLAIN) -> None:
        self.path, self.treatment = place_of(path), treatment
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
            by_pyav = fault_of_decord(self.path, self.treatment)
            self._decoder = PyAVFile(self.path, self.treatment) if by_pyav else DecordFile(self.path)
        return self._decoder


def video_file(place: Place, decoder: str, treatment: Treatment = PLAIN) -> Decoder:
    """A video file, by the decoder of this name, one of DECODERS."""
    if decoder in ("auto", PyAVFile.name):
        return (Automatic if decoder == "auto" else PyAVFile)(place, treatment)
    return BY_NAME[decoder](place)


def suited(place: Place, decoder: str, treatment: Treatment) -> str:
    """The decoder that was chosen for a file, or PyAV where that one lacks what is to be done to its frames."""
    lacks = decoder in (DecordFile.name, TorchcodecFile.name) and untreated(stream_of(place), treatment)
    return PyAVFile.name if lacks else decoder
