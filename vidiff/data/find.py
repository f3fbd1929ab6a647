"""What a data set holds: clips by split, labels, and what is left out, the same for doctor, index and training."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vidiff.data.actions.lerobot import find_episodes, is_lerobot
from vidiff.data.clip import Clip, LeftOut
from vidiff.data.lists import LIST_SUFFIXES, find_listed
from vidiff.data.root import Root
from vidiff.data.tars import PACKED, SPLITS, Tables, find_in_tars, holds_tars
from vidiff.store.error import DataError
from vidiff.store.tree import Folder, Tree
from vidiff.video.pictures import PICTURE_SUFFIXES, numbered
from vidiff.video.sources import CLIP_SUFFIXES, clips_in

LAYOUTS = ("auto", "folders", "ucf101", "flat", "images", "list", "webdataset", "lerobot", "shapes")
HELD_OUT = 20  # one clip in so many is for testing, where nothing tells which
HALVES = ("train", "test")  # what the clips of such a data set are split into
BESIDE = frozenset(
    [".txt", ".csv", ".jsonl", ".json", ".cls", ".srt", ".vtt", ".md", ".yaml", ".yml", ".xml", ".html", ".npy"]
)  # texts and numbers about clips
LISTS = "ucfTrainTestlist"
GET_UCF = (
    "download UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from the UCF-101 page of the UCF Center for "
    "Research in Computer Vision (crcv.ucf.edu), and unpack both into {root}, so that {root}/UCF-101/<class>/*.avi and "
    "{root}/ucfTrainTestlist/*.txt are there"
)


@dataclass(frozen=True)
class Stock:
    """What a data set holds, not looked into yet.

    Args:
        root: where it is, which messages call it by.
        splits: the clips of each split; all under "" where nothing tells of splits.
        labels: names of the classes, by number.
        left_out: each file that a training passes by, and why.
    """

    root: Root
    splits: dict[str, list[Clip]]
    labels: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def is_split(self) -> bool:
        """Whether its folders, list or tars tell which clips are for testing."""
        return "" not in self.splits

    @property
    def clips(self) -> list[Clip]:
        """Of all splits; each once."""
        return [*{clip.name: clip for clips in self.splits.values() for clip in clips}.values()]

    def within(self, split: str) -> list[Clip]:
        """The clips of a split; all clips where nothing tells of splits, of which `halves` makes two.

        Raises:
            DataError: there is no such split, or nothing in it.
        """
        if not self.is_split:
            if split not in HALVES:
                raise DataError(
                    f"no split {split!r} in {self.root}: where no folders, rows or tars tell of splits there are train "
                    "and test alone"
                )
            return self.splits[""]
        if not self.splits.get(split):
            there = ", ".join(name for name, clips in self.splits.items() if clips)
            raise DataError(
                f"no clips of split {split!r} in {self.root}, but of {there}: add some, or name one of these as "
                "data.split or data.test_split"
            )
        return self.splits[split]

    def of(self, split: str) -> list[Clip]:
        """The clips of a split, which their names tell where nothing else does. Raises DataError as `within`."""
        clips = self.within(split)
        return clips if self.is_split else halves(clips)[:2][HALVES.index(split)]


def chosen_splits(names: Sequence[str]) -> dict[str, str] | None:
    """Which of a data set's splits is trained on and which is held out, by key of the config.

    Args:
        names: of the splits that have clips.

    Returns:
        None where there are not two.
    """
    rest, chosen = [*names], dict[str, str]()
    for key, usual in (("split", ["train"]), ("test_split", ["test", "validation", "valid", "val"])):
        if not rest:
            return None
        chosen[key] = next((name for name in usual if name in rest), rest[0])
        rest.remove(chosen[key])
    return chosen


def share_of(name: str) -> float:
    """Where in [0, 1) the name of a clip falls: below 1 / HELD_OUT it is held out, whatever other clips there are.

    Names that look the same in Unicode fall to the same place, as a disk of macOS writes them otherwise.
    """
    text = unicodedata.normalize("NFC", name).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


def is_held_out(name: str) -> bool:
    """Whether the name of a clip has it held out for testing, where nothing else tells."""
    return share_of(name) * HELD_OUT < 1


def halves(
    clips: Sequence[Clip], first: Callable[[Iterable[Clip]], Clip | None] = lambda clips: next(iter(clips), None)
) -> tuple[list[Clip], list[Clip], str]:
    """Clips for training, and about one in twenty for testing, as the name of each has it, whatever others there are.

    Neither is left without a clip that can be used: then the one whose name comes nearest changes side. A single clip
    is on both.

    Args:
        first: gives the first of some clips that can be used.

    Returns:
        for training, for testing, and what is to be told of a clip that has changed side; empty where none has.
    """
    ranked = sorted({clip.name: clip for clip in clips}.values(), key=lambda clip: share_of(clip.name))
    test = {clip.name for clip in ranked if is_held_out(clip.name)}
    train, told = {clip.name for clip in ranked} - test, ""
    kept = first(clip for clip in clips if clip.name in test)
    if kept is None:
        kept = first(clip for clip in ranked if clip.name in train)
        if kept is None:
            return [*clips], [*clips], ""
        test.add(kept.name)
        train.remove(kept.name)
        told = f"no clip whose name has it held out can be used: {kept.name}, the nearest of {len(ranked)}, is held out"
    if first(clip for clip in clips if clip.name in train) is None:
        moved = first(clip for clip in reversed(ranked) if clip.name in test and clip.name != kept.name)
        if moved is None:
            told = f"{kept.name}, the only clip that can be used, is trained on and held out as well"
        else:
            told = f"no other clip can be used: {moved.name}, whose name has it held out, is trained on"
            test.remove(moved.name)
        train.add((moved or kept).name)
    return [clip for clip in clips if clip.name in train], [clip for clip in clips if clip.name in test], told


def take_stock(
    root: Root,
    layout: str,
    fold: int = 1,
    splits: Collection[str] = (),
    tables: Tables | None = None,
    camera: str = "",
) -> Stock:
    """All that a data set holds.

    Args:
        layout, fold: as of `vidiff.data.index.build_index`.
        splits: further names that folders of splits may have.
        tables: of tars whose headers have been read before; those of others are added.
        camera: of a data set of LeRobot, as of `vidiff.data.actions.lerobot.find_episodes`.

    Raises:
        DataError: a folder, list or tar that is missing, or holds no clips.
    """
    tree, name, tables = root.tree, root.name, {} if tables is None else tables
    if layout not in LAYOUTS:
        raise DataError(f"data.layout is {layout!r}; choose {', '.join(LAYOUTS)}")
    if layout == "ucf101" or (layout == "auto" and not name and LISTS in tree.inside()[1]):
        return _ucf(root, fold)
    if layout == "list" or (layout == "auto" and root.rows):
        if root.rows is None:
            raise DataError(f"no list {root}: set data.root to a file named {' or '.join(sorted(LIST_SUFFIXES))}")
        return Stock(root, *find_listed(tree, str(root), root.rows))
    is_folder = not name and not (isinstance(tree, Folder) and not tree.path.is_dir())
    if layout == "webdataset" or (layout == "auto" and (name.endswith(".tar") or PACKED.search(name))):
        if not (name or is_folder):
            raise DataError(
                f"no folder {tree}: set data.root to a folder with tars, to one, or to such as x-{{000..009}}.tar"
            )
        return Stock(root, *find_in_tars(tree, name, tables))
    if not is_folder:
        raise DataError(f"no folder {root}: set data.root to the folder with your videos, or to a list of them")
    if layout == "lerobot" or (layout == "auto" and is_lerobot(tree)):
        episodes, left_out = find_episodes(tree, camera)
        return Stock(root, episodes, [], left_out)
    return _in_folders(root, layout, SPLITS | {*splits}, tables)


def _in_folders(root: Root, layout: str, named: Collection[str], tables: Tables) -> Stock:
    tree = root.tree
    names, left_out = _walk(tree, layout == "images")
    near = [name for name in names if name.count("/") < (3 if name.partition("/")[0] in named else 2)]
    if layout == "auto" and not near and holds_tars(tree):
        packed, labels, left_out = find_in_tars(tree, "", tables)
        return Stock(root, packed, labels, [*left_out, *_strays(tree, names, "a clip beside tars")])
    parts, beside = _parts(names, named)
    left_out += _strays(tree, beside, "a clip beside the folders of splits")
    # A class that one split lacks keeps its number in the other.
    by_class = {
        top: layout in ("folders", "shapes") or (layout != "flat" and _has_classes(inner))
        for top, inner in parts.items()
    }
    labels = sorted(
        {name.partition("/")[0] for top, inner in parts.items() if by_class[top] for name in inner if "/" in name}
    )
    numbers = {label: number for number, label in enumerate(labels)}
    splits: dict[str, list[Clip]] = {}
    for top, inner in parts.items():
        direct = [name for name in inner if "/" not in name]
        if by_class[top]:
            kept, others = [name for name in inner if "/" in name], direct
            reason = "a clip beside the folders of classes"
        else:
            kept, others = direct or inner, [name for name in inner if "/" in name] if direct else []
            reason = "a clip in a folder, beside clips without one"
        before = f"{top}/" if top else ""
        left_out += _strays(tree, [before + name for name in others], reason)
        places = ((name, tree.place(before + name)) for name in kept)
        splits[top] = [
            Clip(before + name, place, numbers[name.partition("/")[0]] if by_class[top] else -1)
            for name, place in places
            if place is not None
        ]
    if not any(splits.values()):
        raise DataError(
            f"no videos in {tree} (layout {layout}): expected {'' if layout == 'flat' else '<label>/'}*.mp4, or other "
            "videos, animations or folders of numbered pictures; set data.root, or data.layout"
            + (f"; {len(left_out)} other files are there, such as {left_out[0].name}" if left_out else "")
        )
    return Stock(root, splits, labels, left_out)


def _walk(tree: Tree, pictures: bool) -> tuple[list[str], list[LeftOut]]:
    """The names of all clips below a folder, sorted, and the files that are none."""
    clips, left_out = list[str](), list[LeftOut]()
    for folder, files, folders in tree.walk():
        there = clips_in(folder, files, folders, pictures)
        clips += there
        frames = {*numbered(files)} if there == [folder] else ()
        for file in files:
            suffix = PurePosixPath(file).suffix.lower()
            if suffix in CLIP_SUFFIXES | BESIDE or file in frames or (pictures and suffix in PICTURE_SUFFIXES):
                continue
            kind = "a file of a kind that is not read" + (f", {suffix}" if suffix else "")
            if suffix in PICTURE_SUFFIXES:
                kind = "a picture that is no frame: a clip of pictures is a folder of numbered ones alone"
            elif suffix == ".tar":
                kind = "a tar beside clips: data.layout=webdataset reads those"
            left_out.append(LeftOut(file, kind))
    # a folder's clips stand together, before those of folders in it
    return sorted(clips, key=lambda name: name.split("/")), left_out


def _parts(names: Sequence[str], named: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The names of the clips of each split, relative to its folder; all under "" where folders tell of none.

    They do not where the folders are classes, of which one may be named "train". Second, the names of the other clips.
    """
    inner: dict[str, list[str]] = {}
    for name in names:
        top, _, rest = name.partition("/")
        if rest:
            inner.setdefault(top, []).append(rest)
    splits = {top: rests for top, rests in inner.items() if top in named}
    if not splits or any("/" not in rest for top, rests in inner.items() if top not in splits for rest in rests):
        return {"": [*names]}, []
    return splits, [name for name in names if name.partition("/")[0] not in splits or "/" not in name]


