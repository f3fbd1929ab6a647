"""What `data.root` names: a folder, a list, or tars, here or by URL. A store is asked once an hour what there is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from tqdm import tqdm

from vidiff.data.clip import ABOUT
from vidiff.data.lists import ACTIONS, LIST_SUFFIXES, PATHS, Row, column_of, read_rows
from vidiff.data.tars import PACKED, expand
from vidiff.store.copies import Copies, local_copy
from vidiff.store.error import DataError, Unreachable, VideoError
from vidiff.store.files import claimed, draft_of
from vidiff.store.place import Place, Remote
from vidiff.store.plain import parse_json
from vidiff.store.remote import Identity, find_below, is_url, look_at, resolve, shown
from vidiff.store.tree import Folder, Listed, Tree
from vidiff.video.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES

GIGABYTES = 50.0  # of copies, unless a config says otherwise
SERVES = 3600.0  # seconds for which a listing is not made anew
AT_ONCE = 16  # questions to a store
LEROBOT = ("meta/info.json", "meta/stats.json")
TEXTS = frozenset({".txt", ".csv", ".jsonl", ".tar"})  # lists and captions, and what holds clips


@dataclass(frozen=True)
class Root:
    """A data set before it is searched.

    Args:
        tree: the folder that names of clips are relative to.
        name: in that, of a list, or the name or pattern of tars; "" for the folder itself.
        rows: of a list; None where it is not there.
    """

    tree: Tree
    name: str = ""
    rows: list[Row] | None = None

    def __str__(self) -> str:
        return f"{self.tree}/{self.name}" if self.name else str(self.tree)


def local(path: str | Path) -> Path:
    """A path on this machine, of which ~ at its beginning is the home folder: no shell makes it that after a =."""
    return Path(os.path.expanduser(path))


def copies_of(runs: Path, gigabytes: float = GIGABYTES) -> Copies:
    """Where a folder of runs keeps its copies of remote files."""
    return Copies(runs / "remote" / "copies", round(gigabytes * 1e9))


def name_of(root: str | Path) -> str:
    """A short name for a data set, which files about it can have."""
    if not is_url(root):
        return local(root).resolve().name
    url = str(root)
    last = re.sub(r"\W+", "-", Path(urlsplit(shown(url)).path).name or urlsplit(shown(url)).netloc).strip("-")
    return f"{last or 'remote'}-{_short(url)}"


def _short(text: str) -> str:
    """A hash of eight digits, of any name that a file may have."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).hexdigest()


def root_of(root: str | Path, copies: Copies, fresh: bool = False) -> Root:
    """What a path or URL names. Files elsewhere are fetched when they are first opened.

    Args:
        root: a path; or a URL that fsspec opens: of a folder, of a list (.csv, .jsonl; a local list may name URLs as
            well), or of tars, also as a pattern such as s3://bucket/clips-{000..009}.tar.
        fresh: ask the store what there is even if that was done within the hour.

    Raises:
        DataError: nothing there, or nothing named. ValueError: as `vidiff.store.remote.resolve` and `find_below`.
    """
    if not str(root).strip():
        raise DataError("data.root is empty: give the folder of your videos, a list of them, or . for this folder")
    here = None if is_url(root) else local(root)
    text = str(here or root)
    if here and here.is_dir():
        return Root(Folder(here))
    if (here or Path(urlsplit(text).path)).suffix.lower() in LIST_SUFFIXES:
        return _of_list(text, copies, fresh)
    last = here.name if here else text.rpartition("/")[2].partition("?")[0]
    packed = last.endswith(".tar") or bool(PACKED.search(last))
    if here:
        return Root(Folder(here.parent), here.name) if packed else Root(Folder(here))
    if packed:
        return _of_tars(text, copies, fresh)
    return Root(_of_folder(text.rstrip("/") if not text.endswith("://") else text, copies, fresh))


def _of_folder(url: str, copies: Copies, fresh: bool) -> Listed:
    def ask() -> Found:
        address = resolve(url)
        top = address.path.rstrip("/")
        by_http = url.startswith(("http://", "https://"))
        files, urls = dict[str, Identity](), dict[str, str]()
        for full, known in find_below(address).items():
            inner = full.removeprefix(top).lstrip("/")
            inner = unquote(inner, errors="surrogateescape") if by_http else inner
            if "?" not in inner and not any(part.startswith(".") for part in inner.split("/")):
                files[inner] = known
                if by_http:
                    urls[inner] = full
        of_use = {inner for inner in files if Path(inner).suffix.lower() in CLIP_SUFFIXES | PICTURE_SUFFIXES | TEXTS}
        if not of_use:
            raise DataError(f"no videos, lists or tars below {address.shown}: set data.root to where they are")
        of_use |= {inner for inner in files if inner.endswith((".actions.npy", ".parquet", ABOUT, *LEROBOT))}
        files |= _look_at_all({inner: urls[inner] for inner in sorted(of_use & urls.keys()) if files[inner].size < 0})
        return files, urls

    return _listed(url, url, copies, fresh, "", ask)


