"""A remote data set as a folder of links: every name is there, and what a link leads to comes when it is first opened.

    <runs>/remote/copies/                   copies of files, as `vidiff.store.copies` keeps them
    <runs>/remote/clips-3fa9c2d1/           a mirror: the names of a remote folder, or of the clips of a list
        train/dog/1.mp4 -> ../../../copies/<hash>.<size>.<change>.mp4
        .mirror.json                        its URL, or those of its files; only its owner may read it

A link's target tells size and time of change, so that a file is the same whether its copy is there or not.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vidiff.store.copies import Copies, copy_name
from vidiff.store.error import VideoError
from vidiff.store.remote import Identity, Place, resolve

FACTS = ".mirror.json"
_COPY = re.compile(r"[0-9a-f]{32}\.(-?\d+)\.(\d+)(\.\w+)?")


class Link(NamedTuple):
    """A link of a mirror.

    Args:
        name: of the file, relative to the mirror.
        copy: where its copy is, or would be.
        size: in bytes; -1 where it is not known.
        changed: in ns.
    """

    mirror: Path
    name: str
    copy: Path
    size: int
    changed: int


def link_of(path: Path) -> Link | None:
    """What a link of a mirror tells; None of any other path."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        return None
    found = _COPY.fullmatch(os.path.basename(target))
    if not found:
        return None
    here = os.path.abspath(path)
    copy = Path(os.path.normpath(os.path.join(os.path.dirname(here), target)))
    remote = copy.parent.parent
    mirror, _, name = here[len(str(remote)) + 1 :].partition("/")
    if not (here.startswith(f"{remote}{os.sep}") and name and (remote / mirror / FACTS).is_file()):
        return None
    return Link(remote / mirror, name, copy, int(found[1]), int(found[2]))


def is_there(path: Path) -> bool:
    """Whether there is a file of this name, here or where a mirror has it from."""
    return link_of(path) is not None or path.is_file()


def is_mirrored_folder(path: Path) -> bool:
    """Whether the files of a folder are links of a mirror."""
    try:
        with os.scandir(path) as entries:
            return any(link_of(Path(entry.path)) is not None for entry in entries if entry.is_symlink())
    except OSError:
        return False


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """A file that can be opened to the end of the block: the path itself, or the copy of what a mirror's link means.

    Raises VideoError, of which `Unreachable` is one, where that cannot be fetched.
    """
    link = link_of(path)
    if link is None:
        yield path
        return
    facts = _facts(link.mirror, (link.mirror / FACTS).stat().st_mtime_ns)
    try:
        place = _place(facts, link.name)
    except ValueError as error:
        raise VideoError(f"{path}: {error}") from None
    with Copies(link.copy.parent, facts["limit"]).hold(link.copy.name, place, Identity(link.size)) as copy:
        yield copy


@lru_cache(maxsize=8)
def _facts(mirror: Path, changed: int) -> dict[str, Any]:
    return json.loads((mirror / FACTS).read_text())


def _place(facts: dict[str, Any], name: str) -> Place:
    if name in facts["urls"]:
        return resolve(facts["urls"][name])
    system, path, shown = resolve(facts["url"])
    return Place(system, f"{path.rstrip('/')}/{name}".lstrip("/" if not path else ""), f"{shown.rstrip('/')}/{name}")


def read_facts(mirror: Path) -> dict[str, Any]:
    """What was written when the mirror was last brought up to date; empty where there is none."""
    try:
        return json.loads((mirror / FACTS).read_text())
    except (OSError, ValueError):
        return {}


def write_mirror(
    mirror: Path, copies: Copies, url: str, files: Mapping[str, Identity], urls: Mapping[str, str], of: str = ""
) -> list[str]:
    """Bring a mirror up to date.

    Args:
        mirror: a folder beside that of the copies.
        url: of the whole; a file has this and its name, unless `urls` has another.
        files: what there is, by name.
        of: what the mirror was made from, to be compared the next time.

    Returns:
        the names that are left out, since no file can have them here.
    """
    mirror.mkdir(parents=True, exist_ok=True)
    kept = {name: identity for name, identity in files.items() if _is_proper(name)}
    folders = {"/".join(parts[:end]) for parts in (n.split("/") for n in kept) for end in range(1, len(parts))}
    kept = {name: identity for name, identity in kept.items() if name not in folders}  # as S3 may have both
    _write_facts(mirror, copies.limit, url, {name: urls[name] for name in kept if name in urls}, of)
    for folder, _, names in os.walk(mirror, topdown=False):
        for name in names:
            file = Path(folder, name)
            if file.is_symlink() and file.relative_to(mirror).as_posix() not in kept:
                file.unlink()
        if folder != str(mirror):
            with suppress(OSError):  # not empty
                os.rmdir(folder)
    for name, identity in kept.items():
        file = mirror / name
        digest, _, suffix = copy_name(urls.get(name, f"{url}/{name}"), identity).partition(".")
        copy = f"{digest}.{identity.size}.{identity.changed}" + (f".{suffix}" if re.fullmatch(r"\w+", suffix) else "")
        target = os.path.relpath(copies.folder / copy, file.parent)
        with suppress(OSError):
            if os.readlink(file) == target:
                continue
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{os.getpid()}.partial")
        draft.symlink_to(target)
        draft.replace(file)
    return [name for name in files if name not in kept]


def _write_facts(mirror: Path, limit: int, url: str, urls: Mapping[str, str], of: str) -> None:
    draft = mirror / f".{os.getpid()}.partial"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # URLs may be secret
            json.dump({"url": url, "limit": limit, "listed": time.time(), "of": of, "urls": urls}, file)
        draft.replace(mirror / FACTS)
    finally:
        draft.unlink(missing_ok=True)


def _is_proper(name: str) -> bool:
    parts = name.split("/")
    return all(part and not part.startswith(".") and len(os.fsencode(part)) < 250 for part in parts) and all(
        ord(letter) >= 32 for letter in name
    )
