"""The index: which files there are, what they hold, and which cannot be read."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidiff.data.clip import FACTS, Clip
from vidiff.data.doctor.record import read_records
from vidiff.data.find import find_clips
from vidiff.data.options import DataConfig
from vidiff.data.probe import Unfetched, probe, probe_all
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.data.root import Root, copies_of, local, name_of, root_of
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.data.tars import Contents, Packed, Tables
from vidiff.store.copies import Copies
from vidiff.store.error import DataError
from vidiff.store.files import claimed, write_whole
from vidiff.store.plain import parse_json
from vidiff.video.pyav import PyAVFile
from vidiff.video.sources import stamp_of

IN_A_ROW = 8  # files that cannot be fetched, after which the others are not tried
HEADER = json.dumps({"index": 1})  # the first line of what is kept, with its version
NAMED = 20  # files of the quarantine, each with its reason, where more are left out


@dataclass(frozen=True)
class Index:
    """The videos of one split.

    Args:
        root: how messages call the data set.
        labels: names of the classes, by number; empty where there are none. Names that are numbers are in their order.
        broken: (name, reason) of each clip that cannot be read.
        fps: frames per second at which every file is seen, and by which its frames count; 0 for each one's own frames.
        cached: the names in the order in which latent caches number them, if that is not the order of `labels`.
    """

    root: str
    files: list[Clip]
    labels: list[str]
    broken: list[tuple[str, str]] = field(default_factory=list)
    fps: float = 0.0
    cached: list[str] = field(default_factory=list)

    def relabelled(self, labels: list[str]) -> Index:
        """The same clips with their classes numbered as in `labels`; one whose class is not there has none."""
        numbers = [labels.index(name) if name in labels else -1 for name in self.labels]
        files = [replace(file, label=numbers[file.label] if file.label >= 0 else -1) for file in self.files]
        return replace(self, files=files, labels=labels, cached=self.cached or self.labels)

    @property
    def cached_labels(self) -> list[int]:
        """The number of each file's class, as latent caches have it."""
        order = self.cached or self.labels
        numbers = [order.index(name) if name in order else -1 for name in self.labels]
        return [numbers[file.label] if file.label >= 0 else -1 for file in self.files]

    @property
    def digest(self) -> str:
        """SHA-256 of all that a latent cache depends on: names, labels, lengths, content, rate, but not the place."""
        pairs = zip(self.files, self.cached_labels, strict=True)
        lines = [json.dumps([file.name, label, file.frames, file.fingerprint]) for file, label in pairs]
        if self.fps:
            lines.append(f"at {self.fps} fps")
        return hashlib.sha256("\n".join([*(self.cached or self.labels), *lines]).encode()).hexdigest()


def index_of(data: DataConfig, runs: Path, split: str, workers: int = 2, progress: bool = True) -> Index:
    """The clips of a split: the one way from a config's data to an index, for training and for evaluation.

    Files that the quarantine holds are left out, and what is known of a file is not looked up again. The shapes set is
    drawn first where a config wants it and it is not there.

    Args:
        runs: folder of runs, in which the quarantine, the doctor's records and what is known of files are kept.
        workers: processes that open files.

    Raises:
        DataError: as `build_index`.
    """
    folder, name = runs / "index", name_of(data.root)  # shared by all runs on the same data
    turn = folder / ".turn"
    if data.layout == "shapes":
        if data.shapes or not (local(data.root) / "spec.json").is_file():
            with claimed(turn):
                make_shapes(local(data.root), ShapesSpec(**data.shapes))
        data = replace(data, layout="folders")
    return build_index(
        data,
        split,
        cache=folder / f"{name}.jsonl",
        quarantine=Quarantine(quarantine_list(runs)),
        records=folder / name / "index.jsonl",
        copies=copies_of(runs, data.remote_cache_gb),
        turn=turn,
        workers=workers,
        progress=progress,
    )


def other_data(data: DataConfig, root: str | Path) -> DataConfig:
    """The options of a data set for another one that is laid out alike; the shapes set is not drawn there."""
    return replace(data, root=str(root), layout="folders" if data.layout == "shapes" else data.layout)


