"""Clips made of pictures: animated GIF and WebP, folders of numbered pictures, single pictures. Pillow reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from vidiff.store.error import VideoError, reason_of
from vidiff.video.decode import check_indices

ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
FPS = 8.0  # where nothing tells how long a frame is shown
UNTIMED = 100  # ms that a frame is shown whose duration is 0, as browsers do

_REFUSALS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class Animation:
    """An animated GIF or WebP, or a single picture: a clip of one frame.

    Args:
        open_bytes: opens what it holds, if that is no file of its own.
    """

    name = "pillow"

    def __init__(self, path: Path, open_bytes: Callable[[], BinaryIO] | None = None) -> None:
        self.path, self._open_bytes = path, open_bytes
        self._picture: Image.Image | None = None

    @property
    def frames(self) -> int:
        return getattr(self._open(), "n_frames", 1)

    @property
    def fps(self) -> float:
        return FPS if self.frames < 2 else 1000 * self.frames / sum(self._durations())

    @property
    def times(self) -> np.ndarray:
        return np.cumsum([0, *self._durations()[:-1]]) / 1000

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        picture, found = self._open(), {}
        indices = range(self.frames) if indices is None else indices
        check_indices(self.path, indices, self.frames)
        try:
            for number in sorted(set(indices)):  # going back would begin at the first frame again
                if self.frames > 1:
                    picture.seek(number)
                found[number] = _pixels(picture, size)
        except _REFUSALS as error:
            raise self._damaged(error) from None
        return np.stack([found[number] for number in indices])

    def close(self) -> None:
        if self._picture is not None:
            self._picture.close()
        self._picture = None

    def _durations(self) -> list[float]:
        """ms that each frame is shown."""
        picture, found = self._open(), []
        try:
            for number in range(self.frames):
                if self.frames > 1:
                    picture.seek(number)
                picture.load()  # WebP tells the time of a frame once it is decoded
                found.append(picture.info.get("duration") or UNTIMED)
        except _REFUSALS as error:
            raise self._damaged(error) from None
        return found

    def _open(self) -> Image.Image:
        if self._picture is None:
            if self._open_bytes is None and not self.path.is_file():
                raise VideoError(f"{self.path}: {'is not a regular file' if self.path.exists() else 'no such file'}")
            try:
                self._picture = Image.open(self._open_bytes() if self._open_bytes else self.path)
            except _REFUSALS as error:
                raise VideoError(f"{self.path}: not a picture, or cut off: {reason_of(error)}") from None
        return self._picture

    def _damaged(self, error: BaseException) -> VideoError:
        self.close()
        return VideoError(f"{self.path}: damaged or truncated, {reason_of(error)}")


class FrameFolder:
    """A folder of numbered pictures, all of one size: a frame each, in the order of their numbers."""

    name = "pillow"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[Path] | None = None

    @property
    def frames(self) -> int:
        return len(self._listed())

    @property
    def fps(self) -> float:
        return FPS

    @property
    def times(self) -> np.ndarray:
        return np.arange(self.frames) / FPS

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        files = self._listed()
        indices = range(len(files)) if indices is None else indices
        check_indices(self.path, indices, len(files))
        shapes: dict[tuple[int, ...], Path] = {}
        frames = []
        for number in indices:
            try:
                with Image.open(files[number]) as picture:
                    shapes.setdefault(picture.size, files[number])
                    frames.append(_pixels(picture, size))
            except _REFUSALS as error:
                raise VideoError(f"{files[number]}: damaged or truncated, {reason_of(error)}") from None
        if len(shapes) > 1:
            told = ", ".join(f"{file.name} {width}x{height}" for (width, height), file in shapes.items())
            raise VideoError(f"{self.path}: its frames are of different sizes ({told})")
        return np.stack(frames)

    def close(self) -> None:
        self._files = None

    def _listed(self) -> list[Path]:
        if self._files is None:
            if not self.path.is_dir():
                raise VideoError(f"{self.path}: no such folder")
            self._files = numbered(self.path.iterdir())
            if not self._files:
                raise VideoError(f"{self.path}: is a folder without numbered pictures")
        return self._files


def numbered(files: Iterable[Path]) -> list[Path]:
    """The pictures among the files whose names end in a number, in the order of that: 9.png before 10.png."""
    found = []
    for file in files:
        number = re.search(r"(\d+)$", file.stem)
        if number and file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith("."):
            found.append((int(number[1]), file.name, file))
    return [file for _, _, file in sorted(found)]


def _pixels(picture: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """A frame as uint8 `(h, w, 3)`: upright, 16-bit grey brought down to 8, resized to `size` (h, w)."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture)
