"""Data sets of tar shards, as WebDataset writes them: which shards there are, of which split, and their labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vidiff.store.error import DataError
from vidiff.store.spans import contents_of
from vidiff.store.tar import Member, TarError

SPLITS = frozenset({"train", "test", "val", "valid", "validation"})  # as parts of a data set are commonly named
MOST_LABELS = 100_000
PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")

Found = list[tuple[str, int]]


def is_tars(root: Path) -> bool:
    """Whether this names a tar, or several by a pattern such as shards-{000..009}.tar, and not a folder."""
    return bool(root.suffix == ".tar" or PACKED.search(root.name)) and not root.is_dir()


def tars_of(root: Path) -> list[Path]:
    """The tars of a name or pattern. Raises DataError where one is not there."""
    tars = [Path(name) for name in expand(str(root))]
    if str(root).startswith("pipe:"):
        raise DataError(f"{root} is a command, and data are never read by one: set data.root to the tars themselves")
    if _BRACES.search(str(root.parent)):
        raise DataError(f"{root} has braces in a folder's name: give them in the names of the tars alone")
    missing = [tar for tar in tars if not os.path.lexists(tar)]
    if missing:
        of = f"{len(missing)} of {len(tars)} tars of the pattern, such as " if len(tars) > 1 else ""
        raise DataError(f"no {of}{missing[0]}: set data.root to what is there")
    return tars


def tars_in(folder: Path) -> list[Path]:
    """The tars that lie directly in a folder, sorted."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in files if path.suffix == ".tar" and not path.is_dir()]


def holds_tars(root: Path) -> bool:
    """Whether a folder, or its folders of splits, hold tars."""
    return any(tars_in(place) for place in (root, *_split_folders(root)))


def clips_in_tars(tars: list[Path]) -> list[Path]:
    """The clips of all these tars, as paths such as shards/000.tar/dog/1.mp4."""
    return [tar / member.name for tar in tars for member in _members(tar)]


def find_in_tars(root: Path, split: str) -> tuple[Found, list[str], bool]:
    """The clips of a split of a data set in tars.

    Args:
        root: a tar; several, as a pattern; or a folder with tars, of different splits where they lie in folders named
            so, or where every name begins with one, as train-000.tar does.

    Returns:
        (path relative to the folder, label) of each clip, the labels' names, and whether there are splits. A label is
        that of .cls or .json beside the clip; where there are none, the folder in the tar.

    Raises:
        DataError: no tars, no such split, tars that cannot be read or hold no clips, labels of two kinds.
    """
    folder, splits = (root.parent, {"": tars_of(root)}) if is_tars(root) else (root, _splits(root))
    if "" not in splits and split not in splits:
        raise DataError(
            f"no tars of split {split!r} in {root}, but of {', '.join(splits)}: name one of them as data.split or "
            "data.test_split"
        )
    members = {name: [(tar, each) for tar in tars for each in _members(tar)] for name, tars in splits.items()}
    labels, numbers = _labels([each for found in members.values() for _, each in found], root)
    chosen = members.get(split, members.get("", []))
    if not chosen:
        raise DataError(f"no videos in the tars of {root}: expected members named *.mp4 or the like")
    found = [((tar / each.name).relative_to(folder).as_posix(), numbers(each)) for tar, each in chosen]
    return found, labels, "" not in splits


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


def _splits(root: Path) -> dict[str, list[Path]]:
    """The tars of each split; all under "" where nothing tells of splits."""
    if not root.is_dir():
        raise DataError(
            f"no folder {root}: set data.root to a folder with tars, to one, or to such as x-{{000..009}}.tar"
        )
    if folders := [folder for folder in _split_folders(root) if tars_in(folder)]:
        return {folder.name: tars_in(folder) for folder in folders}
    tars = tars_in(root)
    if not tars:
        packed = next((path for path in sorted(root.iterdir()) if PACKED.search(path.name)), None)
        raise DataError(
            f"{packed} is compressed, so that no clip in it can be reached by its place: unpack it to a .tar"
            if packed
            else f"no tars in {root}: set data.root, or data.layout"
        )
    named = [re.match(rf"({'|'.join(sorted(SPLITS))})[-_.]", tar.name) for tar in tars]
    if not all(named):
        return {"": tars}
    splits: dict[str, list[Path]] = {}
    for tar, name in zip(tars, named, strict=True):
        splits.setdefault(name[1] if name else "", []).append(tar)
    return splits


def _split_folders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.name in SPLITS and path.is_dir()]


def _members(tar: Path) -> list[Member]:
    """The clips of a tar; what is left out of it is told."""
    try:
        contents = contents_of(tar)
    except OSError as error:
        raise DataError(f"{tar} cannot be opened: {error.strerror or error}") from None
    except TarError as error:
        raise DataError(str(error)) from None
    if contents.skipped:
        name, reason = contents.skipped[0]
        tqdm.write(f"{tar}: {len(contents.skipped)} members are left out, such as {name!r}: {reason}")
    if contents.cut:
        tqdm.write(f"{tar}: {contents.cut}; the {len(contents.members)} clips before that are used: download it again")
    return contents.members


def _labels(members: list[Member], root: Path) -> tuple[list[str], Callable[[Member], int]]:
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

    def own(member: Member) -> str:
        return str(member.label or "") if names else PurePosixPath(member.name).parent.name

    labels = sorted({own(member) for member in members} - {""})
    places = {label: number for number, label in enumerate(labels)}
    return labels, lambda member: places.get(own(member), -1)
