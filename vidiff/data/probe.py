"""A look into video files, in processes of their own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from vidiff.data.helper import Lost, ask_all
from vidiff.store.error import Unreachable, VideoError
from vidiff.store.remote import Unfetched
from vidiff.store.spans import bytes_of, size_and_change_of_file
from vidiff.video.pictures import numbered
from vidiff.video.reader import VideoReader

ENDS = 1 << 16  # bytes of each end of a file that its fingerprint reads


class Facts(NamedTuple):
    """What a readable video holds: size in pixels, a fingerprint of its content, and the decoder that reads it."""

    frames: int
    fps: float
    height: int
    width: int
    fingerprint: str
    decoder: str


Outcome = Facts | str  # or why the file cannot be read


def probe(path: Path, rate: float = 0.0, decoder: str = "auto") -> Outcome:
    """Open one file, and decode its first and its last frame: what a truncated download lacks is the end.

    Args:
        rate: frames per second at which the file is seen; 0 for its own frames.
        decoder: as of `VideoReader`.
    """
    try:
        with VideoReader(path, rate, decoder) as reader:
            frames, fps, (height, width) = reader.frames, reader.fps, reader.size
            reader.pixels([frames - 1])
            return Facts(frames, fps, height, width, fingerprint(path), reader.decoder)
    except Unreachable as error:
        return Unfetched(error)
    except (VideoError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")


def fingerprint(path: Path) -> str:
    """A hash of a file's size and both its ends, where containers keep their tables: a new encoding changes it.

    Of a folder of pictures it is a hash of all names and sizes, and of the first and the last picture.
    """
    if path.is_dir():
        files = numbered(path.iterdir())
        parts = [f"{file.name}:{size_and_change_of_file(file)[0]}" for file in files]
        parts += [fingerprint(file) for file in (*files[:1], *files[-1:])]
        return hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    with bytes_of(path) as span, span.open() as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return hashlib.blake2b(head + file.read(ENDS) + str(size).encode(), digest_size=16).hexdigest()


def probe_all(
    paths: Sequence[Path], processes: int = 2, patience: float = 300.0, look: Callable[[Path], Outcome] = probe
) -> Generator[tuple[Path, Outcome], None, None]:
    """Look into each file, a few at a time; yields each with its outcome, in the order in which they come.

    A file on which its process crashes, or stays silent for `patience` seconds, counts as one that cannot be read.
    Closing the generator ends the processes, and so does the end of this one, however it comes.
    """
    with closing(ask_all(paths, look, processes, patience)) as answers:
        for path, found in answers:
            yield path, found.reason if isinstance(found, Lost) else found
