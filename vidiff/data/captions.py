"""What clips show, in words: the captions of files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from vidiff.data.clip import Clip
from vidiff.data.root import Root
from vidiff.store.error import DataError
from vidiff.store.plain import parse_json
from vidiff.store.tree import Folder, Tree

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
            Further keys, columns and files do no harm.

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
            pairs = [(str(row.get("path")), str(row.get("caption") or "")) for row in root.rows]
        else:
            pairs = list((_read_jsonl if kind == "jsonl" else _read_csv)(tree, name))
    wanted, captions = {clip.name for clip in clips}, dict[str, str]()
    for path, caption in pairs:
        if path not in wanted:
            continue
        if path in captions:
            raise DataError(f"{where} has two captions for {path}: leave one")
        if not caption.strip():
            raise DataError(f"the caption of {path} is empty in {where}: write what the clip shows")
        captions[path] = caption.strip()
    missing = [clip.name for clip in clips if clip.name not in captions]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(clips)} clips have no caption in {where}, such as {missing[0]}: paths there are "
            f"relative to {tree}"
        )
    return [captions[clip.name] for clip in clips]


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
    return PurePosixPath(clip.name).with_suffix(".txt").as_posix()


def _beside(tree: Tree, clip: Clip) -> str:
    """The caption in a clip's own .txt."""
    return " ".join(_text(tree, _text_of(clip)).split())


def _read_jsonl(tree: Tree, name: str) -> Iterable[tuple[str, str]]:
    where = f"{tree}/{name}"
    for number, line in enumerate(_text(tree, name).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            pair = row["path"], row["caption"]
        except (ValueError, LookupError, TypeError):
            pair = None, None
        if not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise DataError(
                f'{where}:{number} is {line[:60]!r}; expected {{"path": "train/a.mp4", "caption": "what it shows"}}'
            )
        yield pair


def _read_csv(tree: Tree, name: str) -> Iterable[tuple[str, str]]:
    where = f"{tree}/{name}"
    rows = csv.DictReader(_text(tree, name).splitlines())
    if not {"path", "caption"} <= set(rows.fieldnames or ()):
        raise DataError(f"{where} has the columns {rows.fieldnames}; expected path,caption in its first line")
    for row in rows:
        if row["caption"] is None or None in row:
            raise DataError(
                f"{where}:{rows.line_num} has {'more' if None in row else 'fewer'} values than the first line has "
                "columns: put a caption that holds a comma in double quotes"
            )
        yield row["path"], row["caption"]
