"""Where the bytes of a clip are: in a file of its own, or between two places of a tar."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vidiff.store.error import VideoError
from vidiff.store.mirror import held, is_mirrored_folder, link_of
from vidiff.store.tar import Contents, Member, TarError, find_member, read_contents, split_path


@dataclass(frozen=True)
class Span:
    """The bytes of a clip.

    Args:
        size: -1 for all of the file.
    """

    file: Path
    start: int = 0
    size: int = -1

    def open(self) -> BinaryIO:
        """These bytes, as a file of its own."""
        return self.file.open("rb") if self.size < 0 else io.BufferedReader(_Section(self))

    @property
    def url(self) -> str:
        """The name by which FFmpeg, and what is built on it, opens these bytes where they lie."""
        if self.size < 0:
            return str(self.file)
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:{self.file.absolute()}"


class _Section(io.RawIOBase):
    def __init__(self, span: Span) -> None:
        self._span, self._place = span, 0
        self._handle = os.open(span.file, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._span.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = max(0, self._span.size - self._place)
        block = os.pread(self._handle, min(len(buffer), left), self._span.start + self._place)
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


@contextmanager
def bytes_of(path: Path) -> Iterator[Span]:
    """Where the bytes of a clip are, which stay there to the end of the block.

    What a mirror has from elsewhere is fetched. Raises VideoError where that fails, and for a clip that its tar has
    not. Whether a file of its own is there is not looked at.
    """
    inside = split_path(path)
    if inside is not None:
        member = member_of(path)
        with held(inside[0]) as tar:
            yield Span(tar, member.start, member.size)
    elif is_mirrored_folder(path):
        for each in sorted(path.iterdir()):
            with held(each):
                pass
        yield Span(path)
    else:
        with held(path) as file:
            yield Span(file)


def is_apart(path: Path) -> bool:
    """Whether a clip is anything else than a file or folder of its own on this machine."""
    return split_path(path) is not None or link_of(path) is not None or is_mirrored_folder(path)


def member_of(path: Path) -> Member:
    """What a tar tells of a clip in it. Raises VideoError where it is not there."""
    inside = split_path(path)
    assert inside is not None
    tar, name = inside
    try:
        try:
            member = find_member(tar, _stamp(tar), name)
        except LookupError:
            contents_of(tar)
            member = find_member(tar, _stamp(tar), name)
    except (TarError, OSError, LookupError) as error:
        raise VideoError(f"{path}: its tar cannot be read, {error}") from None
    if member is None:
        raise VideoError(f"{path}: no such clip in its tar")
    return member


def contents_of(tar: Path) -> Contents:
    """The clips of a tar. Raises TarError, OSError."""
    with bytes_of(tar) as span:
        return read_contents(tar, _stamp(tar), span.file)


def size_and_change_of_file(path: Path) -> tuple[int, int]:
    """Bytes and time of change in ns, of a clip in a tar the clip's bytes and the tar's time; zeros where none is."""
    inside = split_path(path)
    try:
        if inside is not None:
            return member_of(path).size, size_and_change_of_file(inside[0])[1]
        if (link := link_of(path)) is not None:
            return max(link.size, 0), link.changed
        facts = path.stat()
    except (OSError, VideoError):
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _stamp(tar: Path) -> str:
    return "{}:{}".format(*size_and_change_of_file(tar))
