"""The index: which files there are, what they hold, and which cannot be read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidiff.data.clip import FACTS, Clip, LeftOut, account, told_of
from vidiff.data.doctor.record import read_records
from vidiff.data.find import HALVES, Stock, halves, is_held_out, take_stock
from vidiff.data.options import DataConfig
from vidiff.data.probe import Outcome, Unfetched, probe, probe_all
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.data.root import copies_of, local, name_of, root_of
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.data.tars import Contents, Packed, Tables
from vidiff.store.copies import Copies
from vidiff.store.error import DataError
from vidiff.store.files import claimed, write_whole
from vidiff.store.place import Stamp
from vidiff.store.plain import parse_json
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import Manner
from vidiff.video.sources import stamp_of

IN_A_ROW = 8  # files that cannot be fetched, after which the others are not tried
HEADER = json.dumps({"index": 1})  # the first line of what is kept, with its version


@dataclass(frozen=True)
class Index:
    """The videos of one split.

    Args:
        root: how messages call the data set.
        labels: names of the classes, by number; empty where there are none. Names that are numbers are in their order.
        broken: (name, reason) of each clip that cannot be read.
        fps: frames per second at which every file is seen, and by which its frames count; 0 for each one's own frames.
        by_name: whether names of clips tell which are held out, as nothing else does.
        cached: the names in the order in which latent caches number them, if that is not the order of `labels`.
        treatment: what is done to the frames of every file.
    """

    root: str
    files: list[Clip]
    labels: list[str]
    broken: list[tuple[str, str]] = field(default_factory=list)
    fps: float = 0.0
    cached: list[str] = field(default_factory=list)
    by_name: bool = False
    treatment: Treatment = PLAIN

    def manner(self, file: Clip) -> Manner:
        """How one of the files is read."""
        return Manner(self.fps, file.decoder, self.treatment, file.part)

    def relabelled(self, labels: list[str]) -> Index:
        """The same clips with their classes numbered as in `labels`; one whose class is not there has none."""
        numbers = [labels.index(name) if name in labels else -1 for name in self.labels]
        files = [replace(file, label=numbers[file.label] if file.label >= 0 else -1) for file in self.files]
        return replace(self, files=files, labels=labels, cached=self.cached or self.labels)

    def class_of(self, clip: Clip) -> str | None:
        """The name of a clip's class; None for one without."""
        return self.labels[clip.label] if clip.label >= 0 else None

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
        lines = [
            json.dumps([file.name, label, file.frames, file.fingerprint, *self._changes(file)]) for file, label in pairs
        ]
        if self.fps:
            lines.append(f"at {self.fps} fps")
        whole = "\n".join([*(self.cached or self.labels), *lines])
        return hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()

    def _changes(self, file: Clip) -> list[Any]:
        """What is done to the frames of a file: nothing to most, whose caches of before still hold."""
        done = {
            "squeezed": "square",
            "transparent": f"over {self.treatment.background}",
            "interlaced": "deinterlaced" if self.treatment.deinterlace else "",
            "hdr": "tonemapped" if self.treatment.tonemap else "",
        }
        return [*filter(None, map(done.__getitem__, file.traits)), *([file.part] if file.part else [])]


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


def look_into(
    clips: Sequence[Clip], data: DataConfig, root: str | Path, runs: Path, workers: int = 2, progress: bool = True
) -> list[Outcome]:
    """What each of some clips of another data set holds, or why it cannot be read; what is known is kept, as that of
    the clips of a data set is.

    Args:
        data: how they are read.
        root: of the data set that they are of.
        runs, workers, progress: as of `index_of`.
    """
    folder, name = runs / "index", name_of(root)
    cache = folder / f"{name}.jsonl"
    with claimed(folder / ".turn"):
        ledger = Ledger(data, cache, folder / name / "index.jsonl", workers, progress)
        try:
            ledger.look_into(clips)
        finally:
            if ledger.opened:
                _write_cache(cache, ledger.known, ledger.by_others)
    return [ledger.outcome(clip) for clip in clips]


