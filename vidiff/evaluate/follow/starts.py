"""Held-out clips from which a world goes on, what was done in them, and the environment brought to the same moment.

An environment is played to that moment again, since `vidiff record` writes clips that depend on their options alone;
that what is played is what was recorded is checked, clip by clip.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vidiff.data.actions.read import about_in, read_actions
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.data.root import Root, copies_of, root_of
from vidiff.pipeline.facts import Facts
from vidiff.record.record import SPLITS, STICKY, Recording, branch, play, recording_of, write_episode
from vidiff.training.windows import Windows, choose_windows
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader

PARTS = 5  # of the range of a continuous dimension, that count as actions of their own
GIVEN = "--given or --new"  # what asks for the frames of a window
SAME = 0.5  # the largest share of frames whose action may be the true one, of others that are drawn


@dataclass(frozen=True)
class Replay:
    """An episode of an environment, that can be brought to a frame of its clip again.

    Args:
        before: frames of the clip before the window's first.
        fps: frames a second of its clip.
    """

    recording: Recording
    split: str
    number: int
    before: int
    fps: float

    def frames(self, given: int, actions: np.ndarray, size: int) -> tuple[Tensor, int]:
        """What the environment shows under other actions, as the model sees it: written and read as its clips are.

        Args:
            given: frames of the window that stay.
            actions: `(n, a)`, what leads to those that follow.

        Returns:
            `(3, n, size, size)` in [-1, 1], the last one repeated where the episode ended; and how many there are.
        """
        episode = branch(self.recording, self.split, self.number, self.before + given, actions)
        seen = replace(episode, frames=episode.frames[self.before :])
        count = len(seen.frames)
        with TemporaryDirectory(prefix="vidiff_") as folder:
            path = Path(folder, "clip.mp4")
            write_episode(path, seen, self.fps, self.recording.size)
            with VideoReader(path) as reader:
                video = Fit(reader.size, (size, size)).read(reader, range(count))
        kept = [min(given + frame, count - 1) for frame in range(len(actions))]
        return video[:, kept], count - given


@dataclass(frozen=True)
class Starts:
    """Windows of held-out clips, the first frames of which are given.

    Args:
        windows: of the clips, at the model's size.
        rows: what was done in each window, `(frames, a)`.
        replays: of each; None where there is no environment to be played.
        left_out: why there is none; "" where there is.
    """

    windows: Windows
    space: ActionSpace
    rows: list[np.ndarray]
    replays: list[Replay] | None
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def environment(self) -> str | None:
        """Its name as Gymnasium has it, where all starts are of one that shows the model its frames whole."""
        names = {(it.recording.environment, it.recording.size) for it in self.replays or ()}
        if len(names) != 1:
            return None
        name, size = names.pop()
        return name if size is not None and size[0] == size[1] else None  # else the model sees their middle


def find_starts(data: DataConfig, runs: Path, count: int, frames: int, size: int) -> Starts:
    """Windows of held-out clips, evenly chosen, with what was done in them.

    Args:
        data: of the run.
        runs: folder of runs, in which is kept what is known of files.
        count: windows; no more than one of each clip while there are enough.
        frames: of each.

    Raises:
        ValueError: as `index_of`, `read_actions` and `choose_windows`.
    """
    windows, space, rows, root = windows_of(data, runs, data.test_split, frames, size, count)
    try:
        replays = [_replay(root, windows, number) for number in range(len(windows))]
    except ValueError as error:
        return Starts(windows, space, rows, None, str(error))
    return Starts(windows, space, rows, replays)


def training_clips(data: DataConfig, runs: Path, frames: int, size: int, most: int) -> tuple[Tensor, list[np.ndarray]]:
    """Windows of training clips, evenly chosen, `(n, 3, f, size, size)`, and what was done in each.

    Args:
        frames: of a window; fewer where most clips are shorter.
        most: windows, where there are as many.
    """
    windows, _, rows, _ = windows_of(data, runs, data.split, frames, size, None, most)
    return torch.cat([windows.read(range(number, number + 1)) for number in range(len(windows))]), rows


def windows_of(
    data: DataConfig, runs: Path, split: str, frames: int, size: int, count: int | None, most: int = 0
) -> tuple[Windows, ActionSpace, list[np.ndarray], Root]:
    """Windows of clips, evenly chosen, with what there is to do, what was done in each, `(frames, a)`, and where the
    clips lie.

    Args:
        count: windows; None for all.
        most: of `count` None, windows where there are as many; then of fewer frames where most clips are shorter.
    """
    root = root_of(data.root, copies_of(runs, data.remote_cache_gb))
    index = index_of(data, runs, split)
    if most:
        frames = min(frames, sorted(file.frames for file in index.files)[len(index.files) // 2])
    windows = choose_windows(index, frames, size, 1, count, GIVEN)
    if most and len(windows) > most:
        windows = choose_windows(index, frames, size, 1, most)
    space, rows = read_actions(root, index.files)
    return windows, space, [rows[number][start : start + frames] for number, start in windows.starts], root


def refuse_gaps(run: Path, facts: Facts) -> None:
    """Raises ValueError for a world that does not see each frame of a clip: what is done leads from frame to frame."""
    if facts.strides[0] != 1 or facts.rate:
        seen = (
            f"clips at {facts.rate:g} frames a second" if facts.rate else f"every {facts.strides[0]} frames of a clip"
        )
        raise ValueError(
            f"{run} sees {seen}; only worlds that see each frame of a file are scored (data.stride, data.fps)"
        )


def _replay(root: Root, windows: Windows, which: int) -> Replay:
    """The episode behind a window. Raises ValueError where there is none, or where it plays otherwise than recorded."""
    number, start = windows.starts[which]
    clip = windows.index.files[number]
    name = PurePosixPath(clip.name)
    about = about_in(root.tree, str(name.parent)).read().decode()
    recording = recording_of(about)
    split = next((part for part in name.parts if part in SPLITS), None)
    if recording is None or split is None or not name.stem.isdecimal() or clip.part is not None:
        raise ValueError(f"{clip.name} was not recorded by `vidiff record`, so its environment cannot be played to it")
    episode = play(recording, split, int(name.stem))
    for kind, played in (("actions", episode.actions), ("state", episode.states)):
        place = root.tree.place(str(name.with_suffix(f".{kind}.npy")))
        if place is None:
            raise ValueError(f"{clip.name} has no {kind} beside it, by which to tell that it plays as it was recorded")
        kept = np.lib.format.read_array(io.BytesIO(place.read()), allow_pickle=False)
        if not np.array_equal(kept, played, equal_nan=played.dtype.kind == "f"):
            raise ValueError(
                f"{clip.name}: the {kind} of its episode, played again, are others: it was recorded by another version "
                "of the environment; record the clips anew"
            )
    return Replay(recording, split, int(name.stem), start, float(json.loads(about)["fps"]))


def classes(space: ActionSpace, rows: np.ndarray) -> Tensor:
    """Rows `(n, a)` as whole numbers, `(n, a)` int64: discrete ones as they are, of the others the part of the range;
    -1 where it is not known what was done."""
    columns = []
    for column, one in zip(rows.T.astype(np.float64), space.dimensions, strict=True):
        known = one.known(column)
        value = np.where(known, column, 0)
        if one.kind == "continuous":
            value = np.clip((value - one.low) / (one.high - one.low) * PARTS, 0, PARTS - 1).astype(int)
        columns.append(np.where(known, value, -1))
    return torch.from_numpy(np.stack(columns, 1).astype(np.int64))


def counts(space: ActionSpace) -> list[int]:
    """Of the whole numbers of each dimension, as `classes` has them."""
    return [one.count if one.kind == "discrete" else PARTS for one in space.dimensions]


def drawn(space: ActionSpace, true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other actions than the true ones, `(n, a)`: as the policy `sticky` draws them, drawn again until at most SAME of
    the frames have the true one."""
    while True:
        rows = [_any(space.dimensions, rng)]
        while len(rows) < len(true):
            rows.append(rows[-1] if rng.random() < STICKY else _any(space.dimensions, rng))
        if _same(space, np.array(rows), true) <= SAME * len(true):
            return np.array(rows)


def shuffled(space: ActionSpace, true: Sequence[np.ndarray]) -> list[np.ndarray]:
    """To each start the actions of another, dealt so that as few frames as can be have their own.

    Raises:
        ValueError: for a start all others did just the same.
    """
    cost = np.array([[_same(space, one, other) for other in true] for one in true], dtype=float)
    np.fill_diagonal(cost, 1e6)
    _, dealt = linear_sum_assignment(cost)
    if (cost[range(len(true)), dealt] >= len(true[0])).any():
        raise ValueError(f"of {len(true)} starts some have no other in which something else was done: take more starts")
    return [true[number] for number in dealt]


def _any(dimensions: tuple[Action, ...], rng: np.random.Generator) -> list[float]:
    return [
        float(rng.integers(one.count)) if one.kind == "discrete" else rng.uniform(one.low, one.high)
        for one in dimensions
    ]


def _same(space: ActionSpace, rows: np.ndarray, others: np.ndarray) -> int:
    """Frames that have the same action."""
    return int((classes(space, rows) == classes(space, others)).all(1).sum())
