"""Tar files whose members are clips, as WebDataset packs them: read where they lie; nothing is unpacked or run.

The members that share a name up to the first dot of its last part are one sample: a video (or an animation, or else a
picture), and beside it .cls (a label), .json ("label", "caption") or .txt (a caption). Headers are read once; where
each clip begins is kept in a small table in the user's cache folder, for every process that reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vidiff.video.decode import VIDEO_SUFFIXES
from vidiff.video.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES

FORMAT = 1  # of a table: goes up when the same tar comes to be read differently
OPEN_TABLES = 64  # in a process
LARGEST_TEXT = 1 << 20  # bytes of a .json, .cls or .txt
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class TarError(ValueError):
    """A file that is no tar, or one that cannot be read by place; the message says what to do."""


class Member(NamedTuple):
    """A clip in a tar: the name by which it is known, and where its bytes are.

    Args:
        label: a number or a name; None where none is given.
        caption: empty where there is none.
    """

    name: str
    start: int
    size: int
    label: int | str | None = None
    caption: str = ""


@dataclass(frozen=True)
class Contents:
    """What a tar holds.

    Args:
        skipped: (name, reason) of each member that is left out.
        cut: why the tar ends before its end; empty for a whole one.
    """

    members: list[Member]
    skipped: list[tuple[str, str]]
    cut: str = ""


def split_path(path: Path) -> tuple[Path, str] | None:
    """The tar and the name of a clip in it, of a path such as shards/000.tar/dog/1.mp4; None of any other path."""
    text = str(path)
    if ".tar/" not in text:
        return None
    end = 0
    while (end := text.find(".tar/", end) + 4) > 3:
        if not os.path.isdir(text[:end]):
            return Path(text[:end]), text[end + 1 :]
    return None


def read_contents(tar: Path, stamp: str, file: Path) -> Contents:
    """All that a tar holds, by its table; made first if need be. Raises TarError, OSError.

    Args:
        stamp: changes whenever the tar does.
        file: where its bytes are.
    """
    with closing(_make_table(tar, stamp, file)) as table:
        rows = table.execute("SELECT name, start, size, label, caption FROM members ORDER BY start").fetchall()
        facts = json.loads(table.execute("SELECT facts FROM facts").fetchone()[0])
    members = [Member(os.fsdecode(name), *rest) for name, *rest in rows]
    return Contents(members, [(name, reason) for name, reason in facts["skipped"]], facts["cut"])


def find_member(tar: Path, stamp: str, name: str) -> Member | None:
    """One clip of a tar whose table is there; None where it has none of this name. Raises LookupError without table."""
    key = (tar, stamp)
    table = _tables.get(key) or _open_table(tar, stamp)
    if table is None:
        raise LookupError(tar)
    _tables[key] = table
    _tables.move_to_end(key)
    if len(_tables) > OPEN_TABLES:
        _tables.popitem(last=False)[1].close()
    row = table.execute(
        "SELECT start, size, label, caption FROM members WHERE name = ?", (os.fsencode(name),)
    ).fetchone()
    return None if row is None else Member(name, *row)


_tables: OrderedDict[tuple[Path, str], sqlite3.Connection] = OrderedDict()


def _table_path(tar: Path) -> Path:
    name = hashlib.blake2b(os.fsencode(os.path.abspath(tar)), digest_size=16).hexdigest()
    return _cache_folder() / f"{name}.sqlite"


@cache
def _cache_folder() -> Path:
    """`~/.cache/vidiff/tars`, or a folder of this process where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidiff" / "tars"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    own = tempfile.TemporaryDirectory(prefix="vidiff-tars-")
    _own.append(own)
    return Path(own.name)


_own: list[tempfile.TemporaryDirectory[str]] = []  # removed with the process


def _open_table(tar: Path, stamp: str) -> sqlite3.Connection | None:
    path = _table_path(tar)
    if not path.is_file():
        return None
    table = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    try:
        facts = json.loads(table.execute("SELECT facts FROM facts").fetchone()[0])
        if (facts["format"], facts["stamp"]) == (FORMAT, stamp):
            return table
    except (sqlite3.DatabaseError, ValueError, LookupError, TypeError):
        pass  # damaged: it is made anew
    table.close()
    return None


