"""Video files in and out: the only place where a video is uint8 `(f, h, w, c)`, and where decord and imageio are imported.

decord reads. PyAV, the video backend that imageio brings, writes video: through imageio itself the encoder's quality
cannot be set, and each close collects garbage for 0.1 s. imageio reads and writes single pictures.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange
from PIL import GifImagePlugin, Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import pad

decord.logging.set_level(decord.logging.QUIET)  # every failure is raised, with the file's name

# decord replaces a frame that does not decode by its neighbour, silently; with a tolerance of nearly zero it raises.
_NO_PATCHED_FRAMES = 1e-9
_DECORD_ERRORS = (
    decord.DECORDError,
    decord.DECORDLimitReachedError,
    RuntimeError,
    AssertionError,
    IndexError,
)


class VideoError(ValueError):
    """A video file that cannot be read or written. The message names the file and the reason."""


# ---------------------------------------------------------------------------------------------------------- reading


class VideoReader:
    """Reads frames of one video file by number. A context manager; the file is opened at the first question.

    Do not fork while a reader is open: decord's decoder hangs in the child. Everything raises `VideoError` on a file
    that is missing, is no video, or is damaged where it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader: Any = None
        self._decoded_size: tuple[int, int] | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. The next question opens it again."""
        self._reader = None

    @property
    def frames(self) -> int:
        """Number of frames, as the container tells: a damaged file may have fewer."""
        return len(self._open(self._decoded_size))

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the file."""
        return float(self._open(self._decoded_size).get_avg_fps())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of the first frame as it decodes."""
        height, width, _ = self._decode([0], None).shape[1:]
        return height, width

    def read(self, indices: Sequence[int] | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Frames `indices` (all, if none are given) in the order given, resized by the decoder to `size` (h, w).

        Returns `(3, f, h, w)` in [-1, 1].
        """
        if indices is None:
            indices = range(len(self._open(size)))
        if not len(indices):
            raise VideoError(f"{self.path}: no frames asked for")
        frames = torch.from_numpy(self._decode(indices, size))
        return rearrange(frames, "f h w c -> c f h w").float().div_(127.5).sub_(1)

    def _decode(self, indices: Sequence[int], size: tuple[int, int] | None) -> np.ndarray:
        reader = self._open(size)
        if min(indices) < 0 or max(indices) >= len(reader):
            raise VideoError(
                f"{self.path}: frames {min(indices)} to {max(indices)} asked for, but it has {len(reader)}"
            )
        try:
            return np.stack([_unpadded(reader[i].asnumpy()) for i in indices])
        except _DECORD_ERRORS as error:
            self.close()  # after a failure the decoder's state is undefined
            raise VideoError(f"{self.path}: damaged or truncated, {_reason(error)}") from None

    def _open(self, size: tuple[int, int] | None) -> Any:
        if self._reader is not None and size == self._decoded_size:
            return self._reader
        if not self.path.is_file():
            what = "is a folder, not a video file" if self.path.is_dir() else "no such file"
            raise VideoError(f"{self.path}: {what}")
        if not self.path.stat().st_size:
            raise VideoError(f"{self.path}: is empty (0 bytes)")
        height, width = size or (-1, -1)
        try:
            self._reader = decord.VideoReader(
                str(self.path), width=width, height=height, num_threads=1, fault_tol=_NO_PATCHED_FRAMES
            )
        except _DECORD_ERRORS as error:
            raise VideoError(f"{self.path}: not a readable video, {_reason(error)}") from None
        self._decoded_size = size
        return self._reader


