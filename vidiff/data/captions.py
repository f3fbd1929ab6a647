"""What clips show, in words: the captions of files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from vidiff.data.clip import Clip, stem_of
from vidiff.data.lists import MORE, PATHS, Row, column_of, parse_rows
from vidiff.data.root import Root
from vidiff.store.error import DataError
from vidiff.store.tree import Folder, Tree

TEXTS = ("caption", "text")  # columns that hold the caption; the first that is there
EXAMPLE = '{"path": "train/a.mp4", "caption": "what it shows"}'
SOURCES = ("auto", "jsonl", "txt", "csv")
WANTED = (
    'captions.jsonl in {root}, with lines such as {{"path": "train/a.mp4", "caption": "..."}}, or captions.csv with '
    "the columns path and caption, or a .txt of its name beside each clip"
)


def read_captions(root: Root, clips: Sequence[Clip], kind: str = "auto") -> list[str]:
    """The caption of each clip of a data set.

    Args:
        root: the data set.
        kind: "jsonl": `captions.jsonl` in its folder, a line {"path": ..., "caption": ...} for each clip; "txt": a file
            of the same name that ends in .txt beside each clip, in a tar also "caption" of its .json; "csv":
            `captions.csv` in the folder, with the columns path and caption. "auto": the first of these that is there.
            Keys and columns may be called as those of a list, and text in place of caption. Further ones, and further
            files, do no harm. A line break within a caption is a space, as is any run of spaces.

    Raises:
        DataError: a caption that is missing, empty, not text, or there twice; a file that cannot be read as said.
    """
    if kind not in SOURCES:
        raise DataError(f"data.captions is {kind!r}; choose {', '.join(SOURCES)}")
    tree = root.tree
    if kind == "auto":
        kind = _find(root, clips)
    if kind == "txt":
        pairs = [(clip.name, _beside(tree, clip) if clip.caption is None else clip.caption) for clip in clips]
        where = "the .txt beside it"
    else:
        name = f"captions.{kind}"
        where = f"{tree}/{name}"
        if name == root.name and root.rows and not isinstance(tree, Folder):  # elsewhere: rows name clips as it does
            pairs = [(str(path), str(caption or "")) for path, caption in map(_pair, root.rows)]
        else:
            pairs = list(_listed(tree, name))
    wanted, captions = {clip.name for clip in clips}, dict[str, str]()
    for path, caption in pairs:
        if path not in wanted:
            continue
        if path in captions:
            raise DataError(f"{where} has two captions for {path}: leave one")
        captions[path] = " ".join(caption.split())
        if not captions[path]:
            raise DataError(f"the caption of {path} is empty in {where}: write what the clip shows")
    missing = [clip.name for clip in clips if clip.name not in captions]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(clips)} clips have no caption in {where}, such as {missing[0]}: paths there are "
            f"relative to {tree}"
        )
    return [captions[clip.name] for clip in clips]


def has_captions(root: Root, clips: Sequence[Clip]) -> bool:
    """Whether a data set has captions, of some of its clips at least."""
    try:
        _find(root, clips)
    except DataError:
        return False
    return True


def _find(root: Root, clips: Sequence[Clip]) -> str:
    tree = root.tree
    if _is_file(tree, "captions.jsonl") or (root.rows and root.name == "captions.jsonl"):
        return "jsonl"
    if any(clip.caption or _is_file(tree, _text_of(clip)) for clip in clips):
        return "txt"
    if _is_file(tree, "captions.csv") or (root.rows and root.name == "captions.csv"):
        return "csv"
    raise DataError(f"no captions in {tree}, which a model with text needs: expected {WANTED.format(root=tree)}")


def _is_file(tree: Tree, name: str) -> bool:
    place = tree.place(name)
    return place is not None and not place.is_folder


def _text(tree: Tree, name: str) -> str:
    place = tree.place(name)
    if place is None:
        raise DataError(f"no {tree}/{name}: write it, or choose another source with data.captions")
    try:
        return place.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def _text_of(clip: Clip) -> str:
    return f"{stem_of(clip.name)}.txt"


def _beside(tree: Tree, clip: Clip) -> str:
    """The caption in a clip's own .txt."""
    return _text(tree, _text_of(clip))


def _listed(tree: Tree, name: str) -> Iterable[tuple[str, str]]:
    """Path and caption of each row of a file of captions. Raises DataError for a row that lacks either."""
    where, kind = f"{tree}/{name}", PurePosixPath(name).suffix[1:]
    text = _text(tree, name)
    if kind == "csv":
        header = next(csv.reader(io.StringIO(text, newline="")), None)
        if not all(column_of(map(str.lower, map(str.strip, header or ())), names) for names in (PATHS, TEXTS)):
            raise DataError(f"{where} has the columns {header}; expected path,caption in its first line")
    try:
        rows = list(parse_rows(text, kind))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{where}: {error}; expected {EXAMPLE if kind == 'jsonl' else 'path,caption'}") from None
    for number, row in rows:
        if kind == "csv" and (odd := "more" if MORE in row else "fewer" if None in row.values() else ""):
            raise DataError(
                f"{where}:{number} has {odd} values than the first line has columns: put a caption that holds a comma "
                "in double quotes"
            )
        path, caption = _pair(row)
        if not (isinstance(path, str) and isinstance(caption, str)):
            raise DataError(f"{where}:{number} is {json.dumps(row)[:60]}; expected {EXAMPLE}")
        yield path, caption


def _pair(row: Row) -> tuple[Any, Any]:
    """The path that a row names, and its caption; None where it has none."""
    path, caption = column_of(row, PATHS), column_of(row, TEXTS)
    return row[path] if path else None, row[caption] if caption else None
