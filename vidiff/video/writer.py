"""Writing clips: `(3, f, h, w)` in [-1, 1] to .mp4, .mov, .mkv, .webm, .gif, or a folder of .png; and pictures.

imageio writes them: videos by its FFmpeg, pictures by Pillow. Only GIF is Pillow's alone, since imageio's writers of it
keep all frames in memory, or no metadata.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Protocol

import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange
from PIL import GifImagePlugin, Image, PngImagePlugin
from torch import Tensor
from torch.nn.functional import pad

from vidiff.pixels import check_picture, check_video
from vidiff.store.error import VideoError, reason_of
from vidiff.store.files import check_writable, delete, put
from vidiff.video.reader import VideoReader

LONGEST = 100_000  # characters of metadata: the longest argument that Linux gives to a program has 131,071 bytes
SLOWEST, FASTEST = 0.002, 100_000.0  # frames per second; beyond these a file says another rate, or none
FASTEST_OF = {".mkv": 1000.0, ".webm": 1000.0, ".gif": 50.0}  # of kinds that count times more coarsely
FARTHEST = 10.0  # from 0: no model goes so far beyond [-1, 1], and hardly a clip in 0 to 255 stays below


class _Sink(Protocol):
    """Where uint8 frames `(h, w, 3)` go, one after the other."""

    def add(self, frame: np.ndarray) -> None: ...

    def close(self) -> None: ...


class _Encoded:
    """H.264 in mp4, mov or mkv, or VP9 in webm, as yuv420p. Odd sizes are padded by repeating the last row or column.

    The same frames give the same bytes: one thread encodes, and without x264's macroblock tree, which differs from run
    to run. The colours are tagged, so that players need not guess: BT.601's matrix and limited range, as most readers
    take a file that says nothing, and the primaries and the transfer of BT.709, which are those of screens.
    """

    _h264: ClassVar = ("libx264", ["-mbtree", "0"])
    _codecs: ClassVar = {
        ".mp4": _h264,
        ".mov": _h264,
        ".mkv": _h264,
        ".webm": ("libvpx-vp9", ["-b:v", "0", "-cpu-used", "4"]),
    }
    _colours = (
        "scale=out_color_matrix=bt601:out_range=tv:flags=bicubic+accurate_rnd,format=yuv420p,"
        "setparams=color_primaries=bt709:color_trc=bt709"
    )

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, comment: str, crf: int) -> None:
        if len(comment) > LONGEST:
            raise ValueError(f"the metadata has {len(comment)} characters as JSON; files hold {LONGEST} at most")
        codec, options = self._codecs[path.suffix]
        output = ["-threads", "1", "-crf", str(crf), *options, "-vf", self._colours, "-fflags", "+bitexact"]
        self._writer = imageio.get_writer(
            path.absolute(),  # of a name with a colon in its first part FFmpeg would take that for a protocol
            format="FFMPEG",
            fps=fps,
            codec=codec,
            pixelformat="yuv420p",
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=[*output, "-metadata", f"comment={comment}"],
        )
        # In a thread of its own, for Ctrl-C comes to the main one: imageio would leave its FFmpeg behind as a zombie.
        self._thread = ThreadPoolExecutor(1)

    def add(self, frame: np.ndarray) -> None:
        height, width, _ = frame.shape
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._thread.submit(self._writer.append_data, frame).result()

    def close(self) -> None:
        with self._thread:
            self._thread.submit(self._writer.close).result()


class _Gif:
    """A looping GIF with a palette for each frame. Pillow's own writer keeps all frames, and merges equal ones."""

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, comment: str, crf: int) -> None:
        self._fps, self._count = fps, 0
        blank = Image.new("P", size[::-1])
        header, _ = GifImagePlugin.getheader(blank, info={"loop": 0, "comment": comment})
        self._file = path.open("wb")
        self._file.writelines(header)

    def add(self, frame: np.ndarray) -> None:
        # delays are whole hundredths of a second: rounding the running time keeps the average right
        begin, end = (round(100 * n / self._fps) for n in (self._count, self._count + 1))
        milliseconds = 10 * max(2, end - begin)  # players take less than 0.02 s for 0.1 s
        picture = Image.fromarray(frame)
        some = picture.resize((48, 48), Image.Resampling.NEAREST)  # as good a palette as from all, and sooner
        palette = some.quantize(256, Image.Quantize.MAXCOVERAGE)
        picture = picture.quantize(palette=palette, dither=Image.Dither.NONE)  # dithering would flicker
        self._file.writelines(GifImagePlugin.getdata(picture, duration=milliseconds, include_color_table=True))
        self._count += 1

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()


class _Pictures:
    """A folder of 000000.png, 000001.png, ..."""

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, comment: str, crf: int) -> None:
        self._folder, self._count = path, 0
        self._text = PngImagePlugin.PngInfo()
        self._text.add_text("comment", comment)
        path.mkdir()

    def add(self, frame: np.ndarray) -> None:
        iio.imwrite(self._folder / f"{self._count:06d}.png", frame, plugin="pillow", pnginfo=self._text)
        self._count += 1

    def close(self) -> None:
        pass


_Open = Callable[[Path, tuple[int, int], Fraction, str, int], _Sink]
_SINKS: dict[str, _Open] = {**dict.fromkeys(_Encoded._codecs, _Encoded), ".gif": _Gif, "": _Pictures}


