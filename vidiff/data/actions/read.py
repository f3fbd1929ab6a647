"""The actions of a data set's clips, from the files beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from vidiff.data.actions.lerobot import lerobot_rows, lerobot_space
from vidiff.data.actions.space import ActionSpace
from vidiff.data.clip import ABOUT, ACTION_SUFFIXES, NAMED, Clip, stem_of
from vidiff.data.root import Root
from vidiff.store.error import DataError
from vidiff.store.place import Place
from vidiff.store.tree import Tree
from vidiff.video.reader import Manner
from vidiff.video.retime import shown_at

Rows = tuple[ActionSpace, list[np.ndarray]]
"""The dimensions, and rows `(frames, a)` of each clip."""


def read_actions(root: Root, clips: Sequence[Clip]) -> Rows:
    """What was done in each clip of a data set: row i is what led from its frame i - 1 to its frame i.

    Beside `a/0001.mp4` lies `0001.actions.npy`, numbers of shape `(frames, dimensions)`; or `0001.actions.csv` with a
    line of numbers for each frame, after a first line that names the columns; or `0001.actions.jsonl` with a list of
    numbers, or an object of them by name, for each. `actions.json` in the same folder, or in one above, names the
    dimensions: {"actions": [{"name": "move", "kind": "discrete", "count": 4, "names": ["NOOP", ...]}, {"name": "pull",
    "kind": "continuous", "low": -1, "high": 1}]}. What was not recorded is -1 of a discrete one, else NaN. In a tar
    both are members, and actions.json may lie beside the tar as well; a list names the files in a column, actions.
    Those of LeRobot are read as `vidiff.data.actions.lerobot` tells.

    Returns:
        the dimensions, which all clips share, and rows `(frames, a)`, float64, of each clip as its record has it.

    Raises:
        DataError: no such file beside a clip, or one that cannot be read; another number of rows than the clip has
            frames; a number out of range; dimensions that differ from folder to folder.
    """
    tree, space = root.tree, space_of(root, clips)
    rows, wrong = list[np.ndarray](), list[str]()
    for clip in clips:
        try:
            rows.append(rows_of(tree, clip, space))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = f"\nand {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise DataError(f"actions of {len(wrong)} of {len(clips)} clips: " + "\n".join(wrong[:NAMED]) + more)
    return space, rows


def frames_behind(clip: Clip, manner: Manner) -> tuple[np.ndarray, int]:
    """A clip's own frame behind each frame that is seen of it at another rate, and how many of its own it has.

    Args:
        manner: how it is read; of a part, its own frames count from the beginning of that.

    Raises:
        DataError: its time stamps are no longer those by which its frames were counted. VideoError: it cannot be read.
    """
    with clip.place.held() as here, replace(manner, fps=0.0).open(here) as own:
        behind, frames = shown_at(own.times, manner.fps, own.fps), own.frames
    if len(behind) != clip.frames:
        raise DataError(
            f"{clip.name} has {len(behind)} frames at {manner.fps:g} a second, but had {clip.frames} when it was "
            "looked at: run again"
        )
    return behind, frames


def space_of(root: Root, clips: Sequence[Clip]) -> ActionSpace:
    """The dimensions of the actions of a data set's clips, one or more. Raises DataError where none are named, or where
    they differ from folder to folder."""
    told: dict[str, ActionSpace] = {}
    for clip in clips:
        about = clip.actions and clip.actions.about
        where = str(about or PurePosixPath(clip.name).parent)
        if where not in told:
            if clip.actions is not None and clip.actions.episode >= 0:
                told[where] = lerobot_space(root.tree)
            else:
                told[where] = _space_in(about or about_in(root.tree, where))
    (first, space), *others = sorted(told.items())
    for folder, other in others:
        if other != space:
            raise DataError(
                f"{root.tree}: actions are {space} in {first}, but {other} in {folder}: clips of one training share "
                "their dimensions"
            )
    return space


def has_actions(root: Root, clips: Sequence[Clip]) -> bool:
    """Whether a data set has actions, of some of its clips at least."""
    folders = {folder for clip in clips for folder in PurePosixPath(clip.name).parents}
    return any(root.tree.place(str(folder / ABOUT)) is not None for folder in folders)


def actions_in(place: Place, space: ActionSpace) -> np.ndarray:
    """The actions in one file, .npy, .csv or .jsonl, `(n, a)`. Raises ValueError where it cannot be read as such."""
    parse = PARSERS.get(PurePosixPath(place.name).suffix[1:])
    if parse is None:
        raise ValueError(f"{place} is no file of actions; give one that ends in .{', .'.join(PARSERS)}")
    try:
        rows = parse(place.read(), space)
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ValueError(f"{place}: cannot be read as actions, {error}") from None
    space.check(rows, str(place))
    return rows


def about_in(tree: Tree, folder: str) -> Place:
    """The nearest `actions.json`, from a folder upwards. Raises DataError where there is none."""
    for above in (PurePosixPath(folder), *PurePosixPath(folder).parents):
        place = tree.place(str(above / ABOUT))
        if place is not None and not place.is_folder:
            return place
    # beside a list here of clips that are elsewhere
    if (place := tree.place(str(Path(str(tree)).absolute() / ABOUT))) is not None:
        return place
    raise DataError(
        f"no {ABOUT} in {tree}/{folder} or above it, which names the dimensions of actions: write one, or set "
        "data.actions=false"
    )


def _space_in(place: Place) -> ActionSpace:
    try:
        return ActionSpace.of(json.loads(place.read().decode())["actions"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{place}: {error}; see `read_actions` for what it is to hold") from None


def place_of_actions(tree: Tree, clip: Clip) -> Place | None:
    """Where the actions of a clip are: beside it, or where its list or tar has them; None where they are not."""
    if clip.actions is not None:
        return clip.actions.rows
    stem = stem_of(clip.name)
    places = (tree.place(f"{stem}.actions.{suffix}") for suffix in ACTION_SUFFIXES)
    return next((place for place in places if place is not None and not place.is_folder), None)


def all_rows(place: Place, clip: Clip, space: ActionSpace) -> np.ndarray:
    """The rows of a clip as its file of actions has them. Raises ValueError where they cannot be read."""
    if clip.actions is not None and clip.actions.episode >= 0:
        return lerobot_rows(place, clip.actions.episode, space)
    return actions_in(place, space)


def rows_of(tree: Tree, clip: Clip, space: ActionSpace) -> np.ndarray:
    """The rows of one clip. Raises ValueError where they cannot be read, are too few, or too many."""
    place = place_of_actions(tree, clip)
    if place is None and clip.actions is not None:
        raise ValueError(f"no actions of {clip.name} are there that its list or tar names")
    if place is None:
        stem = stem_of(clip.name)
        raise ValueError(f"no {stem}.actions.npy (or .csv, .jsonl) in {tree}, beside {clip.name}")
    rows = all_rows(place, clip, space)
    if clip.part is not None:
        begin = clip.actions.begin if clip.actions is not None else 0
        rows = rows[clip.part[0] - begin : clip.part[1] - begin]
    if len(rows) != clip.frames:
        raise ValueError(f"{place} has {len(rows)} rows, but {clip.name} has {clip.frames} frames: give one each")
    return rows


def _npy(content: bytes, space: ActionSpace) -> np.ndarray:
    rows = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"it holds {rows.dtype}, not numbers")
    return (rows[:, None] if rows.ndim == 1 else rows).astype(np.float64)


def _csv(content: bytes, space: ActionSpace) -> np.ndarray:
    table = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), skipinitialspace=True)
    names, columns = [one.name for one in space.dimensions], [*(table.fieldnames or ())]
    if missing := [name for name in names if name not in columns]:
        raise ValueError(f"its columns are {columns}, without {missing[0]!r}")
    rows = [*table]
    if any(None in row.values() for row in rows):
        raise ValueError(f"a row has fewer values than the {len(columns)} of the first line")
    return space.rows([[_cell(row[name]) for name in names] for row in rows], "row") if rows else _none(space)


def _jsonl(content: bytes, space: ActionSpace) -> np.ndarray:
    lines = [json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    names = [one.name for one in space.dimensions]
    rows = [[line[name] for name in names] if isinstance(line, dict) else line for line in lines]
    return space.rows(rows, "row") if rows else _none(space)


def _cell(text: str) -> float | str | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text.strip()


def _none(space: ActionSpace) -> np.ndarray:
    return np.zeros((0, len(space.dimensions)))


PARSERS: dict[str, Callable[[bytes, ActionSpace], np.ndarray]] = {"npy": _npy, "csv": _csv, "jsonl": _jsonl}