def other_data(data: DataConfig, root: str | Path) -> DataConfig:
    """The options of a data set for another one that is laid out alike, or is a list or a tar, as its name tells. The
    shapes set is not drawn there."""
    layout = "folders" if data.layout == "shapes" else data.layout
    told = str(root).lower().endswith((".csv", ".jsonl", ".tar"))
    return replace(data, root=str(root), layout="auto" if told else layout)


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
            with some; "lerobot": a data set of LeRobot, version 3; "auto": whichever of these is there, but for
            "images". Folders in one of a class are of the class. Where nothing names splits, about one clip in twenty
            is held out as "test", as its own name has it: see `vidiff.data.find.halves`. A clip is a video file, an
            animated GIF or WebP, or a folder of numbered pictures. `camera`: of LeRobot, the feature whose videos are
            read.
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
    root = root_of(data.root, copies or copies_of(Path("runs")))
    _, tables = _read_cache(cache)
    headers = len(tables)
    stock = take_stock(root, data.layout, data.fold, {split, data.split, data.test_split}, tables, data.camera)
    clips = stock.within(split)
    held = quarantine.held(clips) if quarantine else {}
    of_list = [LeftOut(name, f"a file that {quarantine and quarantine.file} lists", why) for name, why in held.items()]
    clips = [clip for clip in clips if clip.name not in held]
    if held and quarantine and not clips:
        for line in account(of_list, len(of_list), str(root)):
            tqdm.write(line)
        raise DataError(
            f"all {len(held)} files in {root} are left out by {quarantine.file}: mend or replace them, or remove their "
            "lines from it"
        )
    with claimed(turn) if turn else nullcontext():
        ledger = Ledger(data, cache, records, workers, progress)
        try:
            chosen, every, told = _choose(data, stock, clips, split, ledger)
        finally:
            if cache and (ledger.opened or len(tables) > headers):
                _write_cache(cache, ledger.known, {**ledger.by_others, **tables})
    broken = [(clip.name, reason) for clip in every if isinstance(reason := ledger.outcome(clip), str)]
    files = [found for clip in chosen if isinstance(found := ledger.outcome(clip), Clip)]
    if len(broken) > data.max_broken * len(every) or not files:
        shown = "".join(f"\n  {name}: {reason}" for name, reason in broken[:5])
        allowed = f"more than data.max_broken={data.max_broken} allows" if files else "none can"
        again = f" ({cache} remembers them; remove it to try them again)" if cache else ""
        raise DataError(
            f"{len(broken)} of {len(every)} files in {root} cannot be read, {allowed}. Mend or remove them, let "
            f"the doctor list them to be left out, or raise data.max_broken{again}:{shown}"
        )
    own = {clip.name for clip in chosen}
    broken = [(name, reason) for name, reason in broken if name in own]
    left_out = [*stock.left_out] if split == data.split else []  # they are no more of one split than of another
    left_out += [one for one in of_list if stock.is_split or is_held_out(one.name) == (split == HALVES[1])]
    left_out += [LeftOut(name, "a file that cannot be read", reason) for name, reason in broken]
    for line in [*account(left_out, len(files) + len(left_out), str(root)), *filter(None, [told])]:
        tqdm.write(line)
    others = sum(file.decoder == PyAVFile.name for file in files) if data.decoder == "auto" else 0
    if others:
        tqdm.write(f"{others} of {len(files)} files in {root} are read by PyAV: decord does not read them exactly")
    for line in told_of(files, data.treatment):
        tqdm.write(line)
    sound, by_name = [part for file in files for part in file.sound], not stock.is_split
    index = Index(str(root.tree), sound, stock.labels, broken, data.fps, [], by_name, data.treatment)
    return index.relabelled(sorted(stock.labels, key=by_number)) if stock.labels == sorted(stock.labels) else index


def by_number(name: str) -> tuple[bool, Decimal, str]:
    """What names of classes are sorted by: numbers come first, as numbers, 2 before 10."""
    number = Decimal(name) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", name, re.ASCII) else None
    return number is None, number or Decimal(0), name


