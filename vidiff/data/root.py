"""What `data.root` names, as something local: a path stays as it is, a URL becomes a mirror of what is there."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from tqdm import tqdm

from vidiff.data.lists import LIST_SUFFIXES, PATHS, Row, read_rows
from vidiff.data.tars import PACKED, expand
from vidiff.store.copies import Copies, local_copy
from vidiff.store.error import DataError, Unreachable, VideoError
from vidiff.store.mirror import FACTS, read_facts, write_mirror
from vidiff.store.remote import Identity, find_below, is_url, look_at, resolve, shown
from vidiff.video.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES

GIGABYTES = 50.0  # of copies, unless a config says otherwise
SERVES = 3600.0  # seconds for which a listing is not made anew
AT_ONCE = 16  # questions to a store
TEXTS = frozenset({".txt", ".csv", ".jsonl"})  # lists and captions


def copies_of(runs: Path, gigabytes: float = GIGABYTES) -> Copies:
    """Where a folder of runs keeps its copies of remote files."""
    return Copies(runs / "remote" / "copies", round(gigabytes * 1e9))


def name_of(root: str | Path) -> str:
    """A short name for a data set, which files about it can have."""
    return mirror_name(str(root)) if is_url(root) else Path(root).resolve().name


def mirror_name(url: str) -> str:
    last = re.sub(r"\W+", "-", Path(urlsplit(shown(url)).path).name or urlsplit(shown(url)).netloc).strip("-")
    return f"{last or 'remote'}-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"


def local_root(root: str | Path, copies: Copies, fresh: bool = False) -> Path:
    """A folder, list or tar on this machine for what `data.root` names. Files are fetched when they are first opened.

    Args:
        root: a path; or a URL that fsspec opens: of a folder, of a list (.csv, .jsonl; a local list may name URLs as
            well), or of tars, also as a pattern such as s3://bucket/clips-{000..009}.tar.
        fresh: ask the store what there is even if that was done within the hour.

    Raises:
        DataError: nothing there. ValueError: as `vidiff.store.remote.resolve` and `find_below`.
    """
    text = str(root)
    if Path(urlsplit(text).path if is_url(root) else text).suffix.lower() in LIST_SUFFIXES:
        return _of_list(text, copies, fresh)
    if not is_url(root):
        return Path(root)
    last = text.rpartition("/")[2].partition("?")[0]
    if last.endswith(".tar") or PACKED.search(last):
        return _of_tars(text, copies, fresh)
    return _of_folder(text.rstrip("/") if not text.endswith("://") else text, copies, fresh)


def _of_folder(url: str, copies: Copies, fresh: bool) -> Path:
    mirror = copies.folder.parent / mirror_name(url)
    with _turn(mirror):
        if _serves(mirror, copies, fresh):
            return mirror
        place = resolve(url)
        top, name = place.path.rstrip("/"), place.shown
        by_http = url.startswith(("http://", "https://"))
        files, urls = dict[str, Identity](), dict[str, str]()
        for full, known in find_below(place).items():
            inner = full.removeprefix(top).lstrip("/")
            inner = unquote(inner) if by_http else inner
            if Path(inner).suffix.lower() in CLIP_SUFFIXES | PICTURE_SUFFIXES | TEXTS | {".tar"} and "?" not in inner:
                files[inner] = known
                if by_http:
                    urls[inner] = full
        if not files:
            raise DataError(f"no videos, lists or tars below {name}: set data.root to where they are")
        unsized = {inner: urls[inner] for inner, known in files.items() if known.size < 0 and inner in urls}
        files |= _look_at_all(unsized)
        _tell(write_mirror(mirror, copies, url, files, urls), name)
    return mirror


def _of_tars(pattern: str, copies: Copies, fresh: bool) -> Path:
    mirror = copies.folder.parent / mirror_name(pattern)
    folder, _, last = pattern.partition("?")[0].rpartition("/")
    with _turn(mirror):
        if not _serves(mirror, copies, fresh):
            urls = {Path(url.partition("?")[0]).name: url for url in expand(pattern)}
            files = _look_at_all(urls)
            if missing := [name for name in urls if name not in files]:
                of = f"{len(missing)} of {len(urls)} tars, such as " if len(urls) > 1 else ""
                raise DataError(f"no {of}{shown(folder)}/{missing[0]}: set data.root to what is there")
            _tell(write_mirror(mirror, copies, folder, files, urls), shown(pattern))
    return mirror / last


def _of_list(file: str, copies: Copies, fresh: bool) -> Path:
    """A list as it is, or, where it names URLs or is one, rewritten into a mirror of its clips."""
    remote = is_url(file)
    if not remote and not Path(file).is_file():
        return Path(file)  # whoever reads it tells
    with local_copy(file, copies, check=True) as copy:
        rows = read_rows(copy, shown(file))
        of = hashlib.blake2b(copy.read_bytes()).hexdigest()
    column = next((name for name in PATHS if name in rows[0]), None)
    if not remote and not any(is_url(str(row.get(column))) for row in rows if column):
        return Path(file)
    name = Path(urlsplit(file).path if remote else file).name
    folder = file.partition("?")[0].rpartition("/")[0] if remote else ""
    if column is None:  # as of Kinetics: clips are searched for by their names
        return _of_folder(folder, copies, fresh) / name
    mirror = copies.folder.parent / mirror_name(file)
    with _turn(mirror):
        if not fresh and read_facts(mirror).get("of") == of and _serves(mirror, copies, fresh, always=True):
            return mirror / name
        urls: dict[str, str] = {}
        places: list[str] = []
        for row in rows:
            place = str(row.get(column) or "")
            if place and (remote or is_url(place)):
                url = _join(file, place) if remote else place
                place = _name_here(url, folder)
                while urls.setdefault(place, url) != url:
                    place = f"{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}/{place}"
            elif place:
                place = str(Path(file).parent.absolute() / place)
            places.append(place)
        files = _look_at_all(urls)
        write_mirror(mirror, copies, folder, files, urls, of)
        _write_rows(mirror / name, [{**row, column: place} for row, place in zip(rows, places, strict=True)])
    return mirror / name


def _join(file: str, place: str) -> str:
    """The URL of what a remote list names, which may be relative to the list."""
    if is_url(place):
        return place
    if file.startswith(("http://", "https://")):
        return urljoin(file, quote(place, safe="/%"))
    return f"{file.rpartition('/')[0]}/{place}"


def _name_here(url: str, folder: str) -> str:
    """A name for a URL in a mirror: relative to the list's folder, or else host and path."""
    plain = unquote(shown(url))
    if folder and plain.startswith(f"{unquote(shown(folder))}/"):
        plain = plain[len(unquote(shown(folder))) + 1 :]
    parts = [part.lstrip(".") for part in re.split(r"/|::", plain.partition("://")[2] or plain)]
    return "/".join(re.sub(r"[\x00-\x1f]", "", part)[:200] for part in parts if part)


