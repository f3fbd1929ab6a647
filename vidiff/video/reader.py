"""Reading clips: any clip that `vidiff.video.sources` knows as `(3, f, h, w)` in [-1, 1], pictures as `(3, h, w)`.

Beyond this file frames are uint8 `(f, h, w, 3)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place, place_of
from vidiff.store.plain import parse_json
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.pictures import Animation
from vidiff.video.retime import Part, Retimed
from vidiff.video.sources import make_decoder

CACHED = 1 << 17  # values of 4 bytes that a processor has at hand


class VideoReader:
    """Reads frames of one clip by number. A context manager; the file is opened at the first question.

    A clip is a video file, an animated GIF or WebP, a folder of numbered pictures, or one picture.

    Do not fork while a reader is open: decord hangs in the child. Everything raises `VideoError` on a
    file that is missing, is no video, or is damaged where it is read.

    Args:
        path: where it is, on this machine: what is elsewhere is to be held first (`vidiff.store.place.Place.held`).
        fps: see the clip at this rate, as `vidiff.video.retime.Retimed` does; 0 for its own frames.
        decoder: of a video file, one of `vidiff.video.decoders.DECODERS`.
        treatment: what is done to its frames, by PyAV and by what `auto` chooses.
        part: of its own frames, the first that are read, and past the last; None for all.
    """

    def __init__(
        self,
        path: str | Path | Place,
        fps: float = 0.0,
        decoder: str = "auto",
        treatment: Treatment = PLAIN,
        part: tuple[int, int] | None = None,
    ) -> None:
        self.path = place_of(path)
        inner = make_decoder(self.path, decoder, treatment)
        inner = Part(self.path, inner, *part) if part else inner
        self._decoder = Retimed(self.path, inner, fps) if fps else inner

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. The next question opens it again."""
        self._decoder.close()

    @property
    def decoder(self) -> str:
        """Name of the library that reads it."""
        return self._decoder.name

    @property
    def frames(self) -> int:
        """Number of frames, as the container tells; a damaged file may have fewer."""
        return self._decoder.frames

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the file."""
        return self._decoder.fps

    @property
    def times(self) -> np.ndarray:
        """Seconds at which each frame begins to be shown, `(frames,)`."""
        return self._decoder.times

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of the first frame as it decodes."""
        height, width, _ = self.pixels([0]).shape[1:]
        return height, width

    def read(self, indices: Sequence[int] | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Frames `indices` (default all) in the order given, resized by the decoder to `size` (h, w).

        Returns `(3, f, h, w)` in [-1, 1].
        """
        return to_float(self.pixels(indices, size))

    def pixels(self, indices: Sequence[int] | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """The same as decoded, uint8 `(f, h, w, 3)`: what a process sends to another, for `to_float` to convert."""
        return self._decoder.decode(indices, size)


@dataclass(frozen=True)
class Manner:
    """How a clip is read: the arguments of `VideoReader`."""

    fps: float = 0.0
    decoder: str = "auto"
    treatment: Treatment = PLAIN
    part: tuple[int, int] | None = None

    def open(self, path: str | Path | Place) -> VideoReader:
        """A reader of a file on this machine."""
        return VideoReader(path, self.fps, self.decoder, self.treatment, self.part)


def read_video(
    path: str | Path | Place,
    indices: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    fps: float = 0.0,
) -> Tensor:
    """Frames `indices` of the file (default all), resized to `size` (h, w): `(3, f, h, w)` in [-1, 1].

    It is seen at `fps` frames a second, by its time stamps; 0 for its own frames. Raises `VideoError` where the file is
    missing, is no video, is damaged, or has no such frame.
    """
    with place_of(path).held() as here, VideoReader(here, fps) as reader:
        return reader.read(indices, size)


def read_image(path: str | Path, background: str = "white") -> Tensor:
    """One picture, `(3, h, w)` in [-1, 1], read as frames of clips are. Raises `VideoError` where the file is none.

    Args:
        background: colour over which what is transparent is put.
    """
    try:
        with closing(Animation(Path(path), Treatment(background))) as picture:
            return to_float(picture.decode([0], None))[:, 0]
    except VideoError as error:
        raise VideoError(f"{path}: not a readable picture, {str(error).removeprefix(f'{path}: ')}") from None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `VideoWriter` left in a file, or in a folder of frames; empty where there is none."""
    path = Path(path)
    if path.is_dir():
        path = next(iter(sorted(path.glob("*.png"))), path)
    try:
        if path.suffix.lower() in (".png", ".gif"):
            with Image.open(path) as picture:
                comment = picture.info.get("comment")
        else:
            with av.open(str(path)) as container:
                comment = next((v for k, v in container.metadata.items() if k.lower() == "comment"), None)
    except (OSError, av.FFmpegError) as error:
        raise VideoError(f"{path}: not a readable video, {reason_of(error)}") from None
    try:
        metadata = parse_json(comment or "{}")
    except ValueError:
        return {}  # somebody else's comment
    return metadata if isinstance(metadata, dict) else {}


def to_float(pixels: np.ndarray) -> Tensor:
    """uint8 `(f, h, w, 3)` to `(3, f, h, w)` in [-1, 1]."""
    frames, height, width, _ = pixels.shape
    video = torch.empty(3, frames, height, width)
    planes = torch.from_numpy(rearrange(pixels, "f h w c -> c f h w"))
    together = max(1, CACHED // (3 * height * width))  # each step finds in the cache what the one before has written
    for some, found in zip(video.split(together, 1), planes.split(together, 1), strict=True):
        some.copy_(found).div_(127.5).sub_(1)
    return video
