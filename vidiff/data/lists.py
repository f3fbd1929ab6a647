"""Data sets that a file lists: CSV (Kinetics' columns, or path and label), and JSON lines."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidiff.store.error import DataError
from vidiff.store.mirror import held
from vidiff.store.plain import parse_json
from vidiff.video.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES

LIST_SUFFIXES = frozenset({".csv", ".jsonl"})
PATHS = ("path", "file_name", "video")  # columns that name a clip
KINETICS = ("youtube_id", "time_start", "time_end")

Row = dict[str, Any]
Place = Callable[[Row], Path | None]


def find_listed(file: Path, split: str | None) -> tuple[list[tuple[str, int]], list[str], bool]:
    """The clips of a split that a file lists, in its order.

    A row names its clip by a column path, file_name or video, relative to the list's folder, or by Kinetics' columns
    youtube_id, time_start and time_end: then `<id>_<start>_<end>` with six digits each is searched for in all folders
    around the list. label and split are optional. Clips that are not there are counted and told.

    Args:
        split: take rows of this one; None for all, of whichever split.

    Returns:
        (path relative to the list's folder, label) of each, the labels' names, and whether the rows name splits.

    Raises:
        DataError: where the file cannot be read, has other columns or no such split, or none of its clips is there.
    """
    rows = read_rows(file)
    columns = rows[0].keys()
    if named := next((name for name in PATHS if name in columns), None):
        place = _by_path(file, named)
    elif all(name in columns for name in KINETICS):
        place = _by_kinetics(file)
    else:
        raise DataError(
            f"{file} has the columns {', '.join(columns)}: name each clip in a column path, or as Kinetics does in "
            f"{', '.join(KINETICS)}"
        )
    labels = sorted({str(row["label"]) for row in rows if row.get("label") not in (None, "")})
    numbers = {name: number for number, name in enumerate(labels)}
    splits = list(dict.fromkeys(str(row["split"]) for row in rows if row.get("split")))
    if split is not None and splits:
        if split not in splits:
            raise DataError(
                f"{file} has no rows of split {split!r}, but of {', '.join(splits)}: name one of them as data.split "
                "or data.test_split"
            )
        rows = [row for row in rows if row.get("split") == split]
    found, missing = [], []
    for row in rows:
        path = place(row)
        if path is None:
            missing.append(str(row.get(named or "youtube_id")))
        else:
            found.append((path.as_posix(), numbers.get(str(row.get("label")), -1)))
    if not found:
        raise DataError(f"none of the {len(missing)} clips that {file} lists is there, such as {missing[0]}")
    if missing:
        tqdm.write(f"{len(missing)} of {len(rows)} clips that {file} lists are not there, such as {missing[0]}")
    return found, labels, bool(splits)


def read_rows(file: Path, name: str = "") -> list[Row]:
    """The rows of a list, with lower-case keys. Raises DataError, which calls it by `name`, where it cannot be read."""
    name = name or str(file)
    try:
        with held(file) as copy, copy.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                rows: list[Row] = list(csv.DictReader(lines, skipinitialspace=True))
            else:
                rows = [parse_json(line) for line in lines if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{name} cannot be read as {file.suffix.lower()[1:]}: {error}") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name} lists no clips: expected a header and a row for each, or an object a line")
    return [{str(key).strip().lower(): value for key, value in row.items() if key is not None} for row in rows]


def _by_path(file: Path, column: str) -> Place:
    def place(row: Row) -> Path | None:
        path = Path(str(row.get(column)))
        return path if row.get(column) and os.path.lexists(file.parent / path) else None

    return place


def _by_kinetics(file: Path) -> Place:
    there: dict[str, Path] = {}
    for folder, inner, names in os.walk(file.parent):
        inner.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in CLIP_SUFFIXES | PICTURE_SUFFIXES:
                there.setdefault(Path(name).stem, Path(folder, name).relative_to(file.parent))

    def place(row: Row) -> Path | None:
        try:
            start, end = (int(float(row[key])) for key in KINETICS[1:])
        except (TypeError, ValueError):
            raise DataError(f"{file}: time_start and time_end of {row['youtube_id']!r} are not numbers") from None
        return there.get(f"{row['youtube_id']}_{start:06d}_{end:06d}")

    return place
