"""The doctor: looks at every file of a data set once, and tells which cannot be used, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vidiff.data.clip import Clip
from vidiff.data.doctor.examine import NOTES, PROBLEMS, Case, examine
from vidiff.data.doctor.motion import motion_lines
from vidiff.data.doctor.record import Record, read_records, write_records
from vidiff.data.find import Stock
from vidiff.data.quarantine import Entry, Quarantine
from vidiff.data.workers import Begin, Lost, ask_all
from vidiff.store.error import VideoError
from vidiff.store.place import place_of
from vidiff.store.tree import Folder, Tree
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader
from vidiff.video.sources import stamp_of


def find_all(stock: Stock) -> list[Clip]:
    """Every clip of a data set, also those that lie where a training passes them by; each once, sorted by name."""
    clips = {clip.name: clip for clip in stock.clips}
    strays = (Clip(name, place) for name, _, _, place in stock.left_out if place is not None)
    clips = {**{clip.name: clip for clip in strays}, **clips}
    return [clips[name] for name in sorted(clips)]


def scan(
    stock: Stock,
    folder: Path,
    quarantine: Quarantine,
    whole: bool = False,
    processes: int = 2,
    patience: float = 60.0,
    look: Callable[[Case, Begin], Record] = examine,
    progress: bool = True,
) -> list[Record]:
    """Look at every clip of a data set that has changed since the last scan.

    Args:
        folder: index.jsonl and index.parquet go here; an interrupted scan leaves what it has found.
        quarantine: is brought up to date.
        whole: read every frame also of files with more than `LONG`.
        processes: that decode.
        patience: seconds after which a decoder counts as hanging.

    Returns:
        a record of each clip, sorted by name.
    """
    clips = {clip.name: clip for clip in find_all(stock)}
    earlier = read_records(folder / "index.jsonl")
    held = quarantine.held(clips.values())
    records: dict[str, Record] = {}
    cases = []
    for name, clip in clips.items():
        known = earlier.get(name)
        if known and (known.problem in ("hang", "crash", "unreachable") or (known.readable and name in held)):
            known = None  # it may be a matter of patience, or of the network; or training could not read it
        if known and whole and known.read < sum(part.frames for part in known.sound):
            known = None
        if known and stamp_of(clip.place) == known.stamp:
            records[name] = replace(known, place=clip.place, part=clip.part)
        else:
            cases.append(Case(clip, known, whole))
    looked_at: dict[str, Entry | None] = {}
    try:
        with closing(ask_all(cases, look, processes, patience)) as answers:
            for case, found in tqdm(answers, total=len(cases), desc="doctor", unit="file", disable=not progress):
                if isinstance(found, Lost):
                    problem = "hang" if found.hung else "crash"
                    reason = f"{PROBLEMS[problem][0]}: {found.reason}"
                    found = Record(
                        case.clip.name, case.place, stamp=stamp_of(case.place), problem=problem, reason=reason
                    )
                records[case.clip.name] = found
                looked_at[case.clip.key] = looked_at[case.place.key] = None
    finally:
        write_records(folder, records.values())
        for record in records.values():
            if record.held_back:
                looked_at[clips[record.name].key] = Entry(record.reason, str(record.stamp))
        gone = (earlier.keys() - clips.keys()) if len(records) == len(clips) else ()
        quarantine.replace({**{_key_of(stock.root.tree, name): None for name in gone}, **looked_at})
    return [records[name] for name in sorted(records)]


def _key_of(tree: Tree, name: str) -> str:
    """The key that the place of a clip had which is there no more."""
    return place_of(tree.path / name).key if isinstance(tree, Folder) else f"{tree}/{name}"


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
    return lines + motion_lines([record.moves for record in records if record.readable and record.moves is not None])


def thumbnails(clips: Sequence[Clip], size: int, frames: int, patience: float = 60.0) -> dict[str, np.ndarray]:
    """Frames of clips as a model of this `size` sees them, evenly chosen: uint8 `(frames, size, size, 3)`, by name."""
    look = partial(_thumbnail, size=size, frames=frames)
    with closing(ask_all(clips, look, processes=1, patience=patience)) as answers:
        return {clip.name: found for clip, found in answers if isinstance(found, np.ndarray)}


def _thumbnail(clip: Clip, begin: Begin, size: int, frames: int) -> np.ndarray | None:
    try:
        with clip.place.held() as here, VideoReader(here, part=clip.part) as reader:
            begin()
            fit = Fit(reader.size, (size, size))
            chosen = [round(i * (reader.frames - 1) / max(frames - 1, 1)) for i in range(frames)]
            pixels = reader.pixels(chosen, fit.resize)
    except VideoError:
        return None
    return fit.crop(pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