def build_index(
    data: DataConfig,
    split: str = "train",
    cache: Path | None = None,
    quarantine: Quarantine | None = None,
    records: Path | None = None,
    copies: Copies | None = None,
    turn: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Index:
    """Find the videos of a split and look into each.

    Args:
        data: `root`: the data set's folder; a list: a .csv or .jsonl file, as `vidiff.data.lists` describes; tars, as
            `vidiff.data.tars` does; or the URL of any of these, as `vidiff.data.root` does.
            `layout`: "folders": `root/<split>/<label>/*`, or `root/<label>/*`; "ucf101": class folders and the lists in
            `ucfTrainTestlist`; "flat": `root/<split>/*` or `root/*`, without labels; "images": as "folders" or
            "flat", single pictures being clips of one frame; "list": `root` is one; "webdataset": tars, or a folder
            with some; "auto": whichever of these is there, but for "images". Where nothing names splits, every
            twentieth file is held out as "test"; a single file is both. A clip is a video file, an animated GIF or
            WebP, or a folder of numbered pictures.
            `fold`: of UCF-101's lists, 1 to 3. `limit`: take this many files, evenly chosen; 0 for all. `max_broken`:
            fraction of files that may be unreadable; each is named. `patience`: seconds that a file may take; then its
            decoder is ended, and it counts as unreadable. `fps`: see every file at this rate, by the time stamps of its
            frames; 0 for their own frames. `decoder`: of video files, one of `vidiff.video.decoders.DECODERS`.
        cache: file that keeps what was found, even if the search is interrupted; files that have not changed since
            are not opened again.
        quarantine: names files to leave out; they count neither as broken nor towards `limit`.
        records: what the doctor found (index.jsonl): files that have not changed since are not opened again.
        copies: where copies of remote files are kept; by default in `runs`.
        turn: file by which one process at a time looks into clips. It is made once there are some.
        workers: processes that open files.

    Raises:
        DataError: for a folder, split or list that is missing, no videos, or too many broken ones (named).
        ValueError: options out of range.
    """
    data.check()
    fps, decoder, limit, max_broken = data.fps, data.decoder, data.limit, data.max_broken
    root = root_of(data.root, copies or copies_of(Path("runs")))
    _, tables = _read_cache(cache)
    headers = len(tables)
    clips, labels = find_clips(root, data.layout, split, data.fold, tables)
    clips = _without_held(root, clips, quarantine)
    if 0 < limit < len(clips):
        clips = [clips[i * len(clips) // limit] for i in range(limit)]
    own = not fps and decoder == "auto"  # as the doctor counts a clip's frames
    examined = read_records(records) if records and own else {}
    seen = (f"|{fps} fps" if fps else "") + (f"|{decoder}" if decoder != "auto" else "")
    clips = [replace(clip, stamp=stamp_of(clip.place)) for clip in clips]
    keys = {clip.name: f"{clip.place.key}|{clip.place.version}|{clip.stamp}{seen}" for clip in clips}
    look: dict[str, Any] = {} if own else {"look": partial(probe, rate=fps, decoder=decoder)}
    with claimed(turn) if turn else nullcontext():
        known, by_others = _read_cache(cache)  # another process may have written it since
        for clip in clips:
            record = examined.get(clip.name)
            if record and record.readable and record.stamp == clip.stamp:
                known[keys[clip.name]] = record.facts
        new = [*{clip.name: clip for clip in clips if keys[clip.name] not in known}.values()]
        in_a_row = 0
        try:
            with closing(probe_all(new, workers, data.patience, **look)) as outcomes:
                for clip, outcome in tqdm(
                    outcomes, total=len(new), desc="index", unit="file", disable=not progress or not new
                ):
                    known[keys[clip.name]] = outcome if isinstance(outcome, str) else outcome.facts
                    in_a_row = in_a_row + 1 if isinstance(outcome, Unfetched) else 0
                    if in_a_row == IN_A_ROW:
                        raise DataError(
                            f"{in_a_row} files, one after the other, cannot be fetched; run again when they can, and "
                            f"it goes on from here. The last: {outcome}"
                        )
        finally:
            if cache and (new or len(tables) > headers):
                _write_cache(cache, known, {**by_others, **tables})

    files, broken = [], []
    for clip in clips:
        facts = known[keys[clip.name]]
        if isinstance(facts, str):
            broken.append((clip.name, facts))
        else:
            files.append(clip.with_facts(facts))
    if len(broken) > max_broken * len(clips) or not files:
        shown = "".join(f"\n  {name}: {reason}" for name, reason in broken[:5])
        allowed = f"more than data.max_broken={max_broken} allows" if files else "none can"
        again = f" ({cache} remembers them; remove it to try them again)" if cache else ""
        raise DataError(
            f"{len(broken)} of {len(clips)} files in {root} cannot be read, {allowed}. Mend or remove them, or raise "
            f"data.max_broken{again}:{shown}"
        )
    for name, reason in broken:
        tqdm.write(f"left out {name}: {reason}")
    if broken:
        tqdm.write(f"{len(broken)} of {len(clips)} files in {root} are left out")
    others = sum(file.decoder == PyAVFile.name for file in files) if decoder == "auto" else 0
    if others:
        tqdm.write(f"{others} of {len(files)} files in {root} are read by PyAV: decord does not read them exactly")
    index = Index(str(root.tree), files, labels, broken, fps)
    return index.relabelled(sorted(labels, key=by_number)) if labels == sorted(labels) else index


def by_number(name: str) -> tuple[bool, Decimal, str]:
    """What names of classes are sorted by: numbers come first, as numbers, 2 before 10."""
    number = Decimal(name) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", name, re.ASCII) else None
    return number is None, number or Decimal(0), name


def _without_held(root: Root, clips: list[Clip], quarantine: Quarantine | None) -> list[Clip]:
    """The clips that the quarantine does not hold; the others are named, each with its reason."""
    held = quarantine.held(clips) if quarantine else {}
    if not held or quarantine is None:
        return clips
    for name, reason in list(held.items())[:NAMED]:
        tqdm.write(f"left out {name}: {reason}")
    more = f", {len(held) - NAMED} more than are named here" if len(held) > NAMED else ""
    tqdm.write(f"{len(held)} of {len(clips)} files in {root} are left out by {quarantine.file}{more}")
    if len(held) == len(clips):
        raise DataError(
            f"all {len(clips)} files in {root} are left out by {quarantine.file}: mend or replace them, or remove "
            "their lines from it"
        )
    return [clip for clip in clips if clip.name not in held]


Known = dict[str, list[Any] | str]  # of each clip the values of FACTS, or why it cannot be read


def _read_cache(cache: Path | None) -> tuple[Known, Tables]:
    """What is known of clips, and of tars; nothing where the file is damaged, or of another version."""
    known, tables = Known(), dict[str, Contents]()
    try:
        lines = cache.read_text().splitlines() if cache and cache.is_file() else []
        for kind, key, content in map(parse_json, lines[1:] if lines[:1] == [HEADER] else []):
            if kind == "tar":
                clips, skipped, cut = content
                tables[key] = Contents([Packed(*clip) for clip in clips], [(name, why) for name, why in skipped], cut)
            elif isinstance(content, str) or len(content) == len(FACTS):
                known[key] = content
    except (ValueError, TypeError):
        return {}, {}
    return known, tables


def _write_cache(cache: Path, known: Known, tables: Tables) -> None:
    lines: list[Any] = [["tar", key, contents] for key, contents in sorted(tables.items())]
    lines += [["clip", key, facts] for key, facts in sorted(known.items()) if not isinstance(facts, Unfetched)]
    try:
        write_whole(cache, "".join(f"{line}\n" for line in [HEADER, *map(json.dumps, lines)]))
    except OSError as error:  # as where the runs are somebody else's, and may only be read
        tqdm.write(f"what is known of the files is not kept for the next time: {error}")