class VideoWriter:
    """Writes a video of any length in constant memory. A context manager.

    The path's suffix chooses the kind: .mp4, .mov or .mkv (H.264), .webm (VP9), .gif, or, where there is none, a folder
    of .png.
    What is written stands beside `path` under another name until `close` has reopened it and counted its frames;
    an exception inside `with` removes it. So `path` is whole, or is what it was before.

    Args:
        path: its parent folder is created.
        fps: frames per second, 0.002 to 100000; of .mkv and .webm to 1000, of .gif to 50.
        metadata: anything that JSON can hold, kept in the file and returned by `read_metadata`.
        crf: the encoder's constant rate factor for all but .gif and .png; lower is better and larger, 0 to 51.

    Raises:
        ValueError: an unknown suffix, an `fps` out of range, a folder that holds other things than frames, or
            what cannot be written there, as far as that can be seen before.
    """

    def __init__(self, path: str | Path, fps: float = 8, metadata: dict[str, Any] | None = None, crf: int = 14) -> None:
        self.path = Path(path)
        self.frames = 0
        self._kind = "" if str(path).endswith(("/", os.sep)) else self.path.suffix.lower()
        if self._kind not in _SINKS:
            raise ValueError(
                f"{path}: cannot write {self._kind} files; use {', '.join(filter(None, _SINKS))}, or a path that ends "
                "in / for .png files"
            )
        fastest = FASTEST_OF.get(self._kind, FASTEST)
        if not SLOWEST <= fps <= fastest:
            hint = f", or write another kind of file than {self._kind}" if fastest < fps <= FASTEST else ""
            raise ValueError(f"fps is {fps}; give {SLOWEST:g} to {fastest:.0f} frames per second, such as 8{hint}")
        self._check_target()
        check_writable(self.path, folder=self._kind == "")
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
        for frame in to_uint8(video):
            height, width, _ = frame.shape
            if self._sink is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._size = height, width
                create = _SINKS[self._kind]
                self._sink = create(self._temporary, self._size, self._fps, self._comment, self._crf)
            if (height, width) != self._size:
                raise ValueError(f"{self.path}: a frame of {height}x{width} after {self._size[0]}x{self._size[1]}")
            try:
                self._sink.add(frame)
            except OSError as error:
                raise VideoError(f"{self.path}: cannot be written, {reason_of(error)}") from error
            self.frames += 1

    def close(self) -> None:
        """Finishes the file, counts its frames, and gives it its name. Raises `VideoError` if any are missing."""
        if self._sink is None:
            raise VideoError(f"{self.path}: no frames were written")
        try:
            self._sink.close()
            found = self._count()
            if found != self.frames:
                raise VideoError(f"{self.path}: {self.frames} frames written, but {found} read back")
            self._check_target()
            put(self._temporary, self.path)
        except BaseException:
            delete(self._temporary)
            raise

    def abandon(self) -> None:
        """Drops what has been written so far."""
        if self._sink is not None:
            with suppress(Exception):  # what ended the writing matters, not what follows from it
                self._sink.close()
        delete(self._temporary)

    def _count(self) -> int:
        if self._kind == "":
            return len(list(self._temporary.glob("*.png")))
        try:
            with VideoReader(self._temporary, decoder="pyav") as reader:
                return reader.frames
        except VideoError as error:
            reason = str(error).removeprefix(f"{self._temporary}: ")
            raise VideoError(f"{self.path}: what was written cannot be read back, {reason}") from None

    def _check_target(self) -> None:
        """Only a folder of frames may be replaced by one, and only a file by a file."""
        if self._kind == "" and self.path.exists():
            others = [self.path] if not self.path.is_dir() else self.path.iterdir()
            other = next((p for p in others if not (p.suffix == ".png" and p.stem.isdecimal())), None)
            if other is not None:
                raise ValueError(f"{self.path}: holds {other.name}, not only frames; choose another folder")


def write_video(
    path: str | Path, video: Tensor, fps: float = 8, metadata: dict[str, Any] | None = None, crf: int = 14
) -> None:
    """Writes one clip `(3, f, h, w)`, or a batch `(b, 3, f, h, w)` as a grid. See `VideoWriter`."""
    with VideoWriter(path, fps, metadata, crf) as writer:
        check_video(video, "video", farthest=FARTHEST)
        writer.write(grid(video) if video.ndim == 5 else video)


def write_image(path: str | Path, image: Tensor) -> None:
    """Writes one picture `(3, h, w)` in [-1, 1], as .png or whatever the suffix says. Creates the parent folder."""
    check_picture(image, farthest=FARTHEST)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, to_uint8(image[:, None])[0], plugin="pillow")


def grid(videos: Tensor, columns: int | None = None) -> Tensor:
    """Clips row by row: `(b, 3, f, h, w)` to `(3, f, rows * h, columns * w)`; empty places are black."""
    columns = columns or math.ceil(math.sqrt(len(videos)))
    videos = pad(videos, (0, 0) * 4 + (0, -len(videos) % columns), value=-1)  # (r k) 3 f h w
    return rearrange(videos, "(r k) c f h w -> c f (r h) (k w)", k=columns)


def sheet(video: Tensor) -> Tensor:
    """The frames of a clip side by side, to look at: `(3, f, h, w)` to `(3, h, f * w)`."""
    return rearrange(video, "c f h w -> c h (f w)")


def to_uint8(video: Tensor) -> np.ndarray:
    """`(3, f, h, w)` in [-1, 1] to uint8 `(f, h, w, 3)`, rounded; undoes `to_float` exactly.

    Raises ValueError where these are no such pixels: of another shape or type, not finite, or as far from [-1, 1] as
    those in 0 to 255 are.
    """
    check_video(video, "video", batch=False, farthest=FARTHEST)
    frames = video.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(frames, "c f h w -> f h w c").cpu().contiguous().numpy()
