"""What clips show, in words: the captions of files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from vidiff.store.error import DataError
from vidiff.store.mirror import held, is_there
from vidiff.store.plain import parse_json
from vidiff.store.spans import member_of
from vidiff.store.tar import split_path

SOURCES = ("auto", "jsonl", "txt", "csv")
WANTED = (
    'captions.jsonl in {root}, with lines such as {{"path": "train/a.mp4", "caption": "..."}}, or captions.csv with '
    "the columns path and caption, or a .txt of its name beside each clip"
)


def read_captions(root: str | Path, paths: Sequence[str], source: str = "auto") -> list[str]:
    """The caption of each file of a data set.

    Args:
        root: the data set's folder.
        paths: of the files, relative to it.
        source: "jsonl": `captions.jsonl` in the root, a line {"path": ..., "caption": ...} for each file; "txt": a file
            of the same name that ends in .txt beside each clip, in a tar also "caption" of its .json; "csv":
            `captions.csv` in the root, with the columns path and caption. "auto": the first of these that is there.
            Further keys, columns and files do no harm.

    Raises:
        DataError: a caption that is missing, empty, not text, or there twice; a file that cannot be read as said.
    """
    root = Path(root)
    if source not in SOURCES:
        raise DataError(f"data.captions is {source!r}; choose {', '.join(SOURCES)}")
    if source == "auto":
        source = _find(root, paths)
    if source == "txt":
        pairs = [(path, _beside(root / path)) for path in paths]
        origin = "the .txt beside it"
    else:
        file = root / f"captions.{source}"
        pairs = list((_read_jsonl if source == "jsonl" else _read_csv)(file))
        origin = str(file)
    wanted, captions = set(paths), dict[str, str]()
    for path, caption in pairs:
        if path not in wanted:
            continue
        if path in captions:
            raise DataError(f"{origin} has two captions for {path}: leave one")
        if not caption.strip():
            raise DataError(f"the caption of {path} is empty in {origin}: write what the clip shows")
        captions[path] = caption.strip()
    missing = [path for path in paths if path not in captions]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} clips have no caption in {origin}, such as {missing[0]}: paths there are "
            f"relative to {root}"
        )
    return [captions[path] for path in paths]


def _find(root: Path, paths: Sequence[str]) -> str:
    if is_there(root / "captions.jsonl"):
        return "jsonl"
    if any(_has_text_beside(root / path) for path in paths):
        return "txt"
    if is_there(root / "captions.csv"):
        return "csv"
    raise DataError(f"no captions in {root}, which a model with text needs: expected {WANTED.format(root=root)}")


def _text(path: Path) -> str:
    try:
        with held(path) as file:
            return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no {path}: write it, or choose another source with data.captions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def _has_text_beside(clip: Path) -> bool:
    if split_path(clip) is not None:
        return bool(member_of(clip).caption)
    return is_there(clip.with_suffix(".txt"))


def _beside(clip: Path) -> str:
    """The caption in a clip's own .txt, or that of its sample in a tar."""
    if split_path(clip) is not None:
        return member_of(clip).caption
    return " ".join(_text(clip.with_suffix(".txt")).split())


def _read_jsonl(path: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            pair = entry["path"], entry["caption"]
        except (ValueError, LookupError, TypeError):
            pair = None, None
        if not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise DataError(
                f'{path}:{number} is {line[:60]!r}; expected {{"path": "train/a.mp4", "caption": "what it shows"}}'
            )
        yield pair


def _read_csv(path: Path) -> Iterable[tuple[str, str]]:
    rows = csv.DictReader(_text(path).splitlines())
    if not {"path", "caption"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path} has the columns {rows.fieldnames}; expected path,caption in its first line")
    for row in rows:
        if row["caption"] is None or None in row:
            raise DataError(
                f"{path}:{rows.line_num} has {'more' if None in row else 'fewer'} values than the first line has "
                "columns: put a caption that holds a comma in double quotes"
            )
        yield row["path"], row["caption"]