def _make_table(tar: Path, stamp: str, file: Path) -> sqlite3.Connection:
    if (table := _open_table(tar, stamp)) is not None:
        return table
    contents = _scan(tar, file)
    path = _table_path(tar)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        with closing(sqlite3.connect(draft)) as new, new:
            new.execute("CREATE TABLE members (name BLOB PRIMARY KEY, start, size, label, caption) WITHOUT ROWID")
            new.execute("CREATE TABLE facts (facts)")
            rows = ((os.fsencode(each.name), *each[1:]) for each in contents.members)
            new.executemany("INSERT INTO members VALUES (?, ?, ?, ?, ?)", rows)
            facts = {"format": FORMAT, "stamp": stamp, "skipped": contents.skipped, "cut": contents.cut}
            new.execute("INSERT INTO facts VALUES (?)", (json.dumps(facts),))
        os.replace(draft, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)
    table = _open_table(tar, stamp)
    if table is None:  # another process has just made one of another state of the tar
        raise TarError(f"{tar} changes while it is read: run again")
    return table


@dataclass
class _Sample:
    clip: tuple[int, str, int, int] | None = None  # rank, name, start, size
    parts: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # of "cls", "json", "txt"


def _scan(tar: Path, file: Path) -> Contents:
    """Reads all headers, and the small texts beside the clips."""
    samples: dict[str, _Sample] = {}
    skipped: list[tuple[str, str]] = []
    seen = set()
    with file.open("rb") as raw:
        end = os.fstat(raw.fileno()).st_size
        walk = _Headers(tar, raw)
        for info in walk:
            name = re.sub(r"^(\./)+", "", info.name)
            if info.isdir() or _is_hidden(name):
                continue
            reason = _refusal(info, name) or ("there twice: the first is taken" if name in seen else "")
            seen.add(name)
            if reason:
                skipped.append((name, reason))
                continue
            folder, _, last = name.rpartition("/")
            stem, _, extension = last.partition(".")
            if not (stem and extension):
                continue
            sample = samples.setdefault(f"{folder}/{stem}", _Sample())
            extension = extension.lower()
            if extension in ("cls", "json", "txt"):
                sample.parts[extension] = (name, info.offset_data, info.size)
            elif (rank := _rank(extension)) is not None and (sample.clip is None or rank < sample.clip[0]):
                there = max(0, min(info.size, end - info.offset_data))
                sample.clip = (rank, name, info.offset_data, there)
        members = []
        for sample in samples.values():
            if sample.clip is None:
                continue
            _, name, start, size = sample.clip
            try:
                label, caption = _read_texts(raw, sample)
            except _Malformed as error:
                skipped.append((name, str(error)))
            else:
                members.append(Member(name, start, size, label, caption))
    return Contents(members, skipped, walk.cut)


class _Headers:
    """The headers of a tar, one after the other, as far as they can be read; then `cut` says why no further."""

    def __init__(self, tar: Path, raw: BinaryIO) -> None:
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
    if name.startswith("/") or (name[1:2] == ":" and name[:1].isalpha()):
        return "an absolute name"
    if ".." in PurePosixPath(name).parts:
        return "a name that leads out of the tar"
    if "//" in name or "/./" in name or any(ord(letter) < 32 for letter in name):
        return "an improper name"
    return ""


def _rank(extension: str) -> int | None:
    """0 for videos and animations, 1 for pictures, None for what is no clip."""
    suffix = "." + extension.rpartition(".")[2]
    if suffix in VIDEO_SUFFIXES | ANIMATION_SUFFIXES:
        return 0
    return 1 if suffix in PICTURE_SUFFIXES else None


class _Malformed(Exception):
    """What a text beside a clip should not be."""


def _read_texts(raw: BinaryIO, sample: _Sample) -> tuple[int | str | None, str]:
    """Label and caption of a sample."""
    texts = {}
    for kind, (name, start, size) in sample.parts.items():
        content = os.pread(raw.fileno(), min(size, LARGEST_TEXT + 1), start)
        if len(content) < size:
            raise _Malformed(f"its {name} is cut off, or has more than {LARGEST_TEXT:,} bytes")
        try:
            texts[kind] = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise _Malformed(f"its {name} is not UTF-8 text") from None
    label: int | str | None = None
    caption = ""
    if "json" in texts:
        name = sample.parts["json"][0]
        try:
            content = json.loads(texts["json"])
        except (ValueError, RecursionError):
            raise _Malformed(f"its {name} is not JSON") from None
        if not isinstance(content, dict):
            raise _Malformed(f"its {name} is no JSON object")
        label, caption = content.get("label"), content.get("caption") or ""
        if not (label is None or (isinstance(label, (int, str)) and not isinstance(label, bool))):
            raise _Malformed(f"the label in its {name} is neither a number nor a name")
        if not isinstance(caption, str):
            raise _Malformed(f"the caption in its {name} is no text")
        label = label.strip() or None if isinstance(label, str) else label
    if text := texts.get("cls"):
        label = int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else text
    if isinstance(label, int) and not 0 <= label < 1 << 31:
        raise _Malformed(f"its label is {label}: labels are numbered from 0")
    return label, " ".join((caption or texts.get("txt", "")).split())
