"""The doctor: looks at every file of a data set once, and tells which cannot be used, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vidiff.data.doctor.examine import NOTES, PROBLEMS, Case, examine
from vidiff.data.doctor.record import Record, read_records, write_records
from vidiff.data.helper import Lost, ask_all
from vidiff.data.lists import LIST_SUFFIXES, find_listed
from vidiff.data.quarantine import Quarantine, place
from vidiff.data.tars import clips_in_tars, is_tars, tars_in, tars_of
from vidiff.store.error import DataError, VideoError
from vidiff.store.mirror import is_there
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader
from vidiff.video.sources import CLIP_SUFFIXES, clips_in, size_and_change


def find_all(root: Path, pictures: bool = False) -> list[Path]:
    """Every clip below a folder, in tars, or that a list names; hidden ones are left out. Raises DataError for none.

    Tars in a folder count where it holds no other clips.

    Args:
        pictures: as of `vidiff.video.sources.clips_in`.
    """
    if is_there(root) and root.suffix.lower() in LIST_SUFFIXES:
        listed, _, _ = find_listed(root, split=None)
        return [root.parent / path for path in dict.fromkeys(path for path, _ in listed)]
    if is_tars(root):
        return clips_in_tars(tars_of(root))
    if not root.is_dir():
        raise DataError(f"no folder {root}: give the folder with your videos, or a list of them")
    found: list[Path] = []
    tars: list[Path] = []
    seen = set()
    for folder, inner, _ in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link to a folder around it
            inner.clear()
            continue
        seen.add(os.path.realpath(folder))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        clips = list(clips_in(Path(folder), pictures))
        found += clips
        tars += tars_in(Path(folder))
        inner[:] = [name for name in inner if Path(folder, name) not in clips]
    found = found or clips_in_tars(tars)
    if not found:
        raise DataError(f"no videos below {root}: expected files named {', '.join(sorted(CLIP_SUFFIXES))}")
    return found


def scan(
    root: Path,
    folder: Path,
    quarantine: Quarantine,
    whole: bool = False,
    processes: int = 2,
    patience: float = 60.0,
    pictures: bool = False,
    look: Callable[[Case], Record] = examine,
    progress: bool = True,
) -> list[Record]:
    """Look at every clip below a folder, or of a list, that has changed since the last scan.

    Args:
        folder: index.jsonl and index.parquet go here; an interrupted scan leaves what it has found.
        quarantine: is brought up to date.
        whole: read every frame also of files with more than `LONG`.
        processes: that decode.
        patience: seconds after which a decoder counts as hanging.
        pictures: as of `find_all`.

    Returns:
        a record of each file, sorted by path.
    """
    clips = find_all(root, pictures)
    root = root if root.is_dir() else root.parent
    paths = {(path.relative_to(root) if path.is_relative_to(root) else path).as_posix(): path for path in clips}
    earlier = read_records(folder / "index.jsonl")
    held = quarantine.held(paths.values())
    records: dict[str, Record] = {}
    cases = []
    for name, path in paths.items():
        known = earlier.get(name)
        if known and (known.problem in ("hang", "crash", "unreachable") or (known.readable and path in held)):
            known = None  # it may be a matter of patience, or of the network; or training could not read it
        if known and whole and known.read < known.frames:
            known = None
        if known and _unchanged(path, known):
            records[name] = known
        else:
            cases.append(Case(path, name, known, whole))
    looked_at: dict[str, str | None] = {}
    try:
        with closing(ask_all(cases, look, processes, patience)) as answers:
            for case, found in tqdm(answers, total=len(cases), desc="doctor", unit="file", disable=not progress):
                if isinstance(found, Lost):
                    problem = "hang" if found.hung else "crash"
                    found = Record(case.name, problem=problem, reason=f"{PROBLEMS[problem][0]}: {found.reason}")
                records[case.name] = found
                looked_at[place(case.path)] = None
    finally:
        write_records(folder, records.values())
        looked_at |= {place(paths[name]): each.reason for name, each in records.items() if each.held_back}
        gone = (earlier.keys() - paths.keys()) if len(records) == len(paths) else ()
        quarantine.replace({**{place(root / name): None for name in gone}, **looked_at})
    return [records[name] for name in sorted(records)]


def _unchanged(path: Path, known: Record) -> bool:
    return size_and_change(path) == (known.bytes, known.changed)


def summarise(records: Sequence[Record]) -> list[str]:
    """What was found, and what to do next, in lines of plain words."""
    broken = [record for record in records if not record.readable]
    hours = sum(record.duration for record in records if record.readable) / 3600
    lines = [f"{len(records)} files: {len(records) - len(broken)} readable ({hours:.2g} hours), {len(broken)} left out"]
    for problem, count in Counter(record.problem for record in broken).most_common():
        lines.append(f"  {count:6}  {PROBLEMS[problem][0]}: {PROBLEMS[problem][1]}")
    notes = Counter(note.partition(":")[0] for record in records for note in record.notes)
    if notes:
        lines.append("kept, but worth knowing:")
        lines += [f"  {count:6}  {note}: {NOTES[note]}" for note, count in notes.most_common()]
    return lines


def thumbnails(paths: Sequence[Path], size: int, frames: int, patience: float = 60.0) -> dict[Path, np.ndarray]:
    """Frames of files as a model of this `size` sees them, evenly chosen: uint8 `(frames, size, size, 3)` of each."""
    look = partial(_thumbnail, size=size, frames=frames)
    with closing(ask_all(paths, look, processes=1, patience=patience)) as answers:
        return {path: found for path, found in answers if isinstance(found, np.ndarray)}


def _thumbnail(path: Path, size: int, frames: int) -> np.ndarray | None:
    try:
        with VideoReader(path) as reader:
            fit = Fit(reader.size, (size, size))
            chosen = [round(i * (reader.frames - 1) / max(frames - 1, 1)) for i in range(frames)]
            pixels = reader.pixels(chosen, fit.resize)
    except VideoError:
        return None
    return fit.crop(pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
