"""The index: which files there are, what they hold, and which cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vidiff.data.probe import Facts, Outcome, probe_all

LAYOUTS = ("auto", "folders", "ucf101", "flat", "shapes")
SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg"})
SPLITS = frozenset({"train", "test", "val", "valid", "validation"})  # as folders of a data set are commonly named
HELD_OUT = 20  # one file in so many is for testing, where the folders do not tell
LISTS = "ucfTrainTestlist"
GET_UCF = (
    "download UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from the UCF-101 page of the UCF Center for "
    "Research in Computer Vision (crcv.ucf.edu), and unpack both into {root}, so that {root}/UCF-101/<class>/*.avi and "
    "{root}/ucfTrainTestlist/*.txt are there"
)


class DataError(ValueError):
    """Data that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class VideoFile:
    """One readable video.

    Args:
        path: relative to the index's root.
        label: number of its class; -1 for none.
        frames, fps, height, width: of the video; size in pixels.
        bytes: size of the file.
        fingerprint: hash of its size and of its beginning and end.
    """

    path: str
    label: int
    frames: int
    fps: float
    height: int
    width: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Index:
    """The videos of one split.

    Args:
        labels: names of the classes, by number; empty where there are none.
        broken: (path, reason) of each file that cannot be read.
    """

    root: Path
    files: list[VideoFile]
    labels: list[str]
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 of all that a latent cache depends on: names, labels, lengths and content, but not the place."""
        lines = [json.dumps([f.path, f.label, f.frames, f.fingerprint]) for f in self.files]
        return hashlib.sha256("\n".join([*self.labels, *lines]).encode()).hexdigest()

    def path(self, number: int) -> Path:
        """Where file `number` is."""
        return self.root / self.files[number].path


def build_index(
    root: str | Path,
    layout: str = "auto",
    split: str = "train",
    fold: int = 1,
    limit: int = 0,
    max_broken: float = 0.05,
    cache: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Index:
    """Find the videos of a split and look into each.

    Args:
        root: the data set's folder.
        layout: "folders": `root/<split>/<label>/*`, or `root/<label>/*`; "ucf101": class folders and the lists in
            `ucfTrainTestlist`; "flat": `root/<split>/*` or `root/*`, without labels; "auto": whichever of these is
            there. Where the folders name no splits, every twentieth file is held out as "test"; a single file is both.
        fold: of UCF-101's lists, 1 to 3.
        limit: take this many files, evenly chosen; 0 for all.
        max_broken: fraction of files that may be unreadable; each is named.
        cache: file that keeps what was found, even if the search is interrupted; files that have not changed since
            are not opened again.
        workers: processes that open files.

    Raises:
        DataError: for a folder, split or list that is missing, no videos, or too many broken ones (named).
    """
    root = Path(root)
    found, labels = find_files(root, layout, split, fold)
    if limit < 0:
        raise DataError(f"data.limit is {limit}; give a number of files, or 0 for all")
    if 0 < limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    known = _read_cache(cache)
    sizes, keys = {}, {}
    for path, _ in found:
        sizes[path], changed = _stamp(root / path)
        keys[path] = f"{(root / path).resolve()}|{sizes[path]}|{changed}"
    new = {root / path: keys[path] for path, _ in found if keys[path] not in known}
    try:
        with closing(probe_all(list(new), workers)) as outcomes:
            for path, outcome in tqdm(
                outcomes, total=len(new), desc="index", unit="file", disable=not progress or not new
            ):
                known[new[path]] = outcome
    finally:
        if cache and new:
            _write_cache(cache, known)

    files, broken = [], []
    for path, label in found:
        outcome = known[keys[path]]
        if isinstance(outcome, str):
            broken.append((path, outcome))
        else:
            files.append(VideoFile(path, label, *outcome[:4], bytes=sizes[path], fingerprint=outcome.fingerprint))
    if len(broken) > max_broken * len(found) or not files:
        shown = "".join(f"\n  {path}: {reason}" for path, reason in broken[:5])
        allowed = f"more than data.max_broken={max_broken} allows" if files else "none can"
        again = f" ({cache} remembers them; remove it to try them again)" if cache else ""
        raise DataError(
            f"{len(broken)} of {len(found)} files in {root} cannot be read, {allowed}. Mend or remove them, or raise "
            f"data.max_broken{again}:{shown}"
        )
    for path, reason in broken:
        tqdm.write(f"left out {path}: {reason}")
    if broken:
        tqdm.write(f"{len(broken)} of {len(found)} files in {root} are left out")
    return Index(root, files, labels, broken)


def find_files(root: Path, layout: str, split: str, fold: int) -> tuple[list[tuple[str, int]], list[str]]:
    """(path relative to root, label) of each video of a split, sorted, and the names of the labels."""
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and (root / LISTS).is_dir()):
        return _ucf(root, split, fold)
    if not root.is_dir():
        raise DataError(f"no folder {root}: set data.root to the folder with your videos")
    there = _splits(root, split)
    if there and split not in there:
        raise DataError(
            f"no folder {root / split}, though {root} has {', '.join(there)}: make it, or name another one as "
            "data.split or data.test_split"
        )
    top = root / split if there else root
    folders = _class_folders(top)
    if layout in ("folders", "shapes") or (layout == "auto" and folders):
        # A class that one split lacks keeps its number in the other.
        names = {folder.name for place in ([root / s for s in there] or [root]) for folder in _class_folders(place)}
        labels = sorted(names)
        numbers = {name: number for number, name in enumerate(labels)}
        pairs = [(path, numbers[folder.name]) for folder in folders for path in _videos(folder)]
        if folders and any(_videos(top)):
            tqdm.write(f"videos that lie directly in {top}, beside the folders of classes, are left out")
    else:
        labels, pairs = [], [(path, -1) for path in _videos(top)]
    if not pairs:
        raise DataError(
            f"no videos in {top} (layout {layout}): expected {'' if layout == 'flat' else '<label>/'}*.mp4 or "
            f"another of {', '.join(sorted(SUFFIXES))}; set data.root, or data.layout"
        )
    if not there:
        if split not in ("train", "test"):
            raise DataError(f"no folder {root / split}: without folders of splits there are train and test alone")
        if len(pairs) > 1:
            first = min(HELD_OUT, len(pairs)) // 2
            pairs = [pair for i, pair in enumerate(pairs) if (i % HELD_OUT == first) == (split == "test")]
    return [(str(path.relative_to(root)), label) for path, label in pairs], labels


def _splits(root: Path, split: str) -> list[str]:
    """Names of the folders of splits in `root`; none if its folders are classes, of which one may be named "train"."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    splits = [p for p in folders if p.name in SPLITS | {split} and (any(_videos(p)) or _class_folders(p))]
    classes = [p for p in folders if p not in splits and any(_videos(p))]
    return [] if classes else [p.name for p in splits]