def _write_rows(file: Path, rows: list[Row]) -> None:
    draft = file.with_name(f".{file.name}.partial")
    with draft.open("w", encoding="utf-8", newline="") as out:
        if file.suffix.lower() == ".csv":
            writer = csv.DictWriter(out, list(rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        else:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    draft.replace(file)


def _look_at_all(urls: dict[str, str]) -> dict[str, Identity]:
    """What the stores tell of each file; those that are not there are left out. Raises Unreachable."""

    def look(url: str) -> Identity | None:
        try:
            return look_at(resolve(url))
        except Unreachable:
            raise
        except VideoError:
            return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(
            tqdm(threads.map(look, urls.values()), total=len(urls), desc="list", unit="file", disable=len(urls) < 2)
        )
    return {name: found for name, found in zip(urls, answers, strict=True) if found is not None}


def _serves(mirror: Path, copies: Copies, fresh: bool, always: bool = False) -> bool:
    """Whether a mirror may be used as it is."""
    facts = read_facts(mirror)
    if fresh or not facts or facts["limit"] != copies.limit:
        return False
    return always or 0 <= time.time() - facts["listed"] < SERVES


def _tell(left_out: list[str], name: str) -> None:
    if left_out:
        tqdm.write(f"{len(left_out)} files of {name} are left out, whose names no file here can have: {left_out[0]!r}")


@contextmanager
def _turn(mirror: Path) -> Iterator[None]:
    """One process at a time brings a mirror up to date."""
    mirror.mkdir(parents=True, exist_ok=True)
    handle = os.open(mirror / f"{FACTS}.turn", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