def _choose(
    data: DataConfig, stock: Stock, clips: list[Clip], split: str, ledger: Ledger
) -> tuple[list[Clip], list[Clip], str]:
    """The clips of a split, as many as are wanted, looked into.

    Args:
        clips: of the split, where there are splits; else all. None that is held back is among them.

    Returns:
        the clips; those and, where names tell the splits, the other half, of which some may not have been looked into;
        and what is to be told.
    """
    limit, number = data.limit, HALVES.index(split) if split in HALVES else 0
    if stock.is_split:
        ledger.look_into(clips := _evenly(clips, limit))
        return clips, clips, ""
    needed = min((bucket.frames - 1) * data.stride[0] + 1 for bucket in data.plan())

    def first(some: Iterable[Clip]) -> Clip | None:
        """The first that can be read, or may be another time, and is as long as a clip of the training."""
        size, rest = 1, iter(some)
        while part := [*islice(rest, size)]:
            ledger.look_into([clip for clip in part if not ledger.knows(clip)])
            for clip in part:
                outcome = ledger.outcome(clip)
                if isinstance(outcome, Unfetched):
                    return clip
                if isinstance(outcome, Clip) and max(part.frames for part in outcome.sound) >= needed:
                    return clip
            size *= 8
        return None

    train, test = ([clip for clip in clips if is_held_out(clip.name) == held] for held in (False, True))
    others = _evenly(test, limit) if number == 0 else train[:1]
    # at once: what `first` asks for is among them, as a rule
    ledger.look_into([*_evenly((train, test)[number], limit), *others])
    if first(sorted(clips, key=ledger.knows, reverse=True)) is None:
        needed = 0  # all are too short, which is for others to tell
    train, test, told = halves(clips, first)
    train, test = _evenly(train, limit), _evenly(test, limit)
    chosen = (train, test)[number]
    ledger.look_into([clip for clip in chosen if not ledger.knows(clip)])
    # told with the clips that are held out alone, since whoever trains asks for both halves
    return chosen, [*{clip.name: clip for clip in (*train, *test)}.values()], told if number else ""


def _evenly(clips: list[Clip], limit: int) -> list[Clip]:
    """As many clips, evenly chosen; all where `limit` is 0."""
    return [clips[i * len(clips) // limit] for i in range(limit)] if 0 < limit < len(clips) else clips


class Ledger:
    """What is known of clips, and the way to know it: to open them.

    Args:
        cache: file with what was known before.
        records: what the doctor found.
        workers: processes that open files.

    Attributes:
        opened: how many clips have been opened.
        known, by_others: as the file had them, with what has come since.
    """

    def __init__(
        self, data: DataConfig, cache: Path | None, records: Path | None, workers: int, progress: bool
    ) -> None:
        treatment = data.treatment
        by_pyav = treatment.deinterlace or treatment.tonemap  # which decord knows nothing of
        own = not data.fps and data.decoder == "auto" and not by_pyav  # as the doctor counts a clip's frames
        self.examined = read_records(records) if records and own else {}
        self.known, self.by_others = _read_cache(cache)
        self.opened = 0
        self._data, self._workers, self._progress = data, workers, progress
        look = partial(probe, rate=data.fps, decoder=data.decoder, treatment=treatment)
        self._look: dict[str, Any] = {} if own else {"look": look}
        self._how = (f"|{data.fps} fps" if data.fps else "") + (f"|{data.decoder}" if data.decoder != "auto" else "")
        self._how += "|deinterlace" * treatment.deinterlace + "|tonemap" * treatment.tonemap
        self._keys: dict[str, tuple[str, Stamp]] = {}  # by the names of clips
        self._unfetched = 0  # one after the other

    def knows(self, clip: Clip) -> bool:
        """Whether it has been looked into."""
        return clip.name in self._keys

    def outcome(self, clip: Clip) -> Outcome:
        """A clip with its facts, or why it cannot be read; the clip itself before it has been looked into."""
        if not self.knows(clip):
            return clip
        key, stamp = self._keys[clip.name]
        facts = self.known[key]
        return facts if isinstance(facts, str) else replace(clip, stamp=stamp).with_facts(facts)

    def look_into(self, clips: Sequence[Clip]) -> None:
        """Open the clips of which nothing is known. Raises DataError where too many, in a row, cannot be fetched."""
        clips = [replace(clip, stamp=stamp_of(clip.place)) for clip in clips]
        for clip in clips:
            part = "|{}-{}".format(*clip.part) if clip.part else ""
            key = f"{clip.place.key}|{clip.place.version}|{clip.stamp}{part}{self._how}"
            self._keys[clip.name] = key, clip.stamp
            record = self.examined.get(clip.name)
            if record and record.readable and record.stamp == clip.stamp:
                self.known[key] = record.facts
        new = [*{clip.name: clip for clip in clips if self._keys[clip.name][0] not in self.known}.values()]
        self.opened += len(new)
        with closing(probe_all(new, self._workers, self._data.patience, **self._look)) as outcomes:
            shown = tqdm(outcomes, total=len(new), desc="index", unit="file", disable=not (self._progress and new))
            for clip, outcome in shown:
                self.known[self._keys[clip.name][0]] = outcome if isinstance(outcome, str) else outcome.facts
                self._unfetched = self._unfetched + 1 if isinstance(outcome, Unfetched) else 0
                if self._unfetched == IN_A_ROW:
                    raise DataError(
                        f"{self._unfetched} files, one after the other, cannot be fetched; run again when they can, "
                        f"and it goes on from here. The last: {outcome}"
                    )


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