def _class_folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".") and any(_videos(p))]


def _videos(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _ucf(root: Path, split: str, fold: int) -> tuple[list[tuple[str, int]], list[str]]:
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    lists = root / LISTS
    if fold not in (1, 2, 3):
        raise DataError(f"data.fold is {fold}; UCF-101 has folds 1, 2 and 3")
    if split not in ("train", "test"):
        raise DataError(f"data.split is {split!r}; UCF-101 has train and test")
    for needed in (lists / "classInd.txt", lists / f"{split}list{fold:02d}.txt"):
        if not needed.is_file():
            raise DataError(f"no {needed}: {GET_UCF.format(root=root)}")
    labels = [line.split()[-1] for line in _lines(lists / "classInd.txt")]  # as in "1 ApplyEyeMakeup"
    numbers = {name: number for number, name in enumerate(labels)}
    pairs, missing = [], []
    for line in _lines(lists / f"{split}list{fold:02d}.txt"):  # as in "Archery/v_Archery_g08_c01.avi 3"
        name = line.split()[0]
        label = name.split("/")[0]
        if label not in numbers:
            raise DataError(f"{lists}/{split}list{fold:02d}.txt names class {label!r}, which classInd.txt does not")
        if (videos / name).is_file():
            pairs.append((str((videos / name).relative_to(root)), numbers[label]))
        else:
            missing.append(name)
    if not pairs:
        raise DataError(
            f"none of the {len(missing)} videos of {split}list{fold:02d}.txt is in {videos}: "
            + GET_UCF.format(root=root)
        )
    if missing:
        tqdm.write(
            f"{len(missing)} of {len(missing) + len(pairs)} listed videos are not in {videos}, such as {missing[0]}"
        )
    return pairs, labels


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; zeros for a link that leads nowhere, of which opening it then tells."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _read_cache(cache: Path | None) -> dict[str, Outcome]:
    if cache is None or not cache.is_file():
        return {}
    try:
        found = [json.loads(line) for line in cache.read_text().splitlines()]
        return {key: outcome if isinstance(outcome, str) else Facts(*outcome) for key, outcome in found}
    except (ValueError, TypeError):
        return {}  # damaged, or of another version: what it held is found again


def _write_cache(cache: Path, known: dict[str, Outcome]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_name(f".{cache.name}.partial")
    try:
        draft.write_text("".join(json.dumps(item) + "\n" for item in sorted(known.items(), key=lambda item: item[0])))
        draft.replace(cache)
    finally:
        draft.unlink(missing_ok=True)
