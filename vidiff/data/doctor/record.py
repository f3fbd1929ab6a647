"""What the doctor found out about each file, kept as JSON lines, and as Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path

from vidiff.data.clip import FACTS, Clip, from_json
from vidiff.store.files import draft_of, write_whole
from vidiff.store.place import Place, Stamp
from vidiff.store.plain import parse_json

VERSION = 5  # goes up when the same file comes to be told of differently


@dataclass(frozen=True, slots=True)
class Record(Clip):
    """A clip, and what the doctor found out about it; its length and size as training sees it, after rotation.

    Args:
        problem: why it is left out, a key of `vidiff.data.doctor.scan.PROBLEMS`; empty for a readable file.
        reason: the same in words, with this file's figures.
        notes: what is uncommon about it and yet no reason to leave it out; a key of `NOTES`, ": ", and its figures.
        codec, pixel_format, bits, rotation, declared, key_frames, key_spacing, duration: of
            `vidiff.data.doctor.container.Container`.
        read: number of frames that were decoded.
        moves: share of the pixels that differ from the clip's still background; None for fewer than three frames.
    """

    problem: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    codec: str = ""
    pixel_format: str = ""
    bits: int = 0
    rotation: int = 0
    declared: int = 0
    key_frames: int = 0
    key_spacing: int = 0
    duration: float = 0.0
    read: int = 0
    moves: float | None = None

    @property
    def readable(self) -> bool:
        return not self.problem

    @property
    def held_back(self) -> bool:
        """Whether training is to leave the file out: not if it could only not be fetched this time."""
        return self.problem not in ("", "unreachable")


FOUND = (*FACTS, *(own.name for own in fields(Record) if own.name not in Clip.__dataclass_fields__))


def read_records(file: Path) -> dict[str, Record]:
    """The records of an earlier scan by name; none where there is none, or it is of another version."""
    if not file.is_file():
        return {}
    records = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            content = parse_json(line)
            if content.pop("version") == VERSION:
                name, stamp = content.pop("path"), Stamp(content.pop("bytes"), content.pop("changed"))
                if content.keys() == {*FOUND}:
                    records[name] = Record(name, Place(name), stamp=stamp, **from_json(content))
    except (ValueError, TypeError, LookupError, AttributeError):
        pass  # damaged from here on: those files are looked at again
    return records


def write_records(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Writes index.jsonl, and index.parquet where pyarrow is installed. Returns the files."""
    rows = [
        {"version": VERSION, "path": record.name, "bytes": record.stamp.size, "changed": record.stamp.changed}
        | {key: getattr(record, key) for key in FOUND}
        for record in sorted(records, key=lambda record: record.name)
    ]
    files = [folder / "index.jsonl"]
    write_whole(files[0], "".join(json.dumps(row) + "\n" for row in rows))
    if rows and find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        for row in rows:  # a name that is no UTF-8 cannot be a string of Parquet
            row["path"] = str(row["path"]).encode(errors="backslashreplace").decode()
        files.append(folder / "index.parquet")
        with draft_of(files[1]) as draft:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), draft)
    return files
