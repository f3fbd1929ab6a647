"""What counts as a clip, and what decodes it: nothing else of the library needs to know of what kind a clip is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from vidiff.store.error import VideoError
from vidiff.store.spans import Span, bytes_of, is_apart, size_and_change_of_file
from vidiff.video.decode import VIDEO_SUFFIXES, Decoder
from vidiff.video.decoders import video_file
from vidiff.video.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES, Animation, FrameFolder, numbered

CLIP_SUFFIXES = VIDEO_SUFFIXES | ANIMATION_SUFFIXES


def make_decoder(path: Path, decoder: str = "auto") -> Decoder:
    """The decoder of a video file, an animated GIF or WebP, a picture, or a folder of numbered pictures.

    Args:
        decoder: of a video file, one of `vidiff.video.decoders.DECODERS`.
    """
    make = partial(_decoder_of, decoder)
    return Apart(path, make) if is_apart(path) else make(path)


def _decoder_of(decoder: str, path: Path, span: Span | None = None) -> Decoder:
    """The decoder of a file, or of a part of one."""
    if path.is_dir():
        return FrameFolder(path)
    if path.suffix.lower() in ANIMATION_SUFFIXES | PICTURE_SUFFIXES:
        return Animation(path, span.open if span else None)
    return video_file(path, decoder, span.url if span else "")


def is_video(path: Path) -> bool:
    """Whether a clip is a file with a container and a codec, which pictures have not."""
    return not path.is_dir() and path.suffix.lower() not in ANIMATION_SUFFIXES | PICTURE_SUFFIXES


def is_frame_folder(folder: Path) -> bool:
    """Whether a folder is one clip: it holds at least two numbered pictures, and neither videos nor folders."""
    if not folder.is_dir():
        return False
    inner = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.suffix.lower() in CLIP_SUFFIXES or path.is_dir() for path in inner):
        return False
    return len(numbered(inner)) > 1


def clips_in(folder: Path, pictures: bool = False) -> Iterator[Path]:
    """The clips that lie directly in a folder, sorted; hidden ones are left out.

    Args:
        pictures: take each single picture as a clip of one frame, and folders of numbered ones as no clips.
    """
    suffixes = CLIP_SUFFIXES | PICTURE_SUFFIXES if pictures else CLIP_SUFFIXES
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in suffixes or (not pictures and is_frame_folder(path)):
            yield path


def size_and_change(path: Path) -> tuple[int, int]:
    """Bytes and time of change in ns, of a folder those of its files; zeros for a link that leads nowhere."""
    if not path.is_dir():
        return size_and_change_of_file(path)
    try:
        inner = [size_and_change_of_file(each) for each in numbered(path.iterdir())]
        changed = path.stat().st_mtime_ns
    except OSError:
        return 0, 0
    return sum(size for size, _ in inner), max((change for _, change in inner), default=changed)


class Apart:
    """Decodes a clip that is no file of its own.

    Args:
        make: a decoder of these bytes, which it names by the path.
    """

    def __init__(self, path: Path, make: Callable[[Path, Span], Decoder]) -> None:
        self.path, self._make = path, make
        self._decoder: Decoder | None = None
        self._held = ExitStack()

    @property
    def name(self) -> str:
        return self._open().name

    @property
    def frames(self) -> int:
        return self._open().frames

    @property
    def fps(self) -> float:
        return self._open().fps

    @property
    def times(self) -> np.ndarray:
        return self._open().times

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        return self._open().decode(indices, size)

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
        self._held.close()

    def _open(self) -> Decoder:
        if self._decoder is None:
            span = self._held.enter_context(bytes_of(self.path))
            if not span.size:
                raise VideoError(f"{self.path}: is empty (0 bytes)")
            self._decoder = self._make(self.path, span)
        return self._decoder
