"""Data sets of tar shards, as WebDataset writes them: which shards there are, of which split, their clips and labels.

The members that share a name up to the first dot of its last part are one sample: a video (or an animation, or else a
picture), and beside it .cls (a label), .json ("label", "caption") or .txt (a caption).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from vidiff.data.clip import Clip
from vidiff.store.error import DataError, VideoError
from vidiff.store.place import Place
from vidiff.store.tar import Member, Members, TarError
from vidiff.store.tree import Tree
from vidiff.video.decode import VIDEO_SUFFIXES
from vidiff.video.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES

SPLITS = frozenset({"train", "test", "val", "valid", "validation"})  # as parts of a data set are commonly named
MOST_LABELS = 100_000
LARGEST_TEXT = 1 << 20  # bytes of a .json, .cls or .txt
PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")


class Packed(NamedTuple):
    """A clip in a tar: its name there, and where its bytes are.

    Args:
        label: a number or a name; None where none is given.
        caption: empty where there is none.
    """

    name: str
    start: int
    size: int
    label: int | str | None = None
    caption: str = ""


class Contents(NamedTuple):
    """What a tar holds.

    Args:
        skipped: (name, reason) of each member that is left out.
        cut: why the tar ends before its end; empty for a whole one.
    """

    clips: list[Packed]
    skipped: list[tuple[str, str]]
    cut: str = ""


class _Tar(NamedTuple):
    """A tar: its name in the data set's folder, and where it is."""

    name: str
    place: Place


Tables = MutableMapping[str, Contents]  # of tars that have been read, by `table_key`


def table_key(tar: Place) -> str:
    """Changes whenever the tar does."""
    return f"{tar.key}|{tar.version}|{tar.stamp()}"


def find_in_tars(tree: Tree, pattern: str, split: str, tables: Tables) -> tuple[list[Clip], list[str], bool]:
    """The clips of a split of a data set in tars.

    Args:
        pattern: in the tree, of a tar or of several, such as shards-{000..009}.tar; "" for all tars in it, of different
            splits where they lie in folders named so, or where every name begins with one, as train-000.tar does.
        tables: of tars whose headers have been read before; those of others are added.

    Returns:
        the clips, the labels' names, and whether there are splits. A label is that of .cls or .json beside the clip;
        where there are none, the folder in the tar.

    Raises:
        DataError: no tars, no such split, tars that cannot be read or hold no clips, labels of two kinds.
    """
    root = f"{tree}/{pattern}" if pattern else str(tree)
    splits = {"": tars_of(tree, pattern)} if pattern else _splits(tree)
    if "" not in splits and split not in splits:
        raise DataError(
            f"no tars of split {split!r} in {root}, but of {', '.join(splits)}: name one of them as data.split or "
            "data.test_split"
        )
    members = {of: [pair for tar in tars for pair in _packed(tree, tar, tables)] for of, tars in splits.items()}
    labels, number = _labels([clip for found in members.values() for _, clip in found], root)
    chosen = members.get(split, members.get("", []))
    if not chosen:
        raise DataError(f"no videos in the tars of {root}: expected members named *.mp4 or the like")
    return [_clip(tar, clip, number(clip)) for tar, clip in chosen], labels, "" not in splits


def clips_in_tars(tree: Tree, tars: list[str]) -> list[Clip]:
    """The clips of all these tars."""
    return [_clip(*pair) for tar in tars for pair in _packed(tree, tar, {})]


def _clip(tar: _Tar, clip: Packed, label: int = -1) -> Clip:
    part = tar.place.part(clip.name, clip.start, clip.size)
    return Clip(f"{tar.name}/{clip.name}", part, label, clip.caption)


def tars_of(tree: Tree, pattern: str) -> list[str]:
    """The tars of a name or pattern. Raises DataError where one is not there."""
    if str(tree).startswith("pipe:") or pattern.startswith("pipe:"):
        raise DataError(f"{pattern} is a command, and data are never read by one: set data.root to the tars themselves")
    if _BRACES.search(str(tree)):
        raise DataError(f"{tree}/{pattern} has braces in a folder's name: give them in the names of the tars alone")
    tars = expand(pattern)
    missing = [tar for tar in tars if tree.place(tar) is None]
    if missing:
        of = f"{len(missing)} of {len(tars)} tars of the pattern, such as " if len(tars) > 1 else ""
        raise DataError(f"no {of}{tree}/{missing[0]}: set data.root to what is there")
    return tars


