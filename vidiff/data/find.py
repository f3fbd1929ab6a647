"""Which clips a split of a data set has, and their labels: by folders, UCF-101's lists, one's own list, or tars."""

from __future__ import annotations

from tqdm import tqdm

from vidiff.data.clip import Clip
from vidiff.data.lists import LIST_SUFFIXES, find_listed
from vidiff.data.root import Root
from vidiff.data.tars import PACKED, SPLITS, Tables, find_in_tars, holds_tars
from vidiff.store.error import DataError
from vidiff.store.tree import Folder, Tree
from vidiff.video.sources import CLIP_SUFFIXES, clips_in

LAYOUTS = ("auto", "folders", "ucf101", "flat", "images", "list", "webdataset", "shapes")
HELD_OUT = 20  # one file in so many is for testing, where the folders do not tell
LISTS = "ucfTrainTestlist"
GET_UCF = (
    "download UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from the UCF-101 page of the UCF Center for "
    "Research in Computer Vision (crcv.ucf.edu), and unpack both into {root}, so that {root}/UCF-101/<class>/*.avi and "
    "{root}/ucfTrainTestlist/*.txt are there"
)


def find_clips(root: Root, layout: str, split: str, fold: int, tables: Tables) -> tuple[list[Clip], list[str]]:
    """The clips of a split, not looked into yet, and the labels' names.

    Args:
        layout, fold: as of `vidiff.data.index.build_index`.
        tables: of tars whose headers have been read before; those of others are added.

    Raises:
        DataError: a folder, list, tar or split that is missing, or holds no clips.
    """
    tree, name = root.tree, root.name
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and not name and LISTS in tree.inside()[1]):
        return _ucf(tree, split, fold)
    if layout == "list" or (layout == "auto" and root.rows):
        if root.rows is None:
            raise DataError(f"no list {root}: set data.root to a file named {' or '.join(sorted(LIST_SUFFIXES))}")
        clips, labels, has_splits = find_listed(tree, str(root), root.rows, split)
        return (clips if has_splits else _part(clips, split, f"rows of split {split!r} in {root}")), labels
    is_folder = not name and not (isinstance(tree, Folder) and not tree.path.is_dir())
    if layout == "webdataset" or (layout == "auto" and (name.endswith(".tar") or PACKED.search(name))):
        if not (name or is_folder):
            raise DataError(
                f"no folder {tree}: set data.root to a folder with tars, to one, or to such as x-{{000..009}}.tar"
            )
        return _in_tars(root, split, tables)
    if not is_folder:
        raise DataError(f"no folder {root}: set data.root to the folder with your videos, or to a list of them")
    pictures = layout == "images"
    there = _splits(tree, split, pictures)
    if (
        layout == "auto"
        and not there
        and not any(clips_in(tree))
        and not _classes(tree, "", False)
        and holds_tars(tree)
    ):
        return _in_tars(root, split, tables)
    if there and split not in there:
        raise DataError(
            f"no folder {tree}/{split}, though {tree} has {', '.join(there)}: make it, or name another one as "
            "data.split or data.test_split"
        )
    top = split if there else ""
    where = f"{tree}/{top}" if top else str(tree)
    classes = _classes(tree, top, pictures)
    if layout in ("folders", "shapes") or (layout in ("auto", "images") and classes):
        # A class that one split lacks keeps its number in the other.
        names = {_last(folder) for part in there or [""] for folder in _classes(tree, part, pictures)}
        labels = sorted(names)
        numbers = {label: number for number, label in enumerate(labels)}
        pairs = [(clip, numbers[_last(folder)]) for folder in classes for clip in clips_in(tree, folder, pictures)]
        if classes and any(clips_in(tree, top, pictures)):
            tqdm.write(f"videos that lie directly in {where}, beside the folders of classes, are left out")
    else:
        labels, pairs = [], [(clip, -1) for clip in clips_in(tree, top, pictures)]
    if not pairs:
        raise DataError(
            f"no videos in {where} (layout {layout}): expected {'' if layout == 'flat' else '<label>/'}*.mp4 or "
            f"another of {', '.join(sorted(CLIP_SUFFIXES))}; set data.root, or data.layout"
        )
    clips = _placed(tree, pairs)
    return (clips if there else _part(clips, split, f"folder {tree}/{split}")), labels


