"""Clips made of pictures: animated GIF and WebP, folders of numbered pictures, single pictures. Pillow reads them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageColor, ImageOps

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place, place_of
from vidiff.video.decode import FPS, PLAIN, Treatment, check_file, check_indices

ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
PICTURE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".tga"]
)
UNTIMED = 100  # ms that a frame is shown whose duration is 0, as browsers do

# what Pillow raises of damaged files, by their format
_REFUSALS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


class Animation:
    """An animated GIF or WebP, or a single picture: a clip of one frame.

    Args:
        path: where it is, on this machine.
    """

    name = "pillow"

    def __init__(self, path: Path | Place, treatment: Treatment = PLAIN) -> None:
        self.path, self._colour = place_of(path), colour_of(treatment.background)
        self._picture: Image.Image | None = None

    @property
    def frames(self) -> int:
        picture = self._open()
        try:
            return getattr(picture, "n_frames", 1)  # a GIF counts them by reading all
        except _REFUSALS as error:
            raise self._damaged(error) from None

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
                found[number] = _pixels(picture, size, self._colour)
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
            check_file(self.path)
            try:
                self._picture = Image.open(self.path.open())
            except _REFUSALS as error:
                raise VideoError(f"{self.path}: not a picture, or cut off: {reason_of(error)}") from None
        return self._picture

    def _damaged(self, error: BaseException) -> VideoError:
        self.close()
        return VideoError(f"{self.path}: damaged or truncated, {reason_of(error)}")


class FrameFolder:
    """A folder of numbered pictures, all of one size: a frame each, in the order of their numbers."""

    name = "pillow"

    def __init__(self, path: Path | Place, treatment: Treatment = PLAIN) -> None:
        self.path, self._colour = place_of(path), colour_of(treatment.background)
        self._files: list[Place] | None = None

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
        shapes: dict[tuple[int, ...], Place] = {}
        frames = []
        for number in indices:
            try:
                with files[number].open() as file, Image.open(file) as picture:
                    shapes.setdefault(picture.size, files[number])
                    frames.append(_pixels(picture, size, self._colour))
            except _REFUSALS as error:
                raise VideoError(f"{files[number]}: damaged or truncated, {reason_of(error)}") from None
        if len(shapes) > 1:
            told = ", ".join(
                f"{PurePosixPath(file.name).name} {width}x{height}" for (width, height), file in shapes.items()
            )
            raise VideoError(f"{self.path}: its frames are of different sizes ({told})")
        return np.stack(frames)

    def close(self) -> None:
        self._files = None

    def _listed(self) -> list[Place]:
        if self._files is None:
            if not self.path.is_folder:
                raise VideoError(f"{self.path}: no such folder")
            files = {file.name: file for file in self.path.inside()}
            self._files = [files[name] for name in numbered(files)]
            if not self._files:
                raise VideoError(f"{self.path}: is a folder without numbered pictures")
        return self._files


def numbered(names: Iterable[str]) -> list[str]:
    """The pictures among names of files that a number puts in order, in that order: 9.png before 10.png.

    Where their names differ in numbers alone, as 1_left.png and 2_left.png do, all numbers count, those in front first.
    Else it is those whose names end in a number, by that; or, where there are none, those of a form that most have.
    """
    forms: dict[str, list[tuple[list[int], str, str]]] = {}  # numbers, last part, name
    for name in names:
        file = PurePosixPath(name)
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith("."):
            numbers = [int(number) for number in re.findall(r"\d+", file.stem)]
            forms.setdefault(re.sub(r"\d+", "#", file.stem), []).append((numbers, file.name, name))
    ending = [picture for form, pictures in forms.items() if form.endswith("#") for picture in pictures]
    if len(forms) > 1 and ending:
        return [name for _, _, name in sorted(ending, key=lambda picture: (picture[0][-1], *picture[1:]))]
    form = max(forms, key=lambda form: len(forms[form]), default="")
    most = "#" in form and 2 * len(forms[form]) > sum(map(len, forms.values()))
    return [name for _, _, name in sorted(forms[form])] if most else []


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue of 255 of a colour that CSS names. Raises ValueError where it does not."""
    red, green, blue, *_ = ImageColor.getrgb(name)
    return red, green, blue


def is_transparent(place: Place) -> bool:
    """Whether a picture, an animation, or a picture of a folder says that it has transparent pixels."""
    places = [place]
    if place.is_folder:
        files = {file.name: file for file in place.inside()}
        places = [files[name] for name in numbered(files)]
    for part in places:
        try:
            with part.open() as file, Image.open(file) as picture:
                if picture.has_transparency_data or "transparency" in picture.info:
                    return True
        except _REFUSALS as error:
            raise VideoError(f"{part}: not a picture, or cut off: {reason_of(error)}") from None
    return False


def composed(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels with an alpha channel, uint8 `(..., 4)`, over a colour: `(..., 3)`, rounded."""
    alpha = pixels[..., 3:].astype(np.uint16)
    over = pixels[..., :3] * alpha + np.array(colour, np.uint16) * (255 - alpha)
    return ((over + 127) // 255).astype(np.uint8)


def _pixels(picture: Image.Image, size: tuple[int, int] | None, colour: tuple[int, int, int]) -> np.ndarray:
    """A frame as uint8 `(h, w, 3)`: upright, opaque, brought down to 8 bits, resized to `size` (h, w)."""
    kind = picture.format
    picture = _of_8_bits(ImageOps.exif_transpose(picture), kind)
    if picture.has_transparency_data:
        picture = Image.fromarray(composed(np.asarray(picture.convert("RGBA")), colour))
    picture = picture.convert("RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _of_8_bits(picture: Image.Image, kind: str | None) -> Image.Image:
    """A picture whose grey has 16 bits, as it is with 8; every other as it is.

    Args:
        kind: Pillow's name of what the file is.
    """
    if picture.mode not in ("F", "I") and not picture.mode.startswith("I;16"):
        return picture
    if picture.mode == "F" or (picture.mode == "I" and kind not in ("PNG", "PPM")):  # whose 32 bits hold 16
        numbers = "fractions" if picture.mode == "F" else "numbers of 32 bits"
        raise ValueError(f"its pixels are {numbers}, of which nothing tells what is white: save it with 8 or 16 bits")
    values = np.asarray(picture)
    small = Image.fromarray((values >> 8).astype(np.uint8))
    clear = picture.info.get("transparency")
    if isinstance(clear, int):  # the level that is transparent
        small.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return small
