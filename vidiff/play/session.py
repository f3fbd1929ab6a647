"""What one page plays: a world, all that was seen of it, and the ways in which it went on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.data.actions.space import ActionSpace
from vidiff.data.clip import ABOUT
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.world import World
from vidiff.play.openings import Opening, Openings
from vidiff.play.real import Real
from vidiff.record.record import Episode, typed, write_episode
from vidiff.store.files import write_whole
from vidiff.video.writer import to_uint8

MOST_SHOTS = 1_800  # frames that can be gone back to
MOST_BRANCHES = 4
# Worlds are kept as they were, more of them lately than long ago: frames back at most, and from one to the next.
KEPT = ((64, 8), (256, 32), (MOST_SHOTS + 256, 128))
MOST_SEED = 1 << 31


class Stopped(Exception):
    """The command was told to end while something was played again."""


@dataclass
class Branch:
    """A way in which a world went on.

    Attributes:
        world: as it is at the last frame.
        rows: what led to frame 1, 2, ... since the opening, of which the last frame is number 0.
        shots: the frames that are kept, by number, packed.
        marks: worlds as they were at some of the frames; they are copied before anything is done in them.
    """

    world: World
    rows: list[np.ndarray]
    shots: dict[int, bytes]
    marks: dict[int, World]

    def add(self, shot: bytes) -> None:
        """Keep the frame that the world has come to, and the world itself now and then; forget what is too long ago."""
        last = len(self.rows)
        self.shots[last] = shot
        self.shots.pop(last - MOST_SHOTS, None)
        if last % KEPT[0][1] == 0:
            self.marks[last] = self.world.fork()
            self.marks = {at: world for at, world in self.marks.items() if self._is_kept(last, at)}

    def until(self, number: int) -> tuple[list[np.ndarray], dict[int, bytes], dict[int, World]]:
        """The rows, frames and worlds up to a frame."""
        return (
            self.rows[:number],
            {at: shot for at, shot in self.shots.items() if at <= number},
            {at: world for at, world in self.marks.items() if at <= number},
        )

    def _is_kept(self, last: int, at: int) -> bool:
        step = next((step for back, step in KEPT if last - at <= back), None)
        return step is not None and at % step == 0


@dataclass(frozen=True)
class Shot:
    """What is to be shown.

    Attributes:
        number: of the frame; 0 is the last of those that the world began with.
        first, last: the frames that can be gone back to.
        branch, branches: which way this is, and which there are.
        pixels: uint8 `(n, h, w, 3)`: the world, and the real environment where there is one.
        over: whether the environment's episode has ended.
        milliseconds: that drawing it took.
        name: of what it began with.
    """

    number: int
    first: int
    last: int
    branch: int
    branches: list[int]
    pixels: np.ndarray
    over: bool
    milliseconds: float
    name: str


class Session:
    """A world that is played.

    Args:
        pipeline: of a model that learned actions.
        openings: clips that it may begin with; unused where `real` is given.
        real: an environment beside it, of whose own frames it then begins; one for each session.
        out: folder in which clips are saved.
        options: of `Pipeline.world`, such as `steps`; the seed apart.
        stopped: whether what takes long is to be given up.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        openings: Openings | None,
        real: Real | None,
        out: Path,
        options: dict[str, Any] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        assert pipeline.facts.actions is not None and (openings or real)
        self.pipeline, self.openings, self.real, self.out = pipeline, openings, real, out
        self.space: ActionSpace = pipeline.facts.actions
        self.options, self.stopped = options or {}, stopped
        self.seed, self.at, self._shown = 0, 0, 0
        self.opening: Opening | None = None
        self.branches: dict[int, Branch] = {}  # the one used last comes last

    @property
    def branch(self) -> Branch:
        """The way that is shown. Raises ValueError where nothing has begun."""
        if not self.branches:
            raise ValueError("nothing is played yet: begin first")
        return self.branches[self._shown]

    def begin(self, clip: int | None = None, seed: int = 0) -> Shot:
        """Begin anew.

        Args:
            clip: which of `openings`; None for one that the seed draws.
            seed: of the noise and, where an environment is beside it, of that.

        Raises:
            ValueError: no such clip, or one that cannot be read; a seed out of range.
        """
        if not 0 <= seed < MOST_SEED:
            raise ValueError(f"seed is {seed}; give 0 or more, below {MOST_SEED}")
        begun = perf_counter()
        if self.real is not None:
            opening = self.real.begin(seed)
        else:
            assert self.openings is not None
            names = self.openings.names
            clip = int(np.random.default_rng(seed).integers(len(names))) if clip is None else clip
            opening = self.openings.read(clip)
        world = self.pipeline.world(opening.video, opening.rows, label=opening.label, seed=seed, **self.options)
        self.opening, self.seed, self.at, self._shown = opening, seed, 0, 1
        self.branches = {1: Branch(world, [], {}, {})}
        self.branch.add(self._pack(opening.video[:, -1]))
        return self.shot(begun)

    def step(self, row: list[float]) -> Shot:
        """The next frame; from one that was gone back to, by a way of its own. Raises ValueError for no such action."""
        begun = perf_counter()
        action = self.space.rows([row])[0]
        if self.at < len(self.branch.rows):
            self.fork()
        frame = self.branch.world.step(action)
        self.branch.rows.append(action)
        self.at += 1
        self.branch.add(self._pack(frame))
        return self.shot(begun)

    def show(self, number: int) -> Shot:
        """Go back to a frame, or on again. Raises ValueError where it is not kept."""
        shots = self.branch.shots
        if number not in shots:
            raise ValueError(f"frame {number} is not kept; choose {min(shots)} to {max(shots)}")
        self.at = number
        return self.shot()

    def fork(self) -> Shot:
        """The same past, another future: from the frame that is shown on it goes another way. The ways of long ago are
        forgotten."""
        begun = perf_counter()
        made = Branch(self._world_at(self.at), *self.branch.until(self.at))
        self._shown = max(self.branches) + 1
        self.branches[self._shown] = made
        while len(self.branches) > MOST_BRANCHES:
            del self.branches[next(iter(self.branches))]
        return self.shot(begun)

    def turn_to(self, branch: int) -> Shot:
        """Show the last frame of another way. Raises ValueError where there is none of this number."""
        if branch not in self.branches:
            there = ", ".join(map(str, sorted(self.branches)))
            raise ValueError(f"there is no way {branch}; " + (f"choose {there}" if there else "begin first"))
        self.branches[branch] = self.branches.pop(branch)
        self._shown, self.at = branch, len(self.branches[branch].rows)
        return self.shot()

    def shot(self, begun: float | None = None) -> Shot:
        """What is shown now."""
        branch, opening = self.branch, self.opening
        assert opening is not None
        took = 0.0 if begun is None else 1000 * (perf_counter() - begun)
        first, last = min(branch.shots), len(branch.rows)
        over, pixels = self._unpack(branch.shots[self.at])
        return Shot(self.at, first, last, self._shown, sorted(self.branches), pixels, over, took, opening.name)

    def save(self) -> list[Path]:
        """Write what led to the frame that is shown, from the opening on, as clips with their actions.

        Returns:
            the clips: of the world, in the folder `world`, and of the environment beside it, in `real`.

        Raises:
            ValueError: a folder holds clips of other actions; the disk refuses.
        """
        branch, given = self.branch, self.opening
        assert given is not None
        first = min(branch.shots)
        frames = [self._unpack(branch.shots[at])[1][0] for at in range(first, self.at + 1)]
        rows = [given.rows[-1], *branch.rows][first : self.at + 1]
        if first == 0:  # else its beginning is forgotten
            frames = [*to_uint8(given.video)[:-1], *frames]
            rows = [*given.rows[:-1], *rows]
        known = self.space.dimensions
        made = Episode(frames, typed(known, np.stack(rows)), np.zeros((len(frames), 0), np.float32))
        parts = [("world", made, self.pipeline.fps, self._about(self.pipeline.fps))]
        if self.real is not None:
            fps, name = self.real.environment.fps, self.real.environment.name
            played = self.real.episode(branch.rows[: self.at])
            parts.append(("real", played, fps, {"environment": name, **self._about(fps)}))
        for name, _, _, about in parts:
            self._mark(self.out / name / ABOUT, about)
        number = 0
        while any((self.out / name / f"{number:04d}.mp4").exists() for name, *_ in parts):
            number += 1
        paths = [self.out / name / f"{number:04d}.mp4" for name, *_ in parts]
        for path, (_, episode, fps, _) in zip(paths, parts, strict=True):
            write_episode(path, episode, fps)
        return paths

    def _about(self, fps: float) -> dict[str, Any]:
        return {"fps": fps, "actions": self.space.facts()}

    def _mark(self, path: Path, about: dict[str, Any]) -> None:
        """Say beside the clips what their actions are. Raises ValueError where others are said there."""
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != about:
                raise ValueError(f"{path.parent} holds clips of other actions, as its {ABOUT} tells: choose another")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(about, indent=1) + "\n")

    def _world_at(self, number: int) -> World:
        """The world as it was at a frame: from the nearest that was kept, by what was done since."""
        branch = self.branch
        if number == len(branch.rows):
            return branch.world.fork()
        nearest = max(at for at in branch.marks if at <= number)
        world = branch.marks[nearest].fork()
        for row in branch.rows[nearest:number]:
            if self.stopped():
                raise Stopped
            world.step(row)
        return world

    def _pack(self, frame: Tensor) -> bytes:
        parts, over = [frame], False
        if self.real is not None:
            parts.append(self.real.go_to(self.branch.rows, self.stopped))
            over = self.real.over
        self._size = frame.shape[-2], frame.shape[-1]
        return zlib.compress(bytes([over]) + to_uint8(torch.stack(parts, dim=1).float()).tobytes(), 1)

    def _unpack(self, shot: bytes) -> tuple[bool, np.ndarray]:
        """Whether the environment's episode has ended, and uint8 `(n, h, w, 3)`."""
        content = bytearray(zlib.decompress(shot))  # of which arrays may be written to
        return bool(content[0]), np.frombuffer(content, np.uint8, offset=1).reshape(-1, *self._size, 3)