def _unpadded(frame: np.ndarray) -> np.ndarray:
    """A frame as decord hands it out, made `(h, w, 3)`.

    decord takes row bytes / width for the number of channels where that is whole, so at some widths (32, 48, 96, 144)
    each pixel seems to have more than 3 bytes, and its `get_batch` fails. In truth each row's end is padding.
    """
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _reason(error: BaseException) -> str:
    """The end of decord's message; its beginning is a time and a line of its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rsplit("Check failed: ")[-1].rsplit(".cc:")[-1].strip()


def read_video(
    path: str | Path, indices: Sequence[int] | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """Frames `indices` of the file (default all), resized to `size` (h, w): `(3, f, h, w)` in [-1, 1].

    Raises `VideoError` where the file is missing, is no video, is damaged, or has no such frame.
    """
    with VideoReader(path) as reader:
        return reader.read(indices, size)


def read_image(path: str | Path) -> Tensor:
    """One picture, `(3, h, w)` in [-1, 1]. Raises `VideoError` where the file is missing or no picture."""
    try:
        picture = iio.imread(path, plugin="pillow", mode="RGB")
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: not a readable picture, {_reason(error)}") from None
    return rearrange(torch.from_numpy(picture), "h w c -> c h w").float().div_(127.5).sub_(1)


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
        raise VideoError(f"{path}: not a readable video, {_reason(error)}") from None
    try:
        metadata = json.loads(comment or "{}")
    except ValueError:
        return {}  # somebody else's comment
    return metadata if isinstance(metadata, dict) else {}


# ---------------------------------------------------------------------------------------------------------- writing


class _Sink(ABC):
    """Where uint8 frames (h, w, 3) go, one after the other."""

    @abstractmethod
    def add(self, frame: np.ndarray) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class _Encoded(_Sink):
    """H.264 in mp4, or VP9 in webm, as yuv420p. Odd sizes are padded by repeating the last row or column."""

    def __init__(self, path: Path, first: np.ndarray, fps: Fraction, comment: str, crf: int) -> None:
        # one thread: the file's bytes do not depend on the machine's cores
        codec, options = {
            ".mp4": ("libx264", {"crf": str(crf), "threads": "1"}),
            ".webm": ("libvpx-vp9", {"crf": str(crf), "b": "0", "threads": "1", "cpu-used": "4"}),
        }[path.suffix]
        self._container = av.open(str(path), "w")
        self._container.metadata["comment"] = comment
        self._stream = self._container.add_stream(codec, rate=fps, options=options)
        self._stream.height, self._stream.width = (n + n % 2 for n in first.shape[:2])
        self._stream.pix_fmt = "yuv420p"

    def add(self, frame: np.ndarray) -> None:
        height, width, _ = frame.shape
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class _Gif(_Sink):
    """An endless GIF with a palette for each frame, written as it comes (Pillow's own writer keeps every frame)."""

    def __init__(self, path: Path, first: np.ndarray, fps: Fraction, comment: str, crf: int) -> None:
        self._fps, self._count = fps, 0
        self._file = path.open("wb")
        header, _ = GifImagePlugin.getheader(self._quantize(first), info={"loop": 0, "comment": comment})
        self._file.writelines(header)

    def add(self, frame: np.ndarray) -> None:
        # delays are whole hundredths of a second: rounding the running time keeps the average right
        begin, end = (round(100 * n / self._fps) for n in (self._count, self._count + 1))
        milliseconds = 10 * max(2, end - begin)  # below 0.02 s players fall back to 0.1 s
        data = GifImagePlugin.getdata(
            self._quantize(frame), duration=milliseconds, disposal=1, include_color_table=True
        )
        self._file.writelines(data)
        self._count += 1

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()

    @staticmethod
    def _quantize(frame: np.ndarray) -> Image.Image:
        return Image.fromarray(frame).quantize(256)


class _Pictures(_Sink):
    """A folder of 000000.png, 000001.png, ..."""

    def __init__(self, path: Path, first: np.ndarray, fps: Fraction, comment: str, crf: int) -> None:
        self._folder, self._count = path, 0
        self._text = PngInfo()
        self._text.add_text("comment", comment)
        path.mkdir()

    def add(self, frame: np.ndarray) -> None:
        iio.imwrite(self._folder / f"{self._count:06d}.png", frame, plugin="pillow", pnginfo=self._text)
        self._count += 1

    def close(self) -> None:
        pass


_SINKS: dict[str, type[_Sink]] = {".mp4": _Encoded, ".webm": _Encoded, ".gif": _Gif, "": _Pictures}


class VideoWriter:
    """Writes a video of any length in constant memory. A context manager.

    The path's suffix chooses the kind: .mp4 (H.264), .webm (VP9), .gif, or a folder of .png where there is no suffix.
    What is written stands beside `path` under another name until `close` has reopened it and counted its frames; an
    exception inside `with` removes it. So `path` is whole, or is what it was before.

    Args:
        path: its parent folder is created.
        fps: frames per second.
        metadata: anything that JSON can hold, kept in the file and returned by `read_metadata`.
        crf: the encoder's constant rate factor for .mp4 and .webm; lower is better and larger, 0 to 51.

    Raises:
        ValueError: an unknown suffix, an `fps` that is not positive, or a folder that holds other things than frames.
    """

    def __init__(
        self, path: str | Path, fps: float = 8, metadata: dict[str, Any] | None = None, crf: int = 14
    ) -> None:
        self.path = Path(path)
        self.frames = 0
        self._kind = "" if str(path).endswith(("/", os.sep)) else self.path.suffix.lower()
        if self._kind not in _SINKS:
            raise ValueError(
                f"{path}: cannot write {self._kind} files; use .mp4, .webm or .gif, or end the path in / "
                "for a folder of .png"
            )
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps is {fps}; expected frames per second above 0, such as 8")
        self._check_target()
        self._fps = Fraction(fps).limit_denominator(1001)
        self._comment, self._crf = json.dumps(metadata or {}), crf
        self._sink: _Sink | None = None
        self._temporary = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.partial{self._kind}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, video: Tensor) -> None:
        """Appends `video`, `(3, f, h, w)` in [-1, 1] (clamped). Every call brings the same h and w."""
        for frame in _to_uint8(video):
            if self._sink is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._size = frame.shape
                sink = _SINKS[self._kind]
                self._sink = sink(self._temporary, frame, self._fps, self._comment, self._crf)  # type: ignore[call-arg]
            if frame.shape != self._size:
                raise ValueError(f"{self.path}: frame of {frame.shape[:2]} after frames of {self._size[:2]}")
            self._sink.add(frame)
            self.frames += 1

    def close(self) -> None:
        """Finishes the file, counts its frames and gives it its name. Raises `VideoError` where any are missing."""
        if self._sink is None:
            raise VideoError(f"{self.path}: no frames were written")
        try:
            self._sink.close()
            found = self._count()
            if found != self.frames:
                raise VideoError(f"{self.path}: {self.frames} frames written, but {found} read back")
            self._check_target()
            if self._kind == "" and self.path.exists():
                shutil.rmtree(self.path)
            os.replace(self._temporary, self.path)
        except BaseException:
            self._remove()
            raise

    def abandon(self) -> None:
        """Drops what has been written so far."""
        if self._sink is not None:
            try:
                self._sink.close()
            finally:
                self._remove()

    def _count(self) -> int:
        if self._kind == "":
            return len(list(self._temporary.glob("*.png")))
        with VideoReader(self._temporary) as reader:
            return reader.frames

    def _remove(self) -> None:
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary)
        else:
            self._temporary.unlink(missing_ok=True)

    def _check_target(self) -> None:
        """Only a folder of frames may be replaced by one, and only a file by a file."""
        if self._kind == "" and self.path.exists():
            others = [self.path] if not self.path.is_dir() else self.path.iterdir()
            other = next((p for p in others if not (p.suffix == ".png" and p.stem.isdecimal())), None)
            if other is not None:
                raise ValueError(f"{self.path}: holds {other.name}, not only frames; choose another folder")
        elif self.path.is_dir():
            raise ValueError(f"{self.path}: is a folder; choose a file name")


