"""Tar files read where they lie: what each member is called, and where its bytes are. Nothing is unpacked or run."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class TarError(ValueError):
    """A file that is no tar, or one that cannot be read by place; the message says what to do."""


class Member(NamedTuple):
    """A file in a tar, as its header tells of it: where the tar is cut off, fewer bytes may be there."""

    name: str
    start: int
    size: int


class Members:
    """The files in a tar, one after the other, as far as its headers can be read.

    Args:
        name: of the tar, for messages.

    Attributes:
        skipped: (name, reason) of each that is left out so far.
        cut: in the end, why the headers could be read no further; empty for a whole tar.

    Raises:
        TarError: for what is no tar, or is compressed.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._headers = _Headers(name, raw)

    @property
    def cut(self) -> str:
        return self._headers.cut

    def __iter__(self) -> Iterator[Member]:
        seen = set()
        for info in self._headers:
            name = re.sub(r"^(\./)+", "", info.name)
            if info.isdir() or _is_hidden(name):
                continue
            reason = _refusal(info, name) or ("there twice: the first is taken" if name in seen else "")
            seen.add(name)
            if reason:
                self.skipped.append((name, reason))
            else:
                yield Member(name, info.offset_data, info.size)


class _Headers:
    """The headers of a tar, one after the other, as far as they can be read; then `cut` says why no further."""

    def __init__(self, tar: str, raw: BinaryIO) -> None:
        head = raw.read(6)
        for magic, command in COMPRESSED.items():
            if head.startswith(magic):
                raise TarError(
                    f"{tar} is compressed, so that no clip in it can be reached by its place: {command} it; videos "
                    "hardly get smaller by compression"
                )
        raw.seek(0)
        self.cut = ""
        self._raw = raw
        try:
            self._file = tarfile.TarFile(fileobj=raw)
        except tarfile.TarError as error:
            raise TarError(f"{tar} is no tar file ({error}): download it again, or remove it") from None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        place = -1
        try:
            while (info := self._file.next()) is not None:
                if self._file.offset <= place:
                    self.cut = f"its headers lead in a circle at byte {place:,}"
                    return
                place = self._file.offset
                yield info
                self._file.members = []  # type: ignore[attr-defined]  # which it would keep
        except (tarfile.TarError, ValueError, OverflowError) as error:
            self.cut = f"it is cut off or damaged at byte {max(place, 0):,} ({error})"
            return
        self._raw.seek(self._file.offset)
        block = self._raw.read(tarfile.BLOCKSIZE)
        if any(block):
            self.cut = f"it is damaged at byte {self._file.offset:,}"
        elif not block:
            self.cut = f"it ends at byte {self._file.offset:,} without the mark of its end"


def _is_hidden(name: str) -> bool:
    """As of .DS_Store, ._clip.mp4 and __MACOSX, which macOS adds."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def _refusal(info: tarfile.TarInfo, name: str) -> str:
    """Why a member is left out; empty for one that is not."""
    if info.issym() or info.islnk():
        return "a link: pack what it leads to (tar --dereference --hard-dereference)"
    if not info.isreg():
        return "a device, a pipe or the like"
    if info.issparse():
        return "sparse: pack it without --sparse"
    if info.size < 0:
        return "a negative size"
    if name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", name):
        return "an absolute name"
    if ".." in PurePosixPath(name).parts:
        return "a name that leads out of the tar"
    if "//" in name or "/./" in name or any(ord(letter) < 32 for letter in name):
        return "an improper name"
    return ""
