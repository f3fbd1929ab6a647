"""Data sets of LeRobot, version 3, as they are: videos of several episodes, and what was done in Parquet files.

`meta/info.json` tells frames a second, features, and how files are named; `meta/episodes/**/*.parquet` has a row for
each episode: its length, its tasks, and, for each camera, the video that holds it and the seconds at which it begins
there; `data/**/*.parquet` a row for each frame, of which `action` is what was asked of the robot when it saw that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.clip import ActionsAt, Clip, LeftOut
from vidiff.store.error import DataError
from vidiff.store.place import Place, Stamp
from vidiff.store.tree import Tree

INFO, STATS = "meta/info.json", "meta/stats.json"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
VERSION = "v3."
ROUNDED = 1e-5  # of a range, by which numbers of 32 bits may go beyond what is told of them
INSTALL = "pyarrow, which reads Parquet, is not installed: pip install 'vidiff[parquet]'"


def is_lerobot(tree: Tree) -> bool:
    """Whether a folder is a data set of LeRobot, of a version that is read."""
    return tree.place(INFO) is not None and _version(_json(tree, INFO)).startswith(VERSION)


def find_episodes(tree: Tree, camera: str = "") -> tuple[dict[str, list[Clip]], list[LeftOut]]:
    """The episodes of a data set, each as a clip that is a part of its video, captioned by its tasks.

    Args:
        camera: the feature whose videos are read, such as observation.images.top; by default the first.

    Returns:
        the clips of each split, all under "" where `meta/info.json` names one split alone; and what is left out.

    Raises:
        DataError: another version, a camera that there is not, files that are missing or hold something else.
    """
    info = _json(tree, INFO)
    if not _version(info).startswith(VERSION):
        raise DataError(
            f"{tree} is a data set of LeRobot {_version(info)}; versions v3 are read: convert it with LeRobot's own "
            "convert_dataset_v21_to_v30"
        )
    try:
        cameras = [name for name, one in info["features"].items() if one["dtype"] == "video"]
        fps, named = float(info["fps"]), info.get("video_path") or "videos/{video_key}/" + FILE + ".mp4"
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{tree}/{INFO}: cannot be read as of LeRobot, {error!r}") from None
    if not cameras:
        raise DataError(f"{tree} has no videos among its features: {', '.join(info['features'])}")
    camera = camera or cameras[0]
    if camera not in cameras:
        raise DataError(f"data.camera is {camera!r}; {tree} has {', '.join(cameras)}")
    own = f"videos/{camera}/"
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    wanted += [f"{own}{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    clips, left_out = dict[int, Clip](), list[LeftOut]()
    for row in _episodes(tree, wanted):
        number, length = int(row["episode_index"]), int(row["length"])
        name = f"episode_{number:06d}"
        video, data = (
            path.format(
                video_key=camera, chunk_index=int(row[f"{of}chunk_index"]), file_index=int(row[f"{of}file_index"])
            )
            for path, of in ((named, own), (info.get("data_path") or "data/" + FILE + ".parquet", "data/"))
        )
        place, rows = tree.place(video), tree.place(data)
        if place is None:
            left_out.append(LeftOut(name, "an episode whose video is not there", video))
            continue
        start = round(float(row[f"{own}from_timestamp"]) * fps)
        tasks = " ".join(" ".join(row.get("tasks") or ()).split())
        actions = ActionsAt(rows, tree.place(INFO), number, start)
        clips[number] = Clip(name, place, caption=tasks, part=(start, start + length), actions=actions, shared=True)
    if not clips:
        raise DataError(f"none of the {len(left_out)} episodes of {tree} has a video of {camera} that is there")
    left_out += [
        LeftOut(other, "a camera that is not read: data.camera chooses") for other in cameras if other != camera
    ]
    return _by_split(info, clips), left_out


def _by_split(info: dict[str, Any], clips: dict[int, Clip]) -> dict[str, list[Clip]]:
    """Episodes by the ranges of their numbers that splits have, such as {"train": "0:50"}."""
    splits: dict[str, list[Clip]] = {}
    for split, told in (info.get("splits") or {}).items():
        first, _, stop = str(told).partition(":")
        if first.isdigit() and stop.isdigit():
            splits[split] = [clip for number, clip in clips.items() if int(first) <= number < int(stop)]
    return splits if len(splits) > 1 else {"": [*clips.values()]}


def lerobot_space(tree: Tree) -> ActionSpace:
    """The dimensions of a data set's actions: names of `meta/info.json`, ranges of `meta/stats.json`.

    Whole numbers from 0 on are discrete; what is always the same has a range of 2 around that.

    Raises:
        DataError: no actions, or no ranges.
    """
    features, stats = _json(tree, INFO)["features"], _json(tree, STATS)
    try:
        told, names = features["action"], features["action"].get("names")
        low, high = (np.ravel(stats["action"][name]).astype(np.float64).tolist() for name in ("min", "max"))
        if isinstance(names, dict):  # as {"motors": [...]}
            names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
        if not isinstance(names, list) or len(names) != len(low):
            names = [f"action_{number}" for number in range(len(low))]
        whole = str(told["dtype"]).startswith(("int", "uint", "bool"))
        ranges = zip(map(str, names), low, high, strict=True)
        return ActionSpace(tuple(_dimension(*one, whole=whole) for one in ranges))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{tree}: {INFO} and {STATS} do not tell of actions and their range, {error!r}") from None


def _dimension(name: str, low: float, high: float, whole: bool) -> Action:
    if whole and low >= 0 and high >= 1:
        return Action(name, "discrete", int(high) + 1)
    beyond = 1.0 if low == high else ROUNDED * max(abs(low), abs(high))
    return Action(name, "continuous", low=low - beyond, high=high + beyond)


def lerobot_rows(place: Place, episode: int, space: ActionSpace) -> np.ndarray:
    """What led to each frame of an episode, `(frames, a)`.

    In the file a row has what was asked of the robot when it saw the frame, which leads to the frame after it: rows
    move on by one, and what led to the first is not known.

    Raises:
        ValueError: it cannot be read, or has other dimensions.
    """
    numbers, frames, rows = _columns(place, place.stamp())
    own = np.flatnonzero(numbers == episode)
    rows = rows[own[np.argsort(frames[own])]]
    if rows.shape[1] != len(space.dimensions):
        raise ValueError(f"{place}: actions of {rows.shape[1]} numbers; expected {len(space.dimensions)}")
    rows = np.concatenate([np.full((1, len(space.dimensions)), np.nan), rows[:-1]])[: len(own)]
    space.check(rows, f"{place}, episode {episode}")
    return rows


def _version(info: dict[str, Any]) -> str:
    return str(info.get("codebase_version"))


def _episodes(tree: Tree, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of all episodes, by their number."""
    files = sorted(
        file
        for folder, files, _ in tree.walk()
        if folder.startswith("meta/episodes")
        for file in files
        if PurePosixPath(file).suffix == ".parquet"
    )
    if not files:
        raise DataError(f"no meta/episodes/**/*.parquet in {tree}, which tells where each episode is")
    rows = list[dict[str, Any]]()
    for file in files:
        place = tree.place(file)
        assert place is not None
        try:
            rows += _table(place, [*wanted, "tasks"]).to_pylist()
        except ValueError as error:
            raise DataError(f"{place}: {error}") from None
    return sorted(rows, key=lambda row: row["episode_index"])


