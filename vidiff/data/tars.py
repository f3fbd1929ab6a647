"""Data sets of tar shards, as WebDataset writes them: which shards there are, of which split, their clips and labels.

The members that share a name up to the first dot of its last part are one sample: a video (or an animation, or else a
picture), and beside it .cls (a label), .json ("label", "caption"), .txt (a caption) or .actions.npy, .csv or .jsonl. A
member actions.json names the dimensions of the actions in its folder, and in those below.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import product
from mimetypes import guess_type
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from vidiff.data.clip import ABOUT, ACTION_SUFFIXES, ActionsAt, Clip, LeftOut
from vidiff.store.error import DataError, VideoError
from vidiff.store.place import Place
from vidiff.store.tar import Member, Members, TarError
from vidiff.store.tree import Tree
from vidiff.video.decode import VIDEO_SUFFIXES
from vidiff.video.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES

SPLITS = frozenset({"train", "test", "val", "valid", "validation"})  # as parts of a data set are commonly named
READ = 3  # goes up when more of the same tar comes to be taken for clips, or told of
MOST_LABELS = 100_000
LARGEST_TEXT = 1 << 20  # bytes of a .json, .cls or .txt
PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")


class Packed(NamedTuple):
    """A clip in a tar: its name there, and where its bytes are.

    Args:
        label: a number or a name; None where none is given.
        caption: empty where there is none.
        actions: member with what was done in it.
        about: member that names the dimensions of that.
    """

    name: str
    start: int
    size: int
    label: int | str | None = None
    caption: str = ""
    actions: Member | None = None
    about: Member | None = None


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
    return f"{tar.key}|{tar.version}|{tar.stamp()}|{READ}"


def find_in_tars(tree: Tree, pattern: str, tables: Tables) -> tuple[dict[str, list[Clip]], list[str], list[LeftOut]]:
    """The clips of a data set in tars.

    Args:
        pattern: in the tree, of a tar or of several, such as shards-{000..009}.tar; "" for all tars in it, of different
            splits where they lie in folders named so, or where every name begins with one, as train-000.tar does.
        tables: of tars whose headers have been read before; those of others are added.

    Returns:
        the clips of each split, all under "" where there are none; the labels' names; and what is left out. A label is
        that of .cls or .json beside the clip; where there are none, the folder in the tar.

    Raises:
        DataError: no tars, tars that cannot be read or hold no clips, labels of two kinds.
    """
    root = f"{tree}/{pattern}" if pattern else str(tree)
    splits, left_out = ({"": tars_of(tree, pattern)}, list[LeftOut]()) if pattern else _splits(tree)
    members = {
        of: [pair for tar in tars for pair in _packed(tree, tar, tables, left_out)] for of, tars in splits.items()
    }
    labels, number = _labels([clip for pairs in members.values() for _, clip in pairs], root)
    if not any(members.values()):
        raise DataError(f"no videos in the tars of {root}: expected members named *.mp4 or the like")
    return (
        {of: [_clip(tar, clip, number(clip)) for tar, clip in pairs] for of, pairs in members.items()},
        labels,
        left_out,
    )


def _clip(tar: _Tar, clip: Packed, label: int = -1) -> Clip:
    part = tar.place.part(clip.name, clip.start, clip.size)
    rows, about = (member and tar.place.part(*member) for member in (clip.actions, clip.about))
    actions = ActionsAt(rows, about) if rows or about else None
    return Clip(f"{tar.name}/{clip.name}", part, label, clip.caption, actions=actions)


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


def holds_tars(tree: Tree) -> bool:
    """Whether there are tars in a folder, or below it."""
    return any(file.endswith(".tar") for _, files, _ in tree.walk() for file in files)


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


def _splits(tree: Tree) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """The tars of each split, all under "" where nothing tells of splits; and those that are left out."""
    files = [file for _, files, _ in tree.walk() for file in files]
    tars = sorted(file for file in files if file.endswith(".tar"))
    if not tars:
        packed = next((file for file in files if PACKED.search(file)), None)
        raise DataError(
            f"{tree}/{packed} is compressed, so that no clip in it can be reached by its place: unpack it to a .tar"
            if packed
            else f"no tars in {tree}: set data.root, or data.layout"
        )
    inner: dict[str, list[str]] = {}
    for tar in tars:
        inner.setdefault(tar.partition("/")[0] if "/" in tar else "", []).append(tar)
    if splits := {top: inner[top] for top in inner if top in SPLITS}:
        others = [tar for tar in tars if tar.partition("/")[0] not in splits]
        return splits, [LeftOut(tar, "a tar beside the folders of splits") for tar in others]
    others = [tar for tar in tars if "/" in tar] if "" in inner else []
    left_out = [LeftOut(tar, "a tar in a folder, beside tars without one") for tar in others]
    tars = inner.get("", tars)
    named = [re.match(rf"({'|'.join(sorted(SPLITS))})[-_.]", tar) for tar in tars]
    if not all(named):
        return {"": tars}, left_out
    for tar, name in zip(tars, named, strict=True):
        splits.setdefault(name[1] if name else "", []).append(tar)
    return splits, left_out


def _packed(tree: Tree, name: str, tables: Tables, left_out: list[LeftOut]) -> list[tuple[_Tar, Packed]]:
    """The clips of a tar, each with that; what of it is left out is added there."""
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
    left_out += [LeftOut(f"{name}/{member}", f"a member of a tar: {reason}") for member, reason in contents.skipped]
    if contents.cut:
        rest = f"{contents.cut}; the {len(contents.clips)} clips before that are used: download it again"
        left_out.append(LeftOut(name, "the rest of a tar", rest))
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
    actions: dict[str, Member] = field(default_factory=dict)  # by what they end in


def read_contents(tar: Place) -> Contents:
    """Reads all headers of a tar, and the small texts beside the clips. Raises TarError, VideoError, OSError."""
    samples: dict[str, _Sample] = {}
    abouts: dict[str, Member] = {}  # by folder
    with tar.held() as here, here.open() as raw:
        members, end = Members(tar.name, raw), os.fstat(raw.fileno()).st_size
        for member in members:
            folder, _, last = member.name.rpartition("/")
            stem, _, extension = last.partition(".")
            if not (stem and extension):
                continue
            if last == ABOUT:
                abouts[folder] = member
                continue
            sample = samples.setdefault(f"{folder}/{stem}", _Sample())
            extension = extension.lower()
            if extension in ("cls", "json", "txt"):
                sample.texts[extension] = member
            elif (kind := extension.removeprefix("actions.")) in ACTION_SUFFIXES and kind != extension:
                sample.actions[kind] = member
            elif (rank := _rank(extension)) is not None:
                if sample.clip is None or rank < sample.clip[0]:
                    sample.clip = (rank, member)
                elif rank == sample.clip[0]:  # a picture beside a video only shows what is in that
                    members.skipped.append((member.name, "another clip of its sample comes first"))
            elif (guess_type(f"x.{extension}")[0] or "").startswith(("video/", "image/")):
                members.skipped.append((member.name, "of a kind that is not read"))
        clips, skipped = [], members.skipped
        for sample in samples.values():
            if sample.clip is None:
                continue
            name, start, size = sample.clip[1]
            try:
                texts = _read_texts(raw, sample)
                actions = next(filter(None, map(sample.actions.get, ACTION_SUFFIXES)), None)
                about = _nearest(abouts, name)
                clips.append(Packed(name, start, max(0, min(size, end - start)), *texts, actions, about))
            except _Malformed as error:
                skipped.append((name, str(error)))
    return Contents(sorted(clips, key=lambda clip: clip.start), skipped, members.cut)


def _nearest(abouts: Mapping[str, Member], name: str) -> Member | None:
    """What names the dimensions of a member's actions: in its folder, or in the next above that has one."""
    folder = name
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in abouts:
            return abouts[folder]
    return None


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