def _of_tars(pattern: str, copies: Copies, fresh: bool) -> Root:
    folder, _, last = pattern.partition("?")[0].rpartition("/")

    def ask() -> Found:
        urls = {Path(url.partition("?")[0]).name: url for url in expand(pattern)}
        files = _look_at_all(urls)
        if missing := [name for name in urls if name not in files]:
            of = f"{len(missing)} of {len(urls)} tars, such as " if len(urls) > 1 else ""
            raise DataError(f"no {of}{shown(folder)}/{missing[0]}: set data.root to what is there")
        return files, urls

    return Root(_listed(pattern, folder, copies, fresh, "", ask), last)


def _of_list(file: str, copies: Copies, fresh: bool) -> Root:
    """A list; where it names URLs, or is one, its rows name clips as the tree does."""
    remote = is_url(file)
    folder, name = (file.partition("?")[0].rpartition("/")[0], Path(urlsplit(file).path).name) if remote else ("", "")
    path = Path(file)
    if not remote and not path.is_file():
        return Root(Folder(path.parent), path.name)  # whoever reads it tells
    with local_copy(file, copies, check=True) as copy:
        rows = read_rows(Place(shown(file), copy))
        of = hashlib.blake2b(copy.read_bytes()).hexdigest()
    column = column_of(rows[0], PATHS)
    named = [column, ACTIONS] if column else []
    if not remote and not any(is_url(str(row.get(name))) for row in rows for name in named):
        return Root(Folder(path.parent), path.name, rows)
    if column is None:  # as of Kinetics: clips are searched for by their names
        return Root(_of_folder(folder, copies, fresh), name, rows)
    urls: dict[str, str] = {}

    def renamed(named: str) -> str:
        if named and (remote or is_url(named)):
            url = _join(file, named) if remote else named
            named = _name_here(url, folder)
            while urls.setdefault(named, url) != url:
                named = f"{_short(url)}/{named}"
            return named
        return str(path.parent.absolute() / named) if named else ""

    rows = [{**row, **{key: renamed(str(row.get(key) or "")) for key in named if key in row}} for row in rows]
    if remote and ACTIONS in rows[0]:
        renamed(ABOUT)
    tree = _listed(file, folder, copies, fresh, of, lambda: (_look_at_all(urls), urls))
    return Root(tree, name or path.name, rows)


def _join(file: str, clip: str) -> str:
    """The URL of what a remote list names, which may be relative to the list."""
    if is_url(clip):
        return clip
    if file.startswith(("http://", "https://")):
        return urljoin(file, quote(clip, safe="/%", errors="surrogateescape"))
    return f"{file.rpartition('/')[0]}/{clip}"


def _name_here(url: str, folder: str) -> str:
    """A name for a URL in a tree: relative to the list's folder, or else host and path."""
    plain, above = (unquote(shown(text), errors="surrogateescape") for text in (url, folder))
    if folder and plain.startswith(f"{above}/"):
        plain = plain[len(above) + 1 :]
    parts = [part.lstrip(".") for part in re.split(r"/|::", plain.partition("://")[2] or plain)]
    return "/".join(re.sub(r"[\x00-\x1f]", "", part)[:200] for part in parts if part)


Found = tuple[dict[str, Identity], dict[str, str]]  # by name, what is known of each file, and its URL if of its own


def _listed(root: str, folder: str, copies: Copies, fresh: bool, of: str, ask: Callable[[], Found]) -> Listed:
    """The tree of what `ask` finds, which is kept beside the copies, in a file that its owner alone may read.

    Args:
        folder: the URL of the files without one of their own.
        of: what the files were found by; as long as that is the same, they are not asked for anew.
    """
    kept = copies.folder.parent / f"{name_of(root) if is_url(root) else _name_of_list(root)}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with claimed(kept.with_suffix(".turn")):
        content = {} if fresh else _read(kept)
        serves = bool(of) or 0 <= time.time() - content.get("listed", 0.0) < SERVES
        if not (content and content["of"] == of and serves):
            files, urls = ask()
            content = {"of": of, "listed": time.time(), "urls": urls, "files": files}
            with draft_of(kept) as draft:
                draft.touch(0o600)  # URLs may be secret
                draft.write_text(json.dumps(content))
    urls, name = content["urls"], shown(folder) if folder else str(Path(root).parent)
    places, left_out = dict[str, Place](), []
    proper = {file for file in content["files"] if _is_proper(file)}
    folders = {"/".join(parts[:end]) for parts in (n.split("/") for n in proper) for end in range(1, len(parts))}
    for file, known in content["files"].items():
        if file not in proper or file in folders:  # as S3 may have both
            left_out.append(file)
            continue
        remote = Remote(urls.get(file, folder), "" if file in urls else file, Identity(*known), copies)
        here = name if folder else f"{remote.url.partition('://')[0]}:/"
        places[file] = Place(f"{here}/{file}", remote=remote)
    if left_out:
        tqdm.write(f"{len(left_out)} files of {name} are left out, whose names no file here can have: {left_out[0]!r}")
    return Listed(name, places)


def _name_of_list(file: str) -> str:
    path = Path(file).resolve()
    return f"{path.stem}-{_short(str(path))}"


def _read(kept: Path) -> Mapping[str, Any]:
    try:
        return parse_json(kept.read_bytes())
    except (OSError, ValueError):
        return {}


def _is_proper(name: str) -> bool:
    """Whether a file on this machine could have this name, so that no other part of the data is named by it."""
    parts = name.split("/")
    return all(part and not part.startswith(".") and len(os.fsencode(part)) < 250 for part in parts) and all(
        ord(letter) >= 32 for letter in name
    )


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
