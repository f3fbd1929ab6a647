"""Files and folders that are whole or not there, locks that die with their process, and hashes: once, for everyone.

What is written gets a hidden name beside its own first, and its own by renaming. So a process killed at any moment, or
a disk that fills up, leaves what was there before or what is new, and at most a hidden draft, which nobody reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

DRAFT = ".partial"


@contextmanager
def draft_of(path: Path, durable: bool = False) -> Iterator[Path]:
    """A hidden name to write a file or a folder to, which takes the name `path` at the end of the block.

    If the block fails, nothing stays of the draft, and what `path` was before stays as it is. Processes that write the
    same path at once do not meet: each has a draft of its own, and the last one stands.

    Args:
        durable: flush it to the disk itself before it gets its name, and the name after: it outlives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{DRAFT}")
    delete(draft)  # of an earlier process that had this number
    try:
        yield draft
        put(draft, path, durable)
    except BaseException:
        delete(draft)
        raise


def write_whole(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Write a file, text as UTF-8, so that nobody ever sees a part of it.

    Bytes of names that are not UTF-8 are written as `\\udce9`.

    Raises:
        OSError: the disk refuses, or there is a folder of this name.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "is a folder", str(path))
    with draft_of(path, durable) as draft:
        draft.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def check_writable(path: Path, folder: bool = False) -> None:
    """See that a file, or a `folder`, of this name can be written: before the work whose result is to go there.

    Nothing stays of it. The folders above it that are missing are not made yet.

    Raises:
        ValueError: a folder has the name of a file, or the other way round, or the disk refuses.
    """
    try:
        if path.exists() and path.is_dir() != folder:
            what, instead = ("a folder", "file") if path.is_dir() else ("a file", "folder")
            raise ValueError(f"{path}: is {what}; choose a {instead} name")
        above = path if folder and path.exists() else path.parent
        while not above.exists() and above != above.parent:
            above = above.parent
        if not above.is_dir():
            raise ValueError(f"{path}: {above} is a file; choose another folder")
        with TemporaryFile(dir=above) as trial:
            trial.write(bytes(1 << 16))
            trial.flush()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path}: cannot be written, {reason}; choose another place, or make room") from None


def put(draft: Path, path: Path, durable: bool = False) -> None:
    """Rename a finished draft, a file or a folder, to `path`; what had that name is replaced.

    A folder cannot be replaced in one step: the old one is renamed out of sight first.
    """
    if durable:
        for part in draft.rglob("*") if draft.is_dir() else ():
            flush(part)
        flush(draft)
    replaced = _aside(path) if path.is_dir() else None
    if replaced:
        path.rename(replaced)
    draft.replace(path)
    if durable:
        flush(path.parent)
    if replaced:
        delete(replaced)


def flush(path: Path) -> None:
    """Put a file's or a folder's content on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Take a folder away: out of sight at once, its files as they can be. Where that fails, a warning says so."""
    try:
        aside = _aside(folder)
        folder.rename(aside)
    except OSError:
        aside = folder
    delete(aside)


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there. Where that fails, a warning says so."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"could not remove {path}: {error}", stacklevel=3)


def sweep(folder: Path, name: str = "*") -> None:
    """Delete the drafts of `name`, a glob, that killed processes of this computer have left in a folder."""
    for draft in folder.glob(f".{name}-*{DRAFT}"):
        host, _, process = draft.name.removesuffix(DRAFT).rpartition("-")
        if host.endswith(f".{socket.gethostname()}") and process.isdigit() and not _lives(int(process)):
            delete(draft)


def _aside(path: Path) -> Path:
    """A hidden name beside `path` that is free: what could not be deleted before may have the first."""
    names = (path.with_name(f".old-{path.name}{'-' * n}") for n in range(100))
    return next((name for name in names if not name.exists()), path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def lock(file: IO[str] | IO[bytes] | int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file, or a descriptor of one, until it is closed, or its process has ended, however that was.

    Args:
        shared: with others who want it shared; who does not, waits for all of them.
        wait: for those who hold it in a way that excludes this one.

    Returns:
        Whether it is locked: always, if `wait`.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def claimed(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether what the file `path` stands for is this process's to do, until the end of the block.

    It is not where another process is at it; with `wait`, that one is waited for. Where the file system has no locks,
    or may only be read, it always is: this spares work, and guards no data. The file is made if it is not there, and
    stays, which means nothing.
    """
    with ExitStack() as opened:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = lock(opened.enter_context(open(path, "ab")), wait=wait)
        except OSError:
            mine = True
        yield mine


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
