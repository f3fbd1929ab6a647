"""Any video or picture in the size that a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.data.clips import fit_size
from vidiff.video.reader import VideoReader, read_image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a video or a picture."""
    if path.suffix.lower() in PICTURES:
        _, height, width = read_image(path).shape
        return height, width
    with VideoReader(path) as reader:
        return reader.size


def read_square(path: Path, side: int | tuple[int, int], rate: float = 0.0) -> tuple[Tensor, float | None]:
    """A video or a picture as `(1, 3, f, side, side)` in [-1, 1], and a video's frames a second.

    It is resized until it just covers the square, and the middle taken, as of the model's training clips.

    Args:
        side: in pixels; or height and width of what is no square after all.
        rate: frames a second at which a video is seen; 0 for its own.
    """
    parts, fps = stream_square(path, side, rate=rate)
    return torch.cat(list(parts), dim=2), fps


def stream_square(
    path: Path, side: int | tuple[int, int], chunk: int = 64, rate: float = 0.0
) -> tuple[Iterator[Tensor], float | None]:
    """`read_square` piece by piece, `chunk` frames at once: pieces `(1, 3, n, side, side)`, and frames a second."""
    wanted = (side, side) if isinstance(side, int) else side
    if path.suffix.lower() in PICTURES:
        image = read_image(path)  # 3 h w
        size = fit_size(image.shape[1], image.shape[2], wanted)
        image = interpolate(image[None], size, mode="bilinear", antialias=True)
        return iter([_middle(image[:, :, None], wanted)]), None
    with VideoReader(path, rate) as reader:
        fps, whole = reader.fps, reader.size
    size = fit_size(*whole, wanted)
    return _pieces(path, rate, wanted, None if size == whole else size, chunk), fps


def _pieces(
    path: Path, rate: float, wanted: tuple[int, int], size: tuple[int, int] | None, chunk: int
) -> Iterator[Tensor]:
    with VideoReader(path, rate) as reader:
        frames = reader.frames
        for start in range(0, frames, chunk):
            yield _middle(reader.read(range(start, min(start + chunk, frames)), size)[None], wanted)


def _middle(video: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (video.shape[3] - size[0]) // 2, (video.shape[4] - size[1]) // 2
    return video[..., top : top + size[0], left : left + size[1]]
