"""The doctor's page: one HTML file that opens anywhere, and the sheet of thumbnails in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
import torch

from vidiff.data.control import pair
from vidiff.data.doctor import actions as of_actions
from vidiff.data.doctor.actions import ActionFacts
from vidiff.data.doctor.control import ControlFacts
from vidiff.data.doctor.examine import NOTES, PROBLEMS
from vidiff.data.doctor.record import Record
from vidiff.report.page import (
    columns,
    folded,
    gallery,
    header,
    key_figures,
    media,
    numbered_list,
    page,
    paragraph,
    section,
    table,
)
from vidiff.video.reader import to_float
from vidiff.video.writer import sheet, write_image

MOST = 2000  # rows of the table of all files; index.jsonl has every one


def write_sheet(file: Path, thumbnails: Iterable[np.ndarray]) -> Path:
    """A picture with a row for each file: its frames, uint8 `(f, h, w, 3)` each, side by side."""
    rows = [sheet(to_float(frames)) for frames in thumbnails]
    write_image(file, torch.cat(rows, dim=1))
    return file


def write_scan(
    file: Path,
    root: str,
    records: Sequence[Record],
    shown: Sequence[str],
    picture: Path | None,
    actions: ActionFacts | None = None,
    control: ControlFacts | None = None,
) -> Path:
    """Writes the page of a scan, and returns its path.

    Args:
        shown: paths of the files in the sheet, row by row.
        picture: the sheet, if any file could be shown.
        actions: of the clips, where they have any.
        control: of the videos beside them, where they were looked at.
    """
    broken = [record for record in records if not record.readable]
    kept = [record for record in records if record.readable]
    figures = {
        "files": f"{len(records):,}",
        "readable": f"{len(kept):,}",
        "left out": f"{len(broken):,}",
        "hours": f"{sum(record.duration for record in kept) / 3600:.2f}",
        "frames": f"{sum(record.frames for record in kept):,}",
    }
    name = PurePath(root).name
    text = page(
        f"{name}: what the doctor found",
        header(name, root),
        key_figures(figures),
        section("Left out", _problems(broken) or paragraph("Nothing: every file can be read.")),
        section("Kept, but worth knowing", _notes(kept)),
        section("What there is", _kinds(kept) if kept else ""),
        section("Actions", _actions(actions) if actions else ""),
        section("Videos beside the clips", _control(control) if control else ""),
        section("What a model sees", _thumbnails(shown, picture)),
        section("Files", _files(records)),
    )
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
    return file


def _problems(broken: Sequence[Record]) -> str:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in broken:
        groups[record.problem].append((record.name, record.reason))
    return _groups(groups, PROBLEMS)


def _notes(kept: Sequence[Record]) -> str:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in kept:
        for note in record.notes:
            kind, _, detail = note.partition(": ")
            groups[kind].append((record.name, detail))
    return _groups(groups, {kind: (kind, advice) for kind, advice in NOTES.items()})


def _groups(groups: Mapping[str, Sequence[tuple[str, ...]]], meanings: dict[str, tuple[str, str]]) -> str:
    """The files of each kind, the most frequent first; a kind means a title and what to do."""
    return "".join(
        folded(meanings[kind][0], table(rows[:MOST], kind="list"), len(rows), meanings[kind][1])
        for kind, rows in sorted(groups.items(), key=lambda item: -len(item[1]))
    )


def _kinds(kept: Sequence[Record]) -> str:
    """How many files there are of each size, rate, codec and length."""
    kinds: dict[str, Callable[[Record], str]] = {
        "size": lambda r: f"{r.width}x{r.height}",
        "frames a second": lambda r: f"{r.fps:g}",
        "codec": lambda r: " ".join(filter(None, [r.codec, r.pixel_format])),
        "frames": lambda r: f"{1 << (r.frames.bit_length() - 1)} to {(1 << r.frames.bit_length()) - 1}",
    }
    counts = {title: Counter(map(kind, kept)).most_common(12) for title, kind in kinds.items()}
    return columns({t: table([(name, f"{n:,}") for name, n in rows], kind="figures") for t, rows in counts.items()})


def _actions(facts: ActionFacts) -> str:
    """Whose actions are there, what is wrong with the others', and what is done how often."""
    if facts.space is None:
        return paragraph(facts.problem)
    rows = [
        (c.action.name, c.action.kind, c.used, f"{c.unknown / max(c.rows, 1):.1%}", c.advice) for c in facts.columns
    ]
    return (
        paragraph(f"Actions of {facts.sound} of {facts.clips} clips can be trained on.")
        + table(rows, ("dimension", "kind", "what is done", "unknown", ""), "list")
        + _groups(facts.faults, of_actions.FAULTS)
    )


def _control(facts: ControlFacts) -> str:
    """How many clips have a video beside them that goes with them, and what is wrong with the others'."""
    faults = {fault: [(says,) for says in found] for fault, found in facts.faults.items()}
    return paragraph(facts.told) + _groups(faults, pair.FAULTS)


def _thumbnails(shown: Sequence[str], picture: Path | None) -> str:
    if picture is None:
        return ""
    return gallery(
        "strips sheet", [media(picture.read_bytes(), ".png", "Frames of a file in each row:", numbered_list(shown))]
    )


def _files(records: Sequence[Record]) -> str:
    head = ("file", "", "frames", "a second", "size", "codec", "pixels", "turned", "key frames", "seconds")
    rows = []
    for r in records[:MOST]:
        spacing = f"{r.key_frames}, every {r.key_spacing}" if r.key_frames else ""
        state = r.reason if not r.readable else "; ".join(note.partition(":")[0] for note in r.notes)
        cells = [r.name, state]
        if r.readable:
            turned = f"{r.rotation}°" if r.rotation else ""
            size = f"{r.width}x{r.height}"
            cells += [str(r.frames), f"{r.fps:g}", size, r.codec, r.pixel_format, turned, spacing, f"{r.duration:.2f}"]
        rows.append(cells + [""] * (len(head) - len(cells)))
    more = f"The first {MOST:,} of {len(records):,}; index.jsonl has all." if len(records) > MOST else ""
    marks = ["" if record.readable else "bad" for record in records[:MOST]]
    return folded(f"{len(rows)} rows", table(rows, head, "list", marks) + paragraph(more))
