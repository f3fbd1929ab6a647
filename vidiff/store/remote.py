"""Files elsewhere, by URL: whatever fsspec opens, as a stream that is retried, resumed, and never silent for ever."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from vidiff.store.error import Unreachable, VideoError, reason_of

Found = TypeVar("Found")

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try; a try that brought bytes begins anew
STALL = 60.0  # seconds without a byte after which a try has failed
BLOCK = 1 << 20
TICK = 0.5
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/@\s'\"]*@)?([^\s'\"?#]*)[^\s'\"]*", re.IGNORECASE)
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", *_TIMES)


class Identity(NamedTuple):
    """What tells one content of a URL from another.

    Args:
        size: in bytes; -1 where it is not told.
        changed: time of change in ns; 0 where it is not told.
        version: a hash of what else the store tells, such as an ETag; may be empty.
    """

    size: int = -1
    changed: int = 0
    version: str = ""


class Address(NamedTuple):
    """A file or folder of an fsspec file system, and how it is named in messages."""

    system: Any
    path: str
    shown: str

    def below(self, inner: str) -> Address:
        """A file in this folder; the file itself where `inner` is empty."""
        if not inner:
            return self
        path = f"{self.path.rstrip('/')}/{inner}".lstrip("/" if not self.path else "")
        return Address(self.system, path, f"{self.shown.rstrip('/')}/{inner}")


def is_url(text: str | Path) -> bool:
    """Whether this names something that fsspec is to open, as s3://bucket/clips or a chain as zip::s3://bucket/clips.zip
    does, and not a local path, which may have colons of its own.
    """
    return isinstance(text, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::.*)?://", text))


def shown(text: str) -> str:
    """A URL, or a message that holds some, without what may be secret: user, password, query and fragment."""
    return "::".join(_URL.sub(r"\1\2", part) for part in text.split("::"))


def resolve(url: str) -> Address:
    """The file system of a URL. Raises ValueError where its package is not installed, or the protocol is unknown."""
    advice = f"{shown(url)} cannot be opened"
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ValueError(f"{advice} without fsspec: pip install 'vidiff[remote]'") from None
    options: dict[str, Any] = {}
    try:
        if re.match(r"https?://", url, re.IGNORECASE):
            import aiohttp

            # a stream may take as long as it takes, but not be silent
            limits = aiohttp.ClientTimeout(total=None, sock_connect=STALL / 2, sock_read=STALL / 2)
            url = quote(url, safe="%/:=&?~#+!$,;'@()*[]", errors="surrogateescape")
            options = {"client_kwargs": {"timeout": limits}, "encoded": True}
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        package = re.search(r"(?i)install (\S+)", str(error)) or re.search(r"No module named '([\w.]+)'", str(error))
        what = f"pip install {package[1].rstrip('.,;')}" if package else reason_of(error)
        raise ValueError(f"{advice} by what is installed: {what}") from None
    except ValueError as error:
        raise ValueError(f"{advice}: {shown(reason_of(error))}; expected s3://, gs://, https:// or the like") from None
    except OSError as error:  # an archive around it that is not there
        raise ValueError(f"{advice}: {shown(reason_of(error))}") from None
    return Address(system, path, shown(url))


def identity(facts: dict[str, Any]) -> Identity:
    """What fsspec tells of a file, by `info` or in a listing, in one form for all stores."""
    size = facts.get("size")
    told = [str(facts[key]) for key in _VERSIONS if facts.get(key) is not None]
    version = hashlib.blake2b("|".join(told).encode(), digest_size=8).hexdigest() if told else ""
    changed = next((time for key in _TIMES if (time := _nanoseconds(facts.get(key)))), 0)
    return Identity(-1 if size is None else int(size), changed, version)


def _nanoseconds(moment: Any) -> int:
    if isinstance(moment, (int, float)):
        return int(moment * 1e9)
    try:
        if isinstance(moment, str):
            moment = parsedate_to_datetime(moment) if "," in moment else datetime.fromisoformat(moment)
    except ValueError:
        return 0
    return int(moment.timestamp() * 1e9) if isinstance(moment, datetime) else 0


def look_at(address: Address) -> Identity:
    """What a store tells of one file. Raises as `persist`."""
    return identity(persist(address.shown, lambda: address.system.info(address.path)))


def find_below(address: Address) -> dict[str, Identity]:
    """All files below a folder of a store, by the store's own full names. Raises as `persist`."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(address.system)
    walks = kind.find is AbstractFileSystem.find and getattr(kind, "_find", None) in (None, AsyncFileSystem._find)
    strict = {"on_error": "raise"} if walks else {}  # else a folder that cannot be listed is silently left out
    address.system.invalidate_cache()  # what it was told an hour ago is no answer
    found = persist(address.shown, lambda: address.system.find(address.path, detail=True, **strict))
    return {name: identity(facts) for name, facts in found.items()}