def _placed(tree: Tree, pairs: list[tuple[str, int]]) -> list[Clip]:
    return [Clip(name, place, label) for name, label in pairs if (place := tree.place(name)) is not None]


def _last(folder: str) -> str:
    return folder.rpartition("/")[2]


def _in_tars(root: Root, split: str, tables: Tables) -> tuple[list[Clip], list[str]]:
    clips, labels, has_splits = find_in_tars(root.tree, root.name, split, tables)
    return (clips if has_splits else _part(clips, split, f"tars of split {split!r} in {root}")), labels


def _part(clips: list[Clip], split: str, absent: str) -> list[Clip]:
    """Every twentieth clip for testing, the others for training, where nothing tells which. A single one is both."""
    if split not in ("train", "test"):
        raise DataError(f"no {absent}: without folders of splits there are train and test alone")
    first = min(HELD_OUT, len(clips)) // 2
    if len(clips) < 2:
        return clips
    return [clip for i, clip in enumerate(clips) if (i % HELD_OUT == first) == (split == "test")]


def _splits(tree: Tree, split: str, pictures: bool) -> list[str]:
    """Names of the folders of splits; none if the folders are classes, of which one may be named "train"."""
    folders = tree.inside()[1]
    named = [folder for folder in folders if folder in SPLITS | {split}]
    splits = [folder for folder in named if any(clips_in(tree, folder, pictures)) or _classes(tree, folder, pictures)]
    classes = [folder for folder in folders if folder not in splits and any(clips_in(tree, folder, pictures))]
    return [] if classes else splits


def _classes(tree: Tree, folder: str, pictures: bool) -> list[str]:
    return [inner for inner in tree.inside(folder)[1] if any(clips_in(tree, inner, pictures))]


def _ucf(tree: Tree, split: str, fold: int) -> tuple[list[Clip], list[str]]:
    top = "UCF-101/" if "UCF-101" in tree.inside()[1] else ""
    videos = f"{tree}/{top}".rstrip("/")
    if fold not in (1, 2, 3):
        raise DataError(f"data.fold is {fold}; UCF-101 has folds 1, 2 and 3")
    if split not in ("train", "test"):
        raise DataError(f"data.split is {split!r}; UCF-101 has train and test")
    listed = f"{split}list{fold:02d}.txt"
    labels = [line.split()[-1] for line in _lines(tree, f"{LISTS}/classInd.txt")]  # as in "1 ApplyEyeMakeup"
    numbers = {name: number for number, name in enumerate(labels)}
    clips, missing = [], []
    for line in _lines(tree, f"{LISTS}/{listed}"):  # as in "Archery/v_Archery_g08_c01.avi 3"
        name = line.split()[0]
        label = name.split("/")[0]
        if label not in numbers:
            raise DataError(f"{tree}/{LISTS}/{listed} names class {label!r}, which classInd.txt does not")
        place = tree.place(f"{top}{name}")
        if place is None:
            missing.append(name)
        else:
            clips.append(Clip(f"{top}{name}", place, numbers[label]))
    if not clips:
        raise DataError(f"none of the {len(missing)} videos of {listed} is in {videos}: " + GET_UCF.format(root=tree))
    if missing:
        tqdm.write(
            f"{len(missing)} of {len(clips) + len(missing)} listed videos are not in {videos}, such as {missing[0]}"
        )
    return clips, labels


def _lines(tree: Tree, name: str) -> list[str]:
    place = tree.place(name)
    if place is None:
        raise DataError(f"no {tree}/{name}: {GET_UCF.format(root=tree)}")
    return [line for line in place.read().decode().split("\n") if line.strip()]
