"""Data sets that a file lists: CSV (Kinetics' columns, or path and label), and JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from vidiff.data.clip import ActionsAt, Clip, LeftOut
from vidiff.store.error import DataError
from vidiff.store.place import Place
from vidiff.store.plain import parse_json
from vidiff.store.tree import Tree
from vidiff.video.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES

LIST_SUFFIXES = frozenset({".csv", ".jsonl"})
PATHS = ("path", "file_name", "video", "file")  # columns that name a clip; the first that is there
ACTIONS = "actions"  # column that names the file of what was done in a clip
MORE = "values beyond the columns"  # the key of such, of a CSV row
KINETICS = ("youtube_id", "time_start", "time_end")

Row = dict[str, Any]
NameOf = Callable[[Row], str | None]


def find_listed(tree: Tree, file: str, rows: list[Row]) -> tuple[dict[str, list[Clip]], list[str], list[LeftOut]]:
    """The clips that a file lists, in its order.

    A row names its clip by a column path, file_name, video or file, relative to the list's folder, or by Kinetics'
    columns youtube_id, time_start and time_end: then `<id>_<start>_<end>` with six digits each is searched for in all
    folders around the list. label and split are optional, and so is actions, a file with what was done in the clip.

    Args:
        file: how messages call the list.

    Returns:
        the clips of each split, all under "" where no row names one; the labels' names; and what is left out.

    Raises:
        DataError: where the list has other columns, or none of its clips is there.
    """
    columns = rows[0].keys()
    if named := column_of(columns, PATHS):
        name_of: NameOf = lambda row: PurePosixPath(str(row[named])).as_posix() if row.get(named) else None  # noqa: E731
    elif all(name in columns for name in KINETICS):
        name_of = _by_kinetics(tree, file)
    else:
        raise DataError(
            f"{file} has the columns {', '.join(columns)}: name each clip in a column path, or as Kinetics does in "
            f"{', '.join(KINETICS)}"
        )
    labels = sorted({str(row["label"]) for row in rows if row.get("label") not in (None, "")})
    numbers = {name: number for number, name in enumerate(labels)}
    splits: dict[str, list[Clip]] = {str(row["split"]): [] for row in rows if row.get("split")} or {"": []}
    left_out = []
    for row in rows:
        name = name_of(row)
        place = tree.place(name) if name is not None else None
        split = str(row.get("split") or "")
        if name is None or place is None:
            left_out.append(LeftOut(str(row.get(named or "youtube_id")), f"a clip of {file} that is not there"))
        elif split not in splits:
            left_out.append(LeftOut(name, f"a clip without a split, as other rows of {file} have", place=place))
        else:
            actions = ActionsAt(tree.place(str(row[ACTIONS])) if row[ACTIONS] else None) if ACTIONS in row else None
            splits[split].append(Clip(name, place, numbers.get(str(row.get("label")), -1), actions=actions))
    if not any(splits.values()):
        raise DataError(f"none of the {len(rows)} clips that {file} lists is there, such as {left_out[0].name}")
    return splits, labels, left_out


def column_of(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The first of these names that is a column; None where none is."""
    there = {*columns}
    return next((name for name in names if name in there), None)


def parse_rows(text: str, kind: str) -> Iterator[tuple[int, Row]]:
    """The rows of a list, each with the number of its last line. Lower-case keys; values that a row lacks are None.

    Lines end as files have it, at LF, CR or both: other characters that may break a line on paper, such as U+2028, are
    part of it, and so is what a CSV file has in quotes, a line break too.

    Args:
        kind: "csv", whose first line names the columns; or "jsonl", an object a line.

    Raises:
        ValueError, csv.Error: for what is neither; it begins with the line's number.
    """
    lines = io.StringIO(text, newline="")
    if kind == "csv":
        rows = csv.DictReader(lines, skipinitialspace=True, restkey=MORE)
        for row in rows:
            yield rows.line_num, {key.strip().lower(): value for key, value in row.items()}
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}, {line.strip()[:60]!r}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}, {line.strip()[:60]!r}: no object")
            yield number, {key.strip().lower(): value for key, value in row.items()}


def read_rows(place: Place) -> list[Row]:
    """The rows of a list, as `parse_rows` has them. Raises DataError where it cannot be read."""
    kind = place.suffix[1:]
    try:
        rows = [row for _, row in parse_rows(place.read().decode("utf-8-sig"), kind)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{place} cannot be read as {kind}: {error}") from None
    if not rows:
        raise DataError(f"{place} lists no clips: expected a header and a row for each, or an object a line")
    return rows


def _by_kinetics(tree: Tree, file: str) -> NameOf:
    there: dict[str, str] = {}
    for _, files, _ in tree.walk():
        for name in files:
            if PurePosixPath(name).suffix.lower() in CLIP_SUFFIXES | PICTURE_SUFFIXES:
                there.setdefault(PurePosixPath(name).stem, name)

    def name_of(row: Row) -> str | None:
        try:
            start, end = (int(float(row[key])) for key in KINETICS[1:])
        except (TypeError, ValueError):
            raise DataError(f"{file}: time_start and time_end of {row['youtube_id']!r} are not numbers") from None
        return there.get(f"{row['youtube_id']}_{start:06d}_{end:06d}")

    return name_of