def tars_in(files: list[str]) -> list[str]:
    """The tars among the files of a folder."""
    return [file for file in files if file.endswith(".tar")]


def holds_tars(tree: Tree) -> bool:
    """Whether a folder, or its folders of splits, hold tars."""
    return any(tars_in(tree.inside(folder)[0]) for folder in ("", *_split_folders(tree)))


def expand(pattern: str) -> list[str]:
    """The names of a pattern, in which {000..009} stands for numbers and {a,b} for alternatives.

    Raises DataError for braces that are neither.
    """
    choices = []
    for part in _BRACES.findall(pattern):
        if found := re.fullmatch(r"(\d+)\.\.(\d+)", part):
            first, last = int(found[1]), int(found[2])
            if not first <= last < first + 10_000_000:
                raise DataError(f"{{{part}}} in {pattern} counts no numbers: expected such as {{000..009}}")
            width = len(found[1]) if found[1].startswith("0") else 0
            choices.append([f"{number:0{width}d}" for number in range(first, last + 1)])
        elif "," in part:
            choices.append(part.split(","))
        else:
            raise DataError(f"{{{part}}} in {pattern} stands for nothing: expected such as {{000..009}} or {{a,b}}")
    plain = _BRACES.split(pattern)[::2]
    return ["".join(text + word for text, word in zip(plain, (*words, ""), strict=True)) for words in product(*choices)]


def _splits(tree: Tree) -> dict[str, list[str]]:
    """The tars of each split; all under "" where nothing tells of splits."""
    if folders := [folder for folder in _split_folders(tree) if tars_in(tree.inside(folder)[0])]:
        return {folder: tars_in(tree.inside(folder)[0]) for folder in folders}
    files = tree.inside()[0]
    tars = tars_in(files)
    if not tars:
        packed = next((file for file in files if PACKED.search(file)), None)
        raise DataError(
            f"{tree}/{packed} is compressed, so that no clip in it can be reached by its place: unpack it to a .tar"
            if packed
            else f"no tars in {tree}: set data.root, or data.layout"
        )
    named = [re.match(rf"({'|'.join(sorted(SPLITS))})[-_.]", tar) for tar in tars]
    if not all(named):
        return {"": tars}
    splits: dict[str, list[str]] = {}
    for tar, name in zip(tars, named, strict=True):
        splits.setdefault(name[1] if name else "", []).append(tar)
    return splits


def _split_folders(tree: Tree) -> list[str]:
    return [folder for folder in tree.inside()[1] if folder in SPLITS]


def _packed(tree: Tree, name: str, tables: Tables) -> list[tuple[_Tar, Packed]]:
    """The clips of a tar, each with that; what is left out of it is told."""
    tar = tree.place(name)
    assert tar is not None
    key = table_key(tar)
    try:
        contents = tables[key] if key in tables else read_contents(tar)
    except OSError as error:
        raise DataError(f"{tar} cannot be opened: {error.strerror or error}") from None
    except (TarError, VideoError) as error:
        raise DataError(str(error)) from None
    tables[key] = contents
    if contents.skipped:
        member, reason = contents.skipped[0]
        tqdm.write(f"{tar}: {len(contents.skipped)} members are left out, such as {member!r}: {reason}")
    if contents.cut:
        tqdm.write(f"{tar}: {contents.cut}; the {len(contents.clips)} clips before that are used: download it again")
    of = _Tar(name, tar)
    return [(of, clip) for clip in contents.clips]