def persist(name: str, ask: Callable[[], Found]) -> Found:
    """An answer of a store, asked again where it fails.

    Raises:
        Unreachable: no answer after `len(WAITS)` further tries.
        VideoError: what is asked for is not there, or may not be read.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:  # each store raises errors of its own
            if (refusal := _refusal(name, error)) is not None:
                raise refusal from None
            if wait is None:
                raise _unreachable(name, error) from None
        time.sleep(wait)
    raise AssertionError


def download(address: Address, draft: Path, known: Identity) -> None:
    """Bring a draft, which may hold the beginning from an earlier try, to the whole content of a file.

    Raises:
        Unreachable: no byte came in `len(WAITS)` further tries, or none can be written. What has come stays.
        VideoError: the file is not there, may not be read, or has not the size that it had when it was listed.
    """
    tries = iter((*WAITS, None))
    while True:
        have = draft.stat().st_size
        if have == known.size:
            return
        try:
            _append(address, draft, have)
            break
        except _LocalTrouble as trouble:
            raise Unreachable(f"{address.shown}: no copy can be kept in {draft.parent}, {trouble.reason}") from None
        except Exception as error:
            if getattr(error, "status", None) == 416:  # it has become shorter than the draft
                draft.write_bytes(b"")
            if (refusal := _refusal(address.shown, error)) is not None:
                raise refusal from None
            if draft.stat().st_size > have:
                tries = iter((*WAITS, None))
            wait = next(tries)
            if wait is None:
                raise _unreachable(address.shown, error) from None
        time.sleep(wait)
    came = draft.stat().st_size
    if known.size >= 0 and came != known.size:
        draft.write_bytes(b"")
        raise VideoError(
            f"{address.shown}: {came:,} bytes came, where {known.size:,} were listed; it has changed since: run again"
        )


class _LocalTrouble(Exception):
    """Writing here failed, which no further try mends."""

    def __init__(self, error: OSError) -> None:
        self.reason = error.strerror or str(error)


def _append(address: Address, draft: Path, have: int) -> None:
    """Adds the rest of a file to a draft. A thread reads, so that a silent connection can be left."""
    blocks: Queue[bytes | BaseException | None] = Queue(maxsize=4)
    given_up = threading.Event()

    def hand_over(block: bytes | BaseException | None) -> None:
        while not given_up.is_set():
            try:
                return blocks.put(block, timeout=TICK)
            except Full:
                continue

    def read() -> None:
        try:
            with closing(_rest(address, have)) as rest:
                for block in rest:
                    hand_over(block)
                    if given_up.is_set():
                        return
            hand_over(None)
        except BaseException as error:
            hand_over(error)

    threading.Thread(target=read, daemon=True, name="download").start()
    heard = time.monotonic()
    try:
        with draft.open("ab") as file:
            while True:
                try:
                    block = blocks.get(timeout=TICK)
                except Empty:
                    if time.monotonic() > heard + STALL:
                        raise TimeoutError(f"nothing came for {STALL:g} s") from None
                    continue
                heard = time.monotonic()
                if block is None:
                    return
                if isinstance(block, BaseException):
                    raise block
                try:
                    if not block:  # the server begins at the beginning
                        file.truncate(0)
                    file.write(block)
                except OSError as error:
                    raise _LocalTrouble(error) from None
    finally:
        given_up.set()


def _rest(address: Address, have: int) -> Generator[bytes, None, None]:
    """What follows the first `have` bytes of a file; an empty block says that what follows is all of it."""
    system, path, _ = address
    if path.startswith(("http://", "https://")):
        # One request for all: a server that knows no ranges is read as well.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with system.open(path, "rb", block_size=0, size=1, headers=headers) as file:
            if have and file.r.status != 206:
                yield b""
            while block := file.read(BLOCK):
                yield block
        return
    with system.open(path, "rb") as file:
        file.seek(have)
        while block := file.read(BLOCK):
            yield block


def _refusal(name: str, error: Exception) -> VideoError | None:
    """The error to raise where another try would be of no use."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None  # fsspec makes that of all errors by HTTP
    status = getattr(cause or error, "status", None)
    if isinstance(status, int):
        if 400 <= status < 500 and status not in (408, 416, 425, 429):
            return VideoError(f"{name}: cannot be fetched, the server answers {status}")
        return None
    if isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp"):
        return None
    if isinstance(error, FileNotFoundError):
        return VideoError(f"{name}: no such file")
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)):
        return VideoError(f"{name}: cannot be fetched, {shown(reason_of(error))}")
    return None


def _unreachable(name: str, error: Exception) -> Unreachable:
    cause = (error.__cause__ if isinstance(error, FileNotFoundError) else None) or error
    return Unreachable(f"{name}: cannot be fetched in {len(WAITS) + 1} tries, {shown(reason_of(cause))}")