def write_video(
    path: str | Path, video: Tensor, fps: float = 8, metadata: dict[str, Any] | None = None, crf: int = 14
) -> None:
    """Writes one clip `(3, f, h, w)`, or a batch `(b, 3, f, h, w)` as a grid. See `VideoWriter`."""
    if video.ndim == 5:
        video = video[0] if len(video) == 1 else grid(video)
    with VideoWriter(path, fps, metadata, crf) as writer:
        writer.write(video)


def write_image(path: str | Path, image: Tensor) -> None:
    """Writes one picture `(3, h, w)` in [-1, 1] as .png. The parent folder is created."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are written as .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, _to_uint8(image[:, None])[0], plugin="pillow")


def grid(videos: Tensor, columns: int | None = None) -> Tensor:
    """Clips side by side, row by row: `(b, 3, f, h, w)` to `(3, f, rows * h, columns * w)`; empty places are black."""
    columns = columns or math.ceil(math.sqrt(len(videos)))
    missing = -len(videos) % columns
    videos = pad(videos, (0, 0) * 4 + (0, missing), value=-1)  # (rows * columns) 3 f h w
    return rearrange(videos, "(r k) c f h w -> c f (r h) (k w)", k=columns)


def sheet(video: Tensor) -> Tensor:
    """The frames of a clip side by side, to look at: `(3, f, h, w)` to `(3, h, f * w)`."""
    return rearrange(video, "c f h w -> c h (f w)")


def _to_uint8(video: Tensor) -> np.ndarray:
    """`(3, f, h, w)` in [-1, 1] to uint8 `(f, h, w, 3)`, rounded to nearest; undoes `VideoReader.read` exactly."""
    if video.ndim != 4 or video.shape[0] != 3:
        raise ValueError(f"video of shape {tuple(video.shape)}; expected (3, f, h, w)")
    video = video.detach().float()
    if not video.isfinite().all():
        raise ValueError("the video holds values that are not finite; the model that made it has diverged")
    frames = video.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(frames, "c f h w -> f h w c").cpu().contiguous().numpy()
