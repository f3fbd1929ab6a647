"""Any video or picture in the size that a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.reader import VideoReader, read_image

Size = tuple[int, int]
"""Height and width in pixels."""

Frames = TypeVar("Frames", Tensor, np.ndarray)

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Fit:
    """How frames come to a size: they are resized until they just cover it, and a rectangle of them is kept.

    Args:
        given: height and width of the frames as they are.
        size: height and width that are wanted.
        zoom: by how much larger than `size` what they cover is.
    """

    given: Size
    size: Size
    zoom: float = 1.0

    @property
    def whole(self) -> Size:
        """Height and width of the resized frames: one side fits, the other is rounded."""
        height, width = (round(side * self.zoom) for side in self.size)
        scale = max(height / self.given[0], width / self.given[1])
        return max(height, round(self.given[0] * scale)), max(width, round(self.given[1] * scale))

    @property
    def resize(self) -> Size | None:
        """The size to ask a decoder for; None where frames have it already."""
        return None if self.whole == tuple(self.given) else self.whole

    @property
    def spare(self) -> Size:
        """Rows and columns of the resized frames that are cut off."""
        return self.whole[0] - self.size[0], self.whole[1] - self.size[1]

    def crop(self, frames: Frames, corner: Size | None = None) -> Frames:
        """The rectangle of resized frames that begins at `corner`, or their middle: `(..., h, w)` to `(..., *size)`."""
        top, left = corner or (self.spare[0] // 2, self.spare[1] // 2)
        return frames[..., top : top + self.size[0], left : left + self.size[1]]

    def read(self, reader: VideoReader, indices: Sequence[int] | None = None) -> Tensor:
        """The middle of frames `indices` of a clip, or of all: `(3, f, *size)`."""
        return self.crop(reader.read(indices, self.resize))


def is_picture(path: Path) -> bool:
    """Whether a file is a single picture, by its name; a WebP, which may be animated, by its frames."""
    if path.suffix.lower() != ".webp":
        return path.suffix.lower() in PICTURES
    with VideoReader(path) as reader:
        return reader.frames == 1


def size_of(path: Path) -> Size:
    """Height and width of a video or a picture."""
    if is_picture(path):
        _, height, width = read_image(path).shape
        return height, width
    with VideoReader(path) as reader:
        return reader.size


def read_fitted(
    path: Path, size: int | Size, rate: float = 0.0, treatment: Treatment = PLAIN
) -> tuple[Tensor, float | None]:
    """A video or a picture as `(1, 3, f, h, w)` in [-1, 1], and a video's frames a second.

    It is resized until it just covers the size, and the middle taken, as of the model's training clips.

    Args:
        size: height and width; or a side of a square.
        rate: frames a second at which a video is seen; 0 for its own.
        treatment: what is done to its frames.
    """
    parts, fps = stream_fitted(path, size, rate=rate, treatment=treatment)
    return torch.cat(list(parts), dim=2), fps


def stream_fitted(
    path: Path, size: int | Size, chunk: int = 64, rate: float = 0.0, treatment: Treatment = PLAIN
) -> tuple[Iterator[Tensor], float | None]:
    """`read_fitted` piece by piece, `chunk` frames at once: pieces `(1, 3, n, h, w)`, and frames a second."""
    size = (size, size) if isinstance(size, int) else size
    if is_picture(path):
        image = read_image(path, treatment.background)  # 3 h w
        fit = Fit((image.shape[1], image.shape[2]), size)
        image = interpolate(image[None], fit.whole, mode="bilinear", antialias=True)
        return iter([fit.crop(image[:, :, None])]), None
    with VideoReader(path, rate, treatment=treatment) as reader:
        fps, fit = reader.fps, Fit(reader.size, size)
    return _pieces(VideoReader(path, rate, treatment=treatment), fit, chunk), fps


def _pieces(reader: VideoReader, fit: Fit, chunk: int) -> Iterator[Tensor]:
    with reader:
        for start in range(0, reader.frames, chunk):
            yield fit.read(reader, range(start, min(start + chunk, reader.frames)))[None]
