"""Copies of remote files in a folder of bounded size: fetched whole at their first use, by one process for all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vidiff.store.error import Unreachable
from vidiff.store.files import DRAFT, lock
from vidiff.store.remote import Address, Identity, download, is_url, look_at, resolve

_room: dict[Path, int] = {}  # bytes that this process may add to a folder before it looks again


@dataclass(frozen=True)
class Copies:
    """A folder of copies.

    Args:
        folder: is made when the first file comes.
        limit: in bytes. Where it is passed, the files that were used longest ago are removed, but none that is held.
    """

    folder: Path
    limit: int

    @contextmanager
    def hold(self, name: str, address: Address, known: Identity) -> Iterator[Path]:
        """A file's copy, under `name`, fetched if it is not there. Within the block it stays.

        Processes and threads may ask for one file at once: one fetches it, the others wait. A copy has its name only
        once it is whole. What came of an interrupted one is used by the next.

        Raises:
            vidiff.store.error.VideoError: as `vidiff.store.remote.download`; `Unreachable` also for a file larger than
                the limit, and where the folder cannot be written to.
        """
        path = self.folder / name
        while True:
            try:
                handle = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                self._fetch(path, address, known)
                continue
            lock(handle, shared=True)
            if _is_at(handle, path):
                break
            os.close(handle)
        try:
            with suppress(OSError):  # in a folder that may only be read, none is removed either
                os.utime(handle)
            yield path
        finally:
            os.close(handle)

    def _fetch(self, path: Path, address: Address, known: Identity) -> None:
        if known.size > self.limit:
            raise Unreachable(
                f"{address.shown}: has {known.size / 1e9:.3g} GB, and {self.folder} may hold {self.limit / 1e9:.3g}: "
                "raise data.remote_cache_gb"
            )
        draft = path.with_name(f".{path.name}{DRAFT}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(draft, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise Unreachable(f"{address.shown}: no copy can be kept in {self.folder}, {error.strerror}") from None
        try:
            lock(handle)  # while another process fetches it
            if not _is_at(handle, draft):  # it has been finished, and has its name
                return
            if path.exists():
                draft.unlink()
                return
            if known.size < 0:
                os.ftruncate(handle, 0)  # nothing tells whether what came before is of the same content
            begun = os.fstat(handle).st_size
            expected = max(known.size - begun, 0)
            self._make_room(expected)
            download(address, draft, known)
            self._make_room(os.fstat(handle).st_size - begun - expected)
            os.fsync(handle)
            draft.rename(path)
        finally:
            os.close(handle)

    def _make_room(self, wanted: int) -> None:
        """Removes what was used longest ago, until there is room for so many bytes more (or fewer)."""
        left = _room.get(self.folder, 0) - wanted
        if left >= 0:
            _room[self.folder] = left
            return
        found = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                found.append((facts.st_mtime_ns, facts.st_size, entry.path))
        excess = sum(size for _, size, _ in found) + max(wanted, 0) - self.limit
        for _, size, name in sorted(found):
            if excess <= 0:
                break
            if _remove_unheld(Path(name)):
                excess -= size
        _room[self.folder] = max(-excess, 0) // 8  # other processes add to it as well


def _remove_unheld(path: Path) -> bool:
    """Whether a file that no process holds, and none fetches, was removed."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not lock(handle, wait=False):  # held
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        there, here = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def copy_name(url: str, known: Identity) -> str:
    """The name of a copy: another content of the same URL has another."""
    text = f"{url}|{known.size}|{known.changed}|{known.version}"
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    suffix = Path(urlsplit(url).path).suffix.lower()
    return digest + (suffix if len(suffix) < 10 else "")


@contextmanager
def local_copy(url: str | Path, copies: Copies, check: bool = False) -> Iterator[Path]:
    """A file by URL or path, as a local file that stays at least to the end of the block.

    What is opened or mapped into memory inside the block can be read after it as well, even where the copy has been
    removed since.

    Args:
        url: anything that fsspec opens; a path is handed back as it is.
        check: ask the store first whether the file has changed since it was fetched. Without, a copy is for good.

    Raises:
        ValueError: a package that is missing, a protocol that is unknown, a file that is not there (`VideoError`), or
            cannot be fetched now (`Unreachable`). The URL is named without user, password and query.
    """
    if not is_url(url):
        yield Path(url)
        return
    address = resolve(str(url))
    known = look_at(address) if check else Identity()
    with copies.hold(copy_name(str(url), known), address, known) as path:
        yield path
