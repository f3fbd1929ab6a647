"""Which clips a split of a data set has, and their labels: by folders, UCF-101's lists, one's own list, or tars."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from vidiff.data.lists import LIST_SUFFIXES, find_listed
from vidiff.data.tars import SPLITS, find_in_tars, holds_tars, is_tars
from vidiff.store.error import DataError
from vidiff.store.mirror import held, is_there
from vidiff.video.sources import CLIP_SUFFIXES, clips_in

LAYOUTS = ("auto", "folders", "ucf101", "flat", "images", "list", "webdataset", "shapes")
HELD_OUT = 20  # one file in so many is for testing, where the folders do not tell
LISTS = "ucfTrainTestlist"
GET_UCF = (
    "download UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from the UCF-101 page of the UCF Center for "
    "Research in Computer Vision (crcv.ucf.edu), and unpack both into {root}, so that {root}/UCF-101/<class>/*.avi and "
    "{root}/ucfTrainTestlist/*.txt are there"
)

Found = list[tuple[str, int]]  # (path relative to the data set's folder, label)


def find_files(root: Path, layout: str, split: str, fold: int) -> tuple[Found, list[str]]:
    """(path relative to root, or to the folder of a list, label) of each clip of a split, and the labels' names.

    See `vidiff.data.index.build_index`.
    """
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and (root / LISTS).is_dir()):
        return _ucf(root, split, fold)
    if layout == "list" or (layout == "auto" and is_there(root) and root.suffix.lower() in LIST_SUFFIXES):
        if not is_there(root) or root.suffix.lower() not in LIST_SUFFIXES:
            raise DataError(f"no list {root}: set data.root to a file named {' or '.join(sorted(LIST_SUFFIXES))}")
        listed, labels, has_splits = find_listed(root, split)
        return (listed if has_splits else _part(listed, split, f"rows of split {split!r} in {root}")), labels
    if layout == "webdataset" or (layout == "auto" and is_tars(root)):
        return _in_tars(root, split)
    if not root.is_dir():
        raise DataError(f"no folder {root}: set data.root to the folder with your videos, or to a list of them")
    pictures = layout == "images"
    there = _splits(root, split, pictures)
    if (
        layout == "auto"
        and not there
        and not any(clips_in(root))
        and not _class_folders(root, False)
        and holds_tars(root)
    ):
        return _in_tars(root, split)
    if there and split not in there:
        raise DataError(
            f"no folder {root / split}, though {root} has {', '.join(there)}: make it, or name another one as "
            "data.split or data.test_split"
        )
    top = root / split if there else root
    folders = _class_folders(top, pictures)
    if layout in ("folders", "shapes") or (layout in ("auto", "images") and folders):
        # A class that one split lacks keeps its number in the other.
        places = [root / s for s in there] or [root]
        names = {folder.name for place in places for folder in _class_folders(place, pictures)}
        labels = sorted(names)
        numbers = {name: number for number, name in enumerate(labels)}
        pairs = [(path, numbers[folder.name]) for folder in folders for path in clips_in(folder, pictures)]
        if folders and any(clips_in(top, pictures)):
            tqdm.write(f"videos that lie directly in {top}, beside the folders of classes, are left out")
    else:
        labels, pairs = [], [(path, -1) for path in clips_in(top, pictures)]
    if not pairs:
        raise DataError(
            f"no videos in {top} (layout {layout}): expected {'' if layout == 'flat' else '<label>/'}*.mp4 or "
            f"another of {', '.join(sorted(CLIP_SUFFIXES))}; set data.root, or data.layout"
        )
    found = [(str(path.relative_to(root)), label) for path, label in pairs]
    return (found if there else _part(found, split, f"folder {root / split}")), labels


def _in_tars(root: Path, split: str) -> tuple[Found, list[str]]:
    found, labels, has_splits = find_in_tars(root, split)
    return (found if has_splits else _part(found, split, f"tars of split {split!r} in {root}")), labels


def _part(found: Found, split: str, absent: str) -> Found:
    """Every twentieth clip for testing, the others for training, where nothing tells which. A single one is both."""
    if split not in ("train", "test"):
        raise DataError(f"no {absent}: without folders of splits there are train and test alone")
    first = min(HELD_OUT, len(found)) // 2
    if len(found) < 2:
        return found
    return [pair for i, pair in enumerate(found) if (i % HELD_OUT == first) == (split == "test")]


def _splits(root: Path, split: str, pictures: bool) -> list[str]:
    """Names of the folders of splits in `root`; none if its folders are classes, of which one may be named "train"."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    named = [p for p in folders if p.name in SPLITS | {split}]
    splits = [p for p in named if any(clips_in(p, pictures)) or _class_folders(p, pictures)]
    classes = [p for p in folders if p not in splits and any(clips_in(p, pictures))]
    return [] if classes else [p.name for p in splits]


def _class_folders(folder: Path, pictures: bool) -> list[Path]:
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return [p for p in folders if any(clips_in(p, pictures))]


def _ucf(root: Path, split: str, fold: int) -> tuple[Found, list[str]]:
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    lists = root / LISTS
    if fold not in (1, 2, 3):
        raise DataError(f"data.fold is {fold}; UCF-101 has folds 1, 2 and 3")
    if split not in ("train", "test"):
        raise DataError(f"data.split is {split!r}; UCF-101 has train and test")
    for needed in (lists / "classInd.txt", lists / f"{split}list{fold:02d}.txt"):
        if not is_there(needed):
            raise DataError(f"no {needed}: {GET_UCF.format(root=root)}")
    labels = [line.split()[-1] for line in _lines(lists / "classInd.txt")]  # as in "1 ApplyEyeMakeup"
    numbers = {name: number for number, name in enumerate(labels)}
    pairs, missing = [], []
    for line in _lines(lists / f"{split}list{fold:02d}.txt"):  # as in "Archery/v_Archery_g08_c01.avi 3"
        name = line.split()[0]
        label = name.split("/")[0]
        if label not in numbers:
            raise DataError(f"{lists}/{split}list{fold:02d}.txt names class {label!r}, which classInd.txt does not")
        if is_there(videos / name):
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
    with held(path) as file:
        return [line for line in file.read_text().splitlines() if line.strip()]