@lru_cache(maxsize=2)  # a file has the rows of many episodes
def _columns(place: Place, stamp: Stamp) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row of a file of data the episode `(n,)`, the frame in that, and the actions `(n, a)`."""
    table = _table(place, ["episode_index", "frame_index", "action"])
    actions = table["action"].combine_chunks()
    flat = actions.flatten() if hasattr(actions, "flatten") else actions  # of lists; of one dimension there may be none
    rows = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
    numbers, frames = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
    if len(rows) % max(len(numbers), 1):
        raise DataError(f"{place}: {len(rows)} numbers in the actions of {len(numbers)} rows")
    return numbers, frames, rows.reshape(len(numbers), -1)


def _table(place: Place, columns: list[str]) -> Any:
    """Columns of a Parquet file. Raises DataError where it cannot be read, or lacks them."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{place}: {INSTALL}") from None
    try:
        file = io.BytesIO(place.read())
        there = pyarrow.parquet.read_schema(file).names
        if missing := [name for name in columns if name not in there and name != "tasks"]:
            raise DataError(f"{place} has no column {missing[0]}, but {', '.join(there)}")
        return pyarrow.parquet.read_table(file, columns=[name for name in columns if name in there])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}") from None


def _json(tree: Tree, name: str) -> dict[str, Any]:
    place = tree.place(name)
    if place is None:
        raise DataError(f"no {tree}/{name}, as data sets of LeRobot have it")
    try:
        told = json.loads(place.read().decode())
    except ValueError as error:
        raise DataError(f"{place} cannot be read as JSON: {error}") from None
    return told if isinstance(told, dict) else {}
