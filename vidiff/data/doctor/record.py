"""What the doctor found out about each file, kept as JSON lines, and as Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path

from vidiff.data.probe import Facts
from vidiff.store.plain import parse_json

VERSION = 2  # goes up when the same file comes to be told of differently


@dataclass(frozen=True)
class Record:
    """One file.

    Args:
        path: relative to the data set's folder, with forward slashes.
        bytes, changed: its size, and the time of its last change in ns.
        fingerprint: of `vidiff.data.probe.fingerprint`.
        problem: why it is left out, a key of `vidiff.data.doctor.scan.PROBLEMS`; empty for a readable file.
        reason: the same in words, with this file's figures.
        notes: what is uncommon about it and yet no reason to leave it out; a key of `NOTES`, ": ", and its figures.
        frames, fps, height, width: as training sees them; size in pixels, after rotation.
        codec, pixel_format, bits, rotation, declared, key_frames, key_spacing, duration: of
            `vidiff.data.doctor.container.Container`.
        read: number of frames that were decoded.
        decoder: that reads it.
    """

    path: str
    bytes: int = 0
    changed: int = 0
    fingerprint: str = ""
    problem: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    pixel_format: str = ""
    bits: int = 0
    rotation: int = 0
    declared: int = 0
    key_frames: int = 0
    key_spacing: int = 0
    duration: float = 0.0
    read: int = 0
    decoder: str = ""

    @property
    def readable(self) -> bool:
        return not self.problem

    @property
    def held_back(self) -> bool:
        """Whether training is to leave the file out: not if it could only not be fetched this time."""
        return self.problem not in ("", "unreachable")

    @property
    def facts(self) -> Facts:
        """What the index of a training keeps of a readable file."""
        return Facts(self.frames, self.fps, self.height, self.width, self.fingerprint, self.decoder)


def read_records(file: Path) -> dict[str, Record]:
    """The records of an earlier scan by path; none where there is none, or it is of another version."""
    if not file.is_file():
        return {}
    names = {each.name for each in fields(Record)}
    found = {}
    try:
        for line in file.read_text().splitlines():
            content = parse_json(line)
            if content.pop("version") == VERSION and content.keys() == names:
                found[content["path"]] = Record(**content)
    except (ValueError, TypeError, LookupError, AttributeError):
        pass  # damaged from here on: those files are looked at again
    return found


def write_records(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Writes index.jsonl, and index.parquet where pyarrow is installed. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"version": VERSION, **asdict(record)} for record in sorted(records, key=lambda record: record.path)]
    files = [folder / "index.jsonl"]
    draft = folder / ".index.partial"
    try:
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
        draft.replace(files[0])
        if rows and find_spec("pyarrow"):
            import pyarrow
            import pyarrow.parquet

            for row in rows:  # a name that is no UTF-8 cannot be a string of Parquet
                row["path"] = str(row["path"]).encode(errors="backslashreplace").decode()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), draft)
            files.append(folder / "index.parquet")
            draft.replace(files[1])
    finally:
        draft.unlink(missing_ok=True)
    return files
