"""The index: which files there are, what they hold, and which cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vidiff.data.video import VideoError, VideoReader

LAYOUTS = ("auto", "folders", "ucf101", "flat", "shapes")
SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg"})
HELD_OUT = 20
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
        frames, fps, height, width: as the container tells.
        bytes: size of the file.
    """

    path: str
    label: int
    frames: int
    fps: float
    height: int
    width: int
    bytes: int


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
        """SHA-256 of everything that a latent cache depends on."""
        lines = [json.dumps([f.path, f.label, f.frames, f.bytes]) for f in self.files]
        return hashlib.sha256("\n".join([*self.labels, *lines]).encode()).hexdigest()

    def path(self, number: int) -> Path:
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
        layout: "folders": `root/<split>/<label>/*`, or `root/<label>/*` where `root/<split>` is not there; "ucf101":
            class folders and the lists in `ucfTrainTestlist`; "flat": `root/<split>/*` or `root/*`, without labels;
            "auto": whichever of these is there. Where no `root/<split>` is there, every twentieth file is held out as
            "test".
        fold: of UCF-101's lists, 1 to 3.
        limit: take this many files, evenly chosen; 0 for all.
        max_broken: fraction of files that may be unreadable.
        cache: file that keeps what was found; files that have not changed since are not opened again.

    Raises:
        DataError: for a folder or list that is missing, no videos, or too many broken ones (named).
    """
    root = Path(root)
    found, labels = find_files(root, layout, split, fold)
    if limit:
        found = [found[i * len(found) // limit] for i in range(min(limit, len(found)))]
    known = _read_cache(cache)
    stats = {path: (root / path).stat() for path, _ in found}
    keys = {path: f"{(root / path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}" for path, stat in stats.items()}
    new = [path for path, _ in found if keys[path] not in known]
    for path, facts in zip(new, _scan([root / path for path in new], workers, progress), strict=True):
        known[keys[path]] = facts
    if cache and new:
        _write_cache(cache, known)

    files, broken = [], []
    for path, label in found:
        facts = known[keys[path]]
        if isinstance(facts, str):
            broken.append((path, facts))
        else:
            frames, fps, height, width = facts
            files.append(
                VideoFile(path, label, int(frames), fps, int(height), int(width), bytes=stats[path].st_size)
            )
    if len(broken) > math.floor(max_broken * len(found)) or not files:
        shown = "".join(f"\n  {path}: {reason}" for path, reason in broken[:5])
        raise DataError(
            f"{len(broken)} of {len(found)} files in {root} cannot be read, more than data.max_broken={max_broken} "
            f"allows. Mend or remove them, or raise data.max_broken:{shown}"
        )
    for path, reason in broken:
        tqdm.write(f"left out {path}: {reason}")
    return Index(root, files, labels, broken)


def find_files(root: Path, layout: str, split: str, fold: int) -> tuple[list[tuple[str, int]], list[str]]:
    """(path relative to root, label) of each video of a split, sorted, and the names of the labels."""
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and (root / LISTS).is_dir()):
        return _ucf(root, split, fold)
    if not root.is_dir():
        raise DataError(f"no folder {root}: set data.root to the folder with your videos")
    divided = (root / split).is_dir()
    top = root / split if divided else root
    folders = [p for p in sorted(top.iterdir()) if p.is_dir() and any(_videos(p))]
    if layout in ("folders", "shapes") or (layout == "auto" and folders):
        # A class that one split lacks keeps its number in the other.
        names = {p.name for p in (root.glob("*/*") if divided else folders) if p.is_dir() and any(_videos(p))}
        labels = sorted(names)
        pairs = [(path, labels.index(folder.name)) for folder in folders for path in _videos(folder)]
    else:
        labels, pairs = [], [(path, -1) for path in _videos(top)]
    if not pairs:
        raise DataError(
            f"no videos in {top} (layout {layout}): expected {'' if layout == 'flat' else '<label>/'}*.mp4 or "
            f"another of {', '.join(sorted(SUFFIXES))}; set data.root, or data.layout"
        )
    if not divided and len(pairs) > 1:
        first = min(HELD_OUT, len(pairs)) // 2
        pairs = [pair for i, pair in enumerate(pairs) if (i % HELD_OUT == first) == (split == "test")]
    return [(str(path.relative_to(root)), label) for path, label in pairs], labels


def _videos(folder: Path) -> Iterator[Path]:
    return (
        p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )


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
    labels = [line.split()[1] for line in (lists / "classInd.txt").read_text().splitlines() if line.strip()]
    numbers = {name: number for number, name in enumerate(labels)}
    pairs, missing = [], []
    for line in (lists / f"{split}list{fold:02d}.txt").read_text().splitlines():
        if not line.strip():
            continue
        name = line.split()[0]
        label = name.split("/")[0]
        if label not in numbers:
            raise DataError(
                f"{lists}/{split}list{fold:02d}.txt names class {label!r}, which classInd.txt does not"
            )
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


Facts = list[float] | str  # frames, fps, height, width; or why the file cannot be read


def probe(path: Path) -> Facts:
    """Open one file and decode its first and last frame."""
    try:
        with VideoReader(path) as reader:
            frames, fps, (height, width) = reader.frames, reader.fps, reader.size
            reader.read([frames - 1])
            return [frames, fps, height, width]
    except VideoError as error:
        return str(error).removeprefix(f"{path}: ")


def _scan(paths: list[Path], workers: int, progress: bool) -> Iterable[Facts]:
    """Probe each file, in other processes: a decoder that crashes takes no training with it."""
    if not paths:
        return []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(paths)), mp_context=context) as pool:
        work = pool.map(probe, paths, chunksize=8)
        return list(tqdm(work, total=len(paths), desc="index", unit="file", disable=not progress))


def _read_cache(cache: Path | None) -> dict[str, Facts]:
    if cache is None or not cache.is_file():
        return {}
    try:
        return dict(json.loads(line) for line in cache.read_text().splitlines())
    except (ValueError, TypeError):
        return {}  # it is only a cache: what it held is found again


def _write_cache(cache: Path, facts: dict[str, Facts]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_name(f".{cache.name}.partial")
    draft.write_text("".join(json.dumps(item) + "\n" for item in facts.items()))
    draft.replace(cache)