def _has_classes(names: Sequence[str]) -> bool:
    """Whether folders hold clips directly; or, where no clip lies without one, at any depth."""
    depths = {name.count("/") for name in names}
    return 1 in depths or (bool(depths) and 0 not in depths)


def _strays(tree: Tree, names: Iterable[str], reason: str) -> list[LeftOut]:
    return [LeftOut(name, reason, place=tree.place(name)) for name in names]


def _ucf(root: Root, fold: int) -> Stock:
    tree = root.tree
    top = "UCF-101/" if "UCF-101" in tree.inside()[1] else ""
    videos = f"{tree}/{top}".rstrip("/")
    labels = [line.split()[-1] for line in _lines(tree, f"{LISTS}/classInd.txt")]  # as in "1 ApplyEyeMakeup"
    numbers = {name: number for number, name in enumerate(labels)}
    splits: dict[str, list[Clip]] = {}
    left_out, listed = list[LeftOut](), set[str]()
    for split in HALVES:
        file = f"{split}list{fold:02d}.txt"
        names = [line.split()[0] for line in _lines(tree, f"{LISTS}/{file}")]  # as in "Archery/v_Archery_g08_c01.avi 3"
        splits[split] = []
        for name in names:
            label = name.split("/")[0]
            if label not in numbers:
                raise DataError(f"{tree}/{LISTS}/{file} names class {label!r}, which classInd.txt does not")
            if (place := tree.place(f"{top}{name}")) is None:
                left_out.append(LeftOut(name, f"a video of {file} that is not in {videos}"))
            else:
                splits[split].append(Clip(f"{top}{name}", place, numbers[label]))
        if names and not splits[split]:
            raise DataError(f"none of the {len(names)} videos of {file} is in {videos}: " + GET_UCF.format(root=tree))
        listed |= {clip.name for clip in splits[split]}
    names, others = _walk(tree, pictures=False)
    left_out += _strays(
        tree, [name for name in names if name not in listed], f"a video that no list of fold {fold} has"
    )
    return Stock(root, splits, labels, left_out + others)


def _lines(tree: Tree, name: str) -> list[str]:
    place = tree.place(name)
    if place is None:
        raise DataError(f"no {tree}/{name}: {GET_UCF.format(root=tree)}")
    return [line for line in place.read().decode().split("\n") if line.strip()]
