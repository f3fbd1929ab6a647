"""Where bytes are: in a file, in a part of one, or elsewhere. They open as bytes, or by a name that FFmpeg reads."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vidiff.store.copies import Copies, copy_name
from vidiff.store.error import VideoError
from vidiff.store.remote import Identity, resolve


class Stamp(NamedTuple):
    """What tells whether bytes have changed: how many there are, and the time of the last change in ns."""

    size: int = 0
    changed: int = 0

    def __str__(self) -> str:
        return f"{self.size}:{self.changed}"


@dataclass(frozen=True, slots=True)
class Remote:
    """A file elsewhere, as its store told of it.

    Args:
        url: of the file; or, where `inner` is given, of a folder that it is in.
        inner: its name in that folder.
        known: what tells this content from another of the same URL.
        copies: where its copy is kept, once it has been fetched.
    """

    url: str
    inner: str
    known: Identity
    copies: Copies

    @property
    def copy(self) -> str:
        """The name of the copy."""
        return copy_name(f"{self.url}/{self.inner}" if self.inner else self.url, self.known)

    @contextmanager
    def held(self) -> Iterator[Path]:
        """The copy, which is fetched if need be, and stays to the end of the block. Raises VideoError, Unreachable."""
        try:
            address = resolve(self.url).below(self.inner)
        except ValueError as error:
            raise VideoError(str(error)) from None
        with self.copies.hold(self.copy, address, self.known) as path:
            yield path


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a file, of a part of one, or of a folder are.

    Args:
        name: by which messages and lists call it.
        file: a file or folder on this machine; None for what is elsewhere and has not been fetched.
        start, size: the part of the file, in bytes; size is -1 for all of it.
        remote: where it is, if not here.
        parts: the files of a folder that is elsewhere.
    """

    name: str
    file: Path | None = None
    start: int = 0
    size: int = -1
    remote: Remote | None = None
    parts: tuple[Place, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        """Of the name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def is_elsewhere(self) -> bool:
        """Whether it has to be fetched before it can be opened."""
        return self.file is None

    @property
    def is_own_file(self) -> bool:
        """Whether these are all bytes of a file, or a folder, that belongs on this machine."""
        return self.file is not None and self.remote is None and self.size < 0

    @property
    def is_folder(self) -> bool:
        return bool(self.parts) or (self.file is not None and self.size < 0 and self.file.is_dir())

    @property
    def key(self) -> str:
        """A name that is the same wherever it is asked for: absolute, the folder's links resolved."""
        if self.remote is not None or self.file is None:
            return self.name
        return f"{self.file.parent.resolve() / self.file.name}{self.name.removeprefix(str(self.file))}"

    @property
    def version(self) -> str:
        """What tells one content of a place elsewhere from another, beside its stamp; empty here."""
        if self.parts:
            return hashlib.blake2b("|".join(part.version for part in self.parts).encode(), digest_size=16).hexdigest()
        return "" if self.remote is None else self.remote.copy

    @contextmanager
    def held(self) -> Iterator[Place]:
        """The same on this machine: what is elsewhere is fetched, and stays to the end of the block.

        Raises VideoError, of which `Unreachable` is one, where that fails.
        """
        if self.remote is not None and self.file is None:
            with self.remote.held() as file:
                yield replace(self, file=file)
            return
        here = []
        for part in self.parts:
            with part.held() as fetched:
                here.append(fetched)
        yield replace(self, parts=tuple(here)) if here else self

    def inside(self) -> list[Place]:
        """The files of a folder, sorted by name."""
        if self.parts or self.file is None:
            return [*self.parts]
        return [Place(f"{self.name}/{path.name}", path) for path in sorted(self.file.iterdir())]

    def part(self, name: str, start: int, size: int) -> Place:
        """A part of this file, by a name of its own. What of it the file does not have is left out."""
        return replace(self, name=f"{self.name}/{name}", start=start, size=size)

    @property
    def url(self) -> str:
        """The name by which FFmpeg, and what is built on it, opens these bytes where they lie.

        It is absolute: of a relative one, FFmpeg takes what stands before a colon, as in 12:30.mp4, for a protocol.
        """
        assert self.file is not None, "is to be held first"
        if self.size < 0:
            return str(self.file.absolute())
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:{self.file.absolute()}"

    @property
    def length(self) -> int:
        """How many bytes there are, of what is on this machine. Raises OSError where nothing is."""
        assert self.file is not None, "is to be held first"
        return self.size if self.size >= 0 else self.file.stat().st_size

    def open(self) -> BinaryIO:
        """These bytes, as a file of its own."""
        assert self.file is not None, "is to be held first"
        return self.file.open("rb") if self.size < 0 else io.BufferedReader(_Section(self.file, self.start, self.size))

    def read(self) -> bytes:
        """All of them, fetched if need be. Raises VideoError where that fails, OSError."""
        with self.held() as here, here.open() as file:
            return file.read()

    def stamp(self) -> Stamp:
        """Of a part its size, and the time of the whole; zeros where nothing is there."""
        if self.file is None and self.remote is None:
            return Stamp()
        if self.remote is not None:
            whole = Stamp(max(self.remote.known.size, 0), self.remote.known.changed)
        else:
            try:
                facts = os.stat(self.file or "")
            except OSError:
                return Stamp()
            whole = Stamp(facts.st_size, facts.st_mtime_ns)
        return whole if self.size < 0 else Stamp(self.size, whole.changed)


def place_of(path: str | Path | Place) -> Place:
    """The place of a file or folder on this machine; a place is handed back as it is."""
    return path if isinstance(path, Place) else Place(str(path), Path(path))


class _Section(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: Path, start: int, size: int) -> None:
        self._start, self._size, self._at = start, size, 0
        self._handle = os.open(file, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = max(0, self._size - self._at)
        block = os.pread(self._handle, min(len(buffer), left), self._start + self._at)
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()