def _labels(members: list[Packed], root: str) -> tuple[list[str], Callable[[Packed], int]]:
    """The labels' names, and what gives the number of a clip's own; -1 for a clip without."""
    given = {member.label for member in members} - {None}
    names = {str(label) for label in given if isinstance(label, str)}
    numbers = [label for label in given if isinstance(label, int)]
    if names and numbers:
        raise DataError(
            f"labels in {root} are numbers, such as {min(numbers)}, and names, such as {min(names)}: give all alike"
        )
    if numbers:
        if max(numbers) >= MOST_LABELS:
            raise DataError(f"label {max(numbers)} in {root}: labels are numbered from 0, to {MOST_LABELS - 1} at most")
        labels = [str(number) for number in range(max(numbers) + 1)]
        return labels, lambda member: -1 if member.label is None else int(member.label)

    def own(member: Packed) -> str:
        return str(member.label or "") if names else PurePosixPath(member.name).parent.name

    labels = sorted({own(member) for member in members} - {""})
    places = {label: number for number, label in enumerate(labels)}
    return labels, lambda member: places.get(own(member), -1)


@dataclass
class _Sample:
    clip: tuple[int, Member] | None = None  # with its rank
    texts: dict[str, Member] = field(default_factory=dict)  # of "cls", "json", "txt"


def read_contents(tar: Place) -> Contents:
    """Reads all headers of a tar, and the small texts beside the clips. Raises TarError, VideoError, OSError."""
    samples: dict[str, _Sample] = {}
    with tar.held() as here, here.open() as raw:
        members, end = Members(tar.name, raw), os.fstat(raw.fileno()).st_size
        for member in members:
            folder, _, last = member.name.rpartition("/")
            stem, _, extension = last.partition(".")
            if not (stem and extension):
                continue
            sample = samples.setdefault(f"{folder}/{stem}", _Sample())
            extension = extension.lower()
            if extension in ("cls", "json", "txt"):
                sample.texts[extension] = member
            elif (rank := _rank(extension)) is not None and (sample.clip is None or rank < sample.clip[0]):
                sample.clip = (rank, member)
        clips, skipped = [], members.skipped
        for sample in samples.values():
            if sample.clip is None:
                continue
            name, start, size = sample.clip[1]
            try:
                clips.append(Packed(name, start, max(0, min(size, end - start)), *_read_texts(raw, sample)))
            except _Malformed as error:
                skipped.append((name, str(error)))
    return Contents(sorted(clips, key=lambda clip: clip.start), skipped, members.cut)


def _rank(extension: str) -> int | None:
    """0 for videos and animations, 1 for pictures, None for what is no clip."""
    suffix = "." + extension.rpartition(".")[2]
    if suffix in VIDEO_SUFFIXES | ANIMATION_SUFFIXES:
        return 0
    return 1 if suffix in PICTURE_SUFFIXES else None


class _Malformed(Exception):
    """What a text beside a clip should not be."""


def _read_texts(raw: BinaryIO, sample: _Sample) -> tuple[int | str | None, str]:
    """Label and caption of a sample."""
    texts = {}
    for kind, (name, start, size) in sample.texts.items():
        content = os.pread(raw.fileno(), min(size, LARGEST_TEXT + 1), start)
        if len(content) < size:
            raise _Malformed(f"its {name} is cut off, or has more than {LARGEST_TEXT:,} bytes")
        try:
            texts[kind] = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise _Malformed(f"its {name} is not UTF-8 text") from None
    label: int | str | None = None
    caption = ""
    if "json" in texts:
        name = sample.texts["json"].name
        try:
            content = json.loads(texts["json"])
        except (ValueError, RecursionError):
            raise _Malformed(f"its {name} is not JSON") from None
        if not isinstance(content, dict):
            raise _Malformed(f"its {name} is no JSON object")
        label, caption = content.get("label"), content.get("caption") or ""
        if not (label is None or (isinstance(label, (int, str)) and not isinstance(label, bool))):
            raise _Malformed(f"the label in its {name} is neither a number nor a name")
        if not isinstance(caption, str):
            raise _Malformed(f"the caption in its {name} is no text")
        label = label.strip() or None if isinstance(label, str) else label
    if text := texts.get("cls"):
        label = int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else text
    if isinstance(label, int) and not 0 <= label < 1 << 31:
        raise _Malformed(f"its label is {label}: labels are numbered from 0")
    return label, " ".join((caption or texts.get("txt", "")).split())
