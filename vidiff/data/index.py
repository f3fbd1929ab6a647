"""The index: which files there are, what they hold, and which cannot be read."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidiff.data.video import VideoError, VideoReader

LAYOUTS = ("auto", "folders", "ucf101", "flat", "shapes")
SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})
SPLITS = ("train", "test")
HELD_OUT = 20  # without folders for the splits, one file of so many is for testing
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
        path: relative to the index's root, with forward slashes.
        label: number of its class; -1 for none.
        frames, fps, height, width: as the decoder tells.
        bytes: size of the file.
        content: hash of its first and last 64 KiB.
    """

    path: str
    label: int
    frames: int
    fps: float
    height: int
    width: int
    bytes: int
    content: str


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
        """SHA-256 of everything that a latent cache depends on. It stays when the whole folder is moved or copied."""
        facts = [[f.path, f.label, f.frames, f.height, f.width, f.bytes, f.content] for f in self.files]
        return hashlib.sha256(json.dumps([self.labels, facts]).encode()).hexdigest()

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
    """Find the videos of a split, open each, and decode its first and last frame.

    Args:
        root: the data set's folder.
        layout: "folders": `root/<split>/<label>/*`, or `root/<label>/*` where no `root/<split>` is there; "ucf101":
            class folders and the lists in `ucfTrainTestlist`; "flat": `root/<split>/*` or `root/*`, without labels;
            "auto": whichever of these is there. Where no split has a folder, "train" is all but every twentieth file,
            and any other split is the rest.
        split: a folder's name; "train" or "test" for UCF-101.
        fold: of UCF-101's lists, 1 to 3.
        limit: take this many files, evenly chosen; 0 for all.
        max_broken: fraction of files that may be unreadable; those are named, and left out.
        cache: file that keeps what was found; files that have not changed since are not opened again.
        workers: processes that open files; 0 to do it in this one, which a crash of the decoder then ends.

    Raises:
        DataError: for a folder or list that is missing, no videos, or too many broken ones (named).
    """
    root = Path(root)
    found, labels = find_files(root, layout, split, fold)
    if limit:
        found = [found[i * len(found) // limit] for i in range(min(limit, len(found)))]
    known = _read_cache(cache)
    keys = {path: _state(root / path) for path, _ in found}
    new = [path for path, _ in found if keys[path] not in known]
    for path, facts in zip(new, scan([root / path for path in new], workers, progress), strict=True):
        known[keys[path]] = facts
    if cache and new:
        _write_cache(cache, known)

    files: list[VideoFile] = []
    broken: list[tuple[str, str]] = []
    for path, label in found:
        facts = known[keys[path]]
        if isinstance(facts, str):
            broken.append((path, facts))
        else:
            files.append(VideoFile(path, label, *facts))
    told = f"{len(broken)} of {len(found)} files in {root} cannot be read"
    shown = "".join(f"\n  {path}: {reason}" for path, reason in broken[:10])
    if len(broken) > max_broken * len(found) or not files:
        raise DataError(
            f"{told}, more than data.max_broken={max_broken} allows. Mend or remove them, or raise data.max_broken. "
            f"The first of them:{shown}"
        )
    if broken:
        tqdm.write(f"{told}, and are left out. The first of them:{shown}")
    return Index(root, files, labels, broken)


def find_files(root: Path, layout: str, split: str, fold: int) -> tuple[list[tuple[str, int]], list[str]]:
    """(path relative to root, label) of each video of a split, sorted, and the names of the labels.

    Nothing is opened. Raises DataError as `build_index` does.
    """
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and ((root / LISTS).is_dir() or (root / "UCF-101").is_dir())):
        return _ucf(root, split, fold)
    if not root.is_dir():
        raise DataError(f"no folder {root}: set data.root to the folder with your videos")
    divided = any((root / name).is_dir() for name in (*SPLITS, split))
    top = root / split if divided else root
    if not top.is_dir():
        raise DataError(f"no folder {top}, though {root} has one for another split: make it, or name one that is there")
    folders = [folder for folder in sorted(top.iterdir()) if folder.is_dir() and any(_videos(folder))]
    loose = list(_videos(top))
    if layout == "auto" and folders and loose:
        raise DataError(
            f"{top} holds videos ({loose[0].name}) as well as folders of videos ({folders[0].name}): "
            "set data.layout to flat for the first, or to folders for the second"
        )
    if layout == "flat" or (layout == "auto" and loose):
        labels, pairs = [], [(path, -1) for path in loose]
    else:
        # a class that one split lacks keeps its number in the other
        classes = root.glob("*/*") if divided else folders
        labels = sorted({folder.name for folder in classes if folder.is_dir() and any(_videos(folder))})
        pairs = [(path, labels.index(folder.name)) for folder in folders for path in _videos(folder)]
    if not pairs:
        expected = {"flat": "*.mp4", "auto": "<label>/*.mp4 or *.mp4"}.get(layout, "<label>/*.mp4")
        raise DataError(
            f"no videos in {top}: expected {expected}, or another of "
            f"{', '.join(sorted(SUFFIXES))}; set data.root to the folder with your videos"
        )
    if not divided and len(pairs) > 1:
        first = min(HELD_OUT, len(pairs)) // 2
        pairs = [pair for i, pair in enumerate(pairs) if (i % HELD_OUT == first) == (split != "train")]
    return [(path.relative_to(root).as_posix(), label) for path, label in pairs], labels


def _videos(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _ucf(root: Path, split: str, fold: int) -> tuple[list[tuple[str, int]], list[str]]:
    """As listed, with classes numbered as in classInd.txt. Listed files that are not there come along: as broken."""
    if split not in SPLITS:
        raise DataError(f"the split is {split!r}; UCF-101 has {' and '.join(SPLITS)}")
    if fold not in (1, 2, 3):
        raise DataError(f"data.fold is {fold}; UCF-101 has folds 1, 2 and 3")
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    classes, listed = root / LISTS / "classInd.txt", root / LISTS / f"{split}list{fold:02d}.txt"
    for needed in (classes, listed):
        if not needed.is_file():
            raise DataError(f"no {needed}: {GET_UCF.format(root=root)}")
    labels = [line.split()[1] for line in classes.read_text().splitlines() if line.strip()]
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    if not any((videos / name).is_file() for name in names):
        raise DataError(
            f"none of the {len(names)} videos that {listed.name} names is in {videos}: {GET_UCF.format(root=root)}"
        )
    unknown = next((name for name in names if name.split("/")[0] not in labels), None)
    if unknown:
        raise DataError(f"{listed} names {unknown}, whose class is not in {classes.name}: get both files anew")
    pairs = [((videos / name).relative_to(root).as_posix(), labels.index(name.split("/")[0])) for name in names]
    return pairs, labels


Facts = list[Any]  # frames, fps, height, width, bytes, content: as in VideoFile


def probe(path: Path) -> Facts | str:
    """What one file holds, or why it cannot be read."""
    try:
        with VideoReader(path) as reader:
            frames, fps, (height, width) = reader.frames, reader.fps, reader.size
            reader.read([frames - 1])
        with path.open("rb") as file:
            ends = file.read(1 << 16)
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            ends += file.read()
    except (VideoError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")
    return [frames, fps, height, width, path.stat().st_size, hashlib.sha256(ends).hexdigest()]


def scan(
    paths: list[Path], workers: int, progress: bool, look: Callable[[Path], Facts | str] = probe
) -> list[Facts | str]:
    """`look` at each file, in other processes: a file on which the decoder crashes is found, and the rest goes on."""
    found: dict[Path, Facts | str] = {}
    with tqdm(total=len(paths), desc="index", unit="file", disable=not progress or not paths) as bar:

        def run(some: list[Path], workers: int) -> bool:
            """Look at some files. Returns whether all processes lived to the end."""
            # new processes, since a decoder hangs in one that was forked from a process that has used it
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            try:
                asked = {pool.submit(look, path): path for path in some}
                for answer in as_completed(asked):
                    found[asked[answer]] = answer.result()
                    bar.update()
            except BrokenProcessPool:
                return False
            finally:
                pool.shutdown(cancel_futures=True)
            return True

        if not workers:
            for path in paths:
                found[path] = look(path)
                bar.update()
        while left := [path for path in paths if path not in found]:
            if run(left, min(workers, len(left))):
                break
            # Files are handed out in order: one of the first that are missing did it. Each gets a process of its own.
            for path in [path for path in left if path not in found][: 2 * workers + 1]:
                if not run([path], 1):
                    found[path] = "the decoder crashes on it"
                    bar.update()
    return [found[path] for path in paths]


def _state(path: Path) -> str:
    """Changes when the file does."""
    if not path.is_file():
        return f"{path.resolve()}|missing"
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def _read_cache(cache: Path | None) -> dict[str, Facts | str]:
    if cache is None or not cache.is_file():
        return {}
    try:
        known = dict(json.loads(line) for line in cache.read_text().splitlines())
    except (ValueError, TypeError):
        return {}  # it is only a cache: what it held is found again
    return {key: facts for key, facts in known.items() if isinstance(facts, str) or len(facts) == 6}


def _write_cache(cache: Path, facts: dict[str, Facts | str]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = cache.with_name(f".{cache.name}.partial")
    draft.write_text("".join(json.dumps(item) + "\n" for item in facts.items()))
    draft.replace(cache)
