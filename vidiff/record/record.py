"""Episodes of environments as clips, with what was done and what was so at each frame, in files beside them."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vidiff.data.actions.space import UNKNOWN, Action
from vidiff.data.clip import ABOUT
from vidiff.engine.guard import Shielded
from vidiff.record.environment import Environment, find, shrink
from vidiff.store.files import check_writable, write_whole
from vidiff.video.writer import VideoWriter

SPLITS = ("train", "test")
STICKY = 0.8  # how likely the policy `sticky` does again what it did
TRIES = 50  # episodes begun for one clip, at most
CRF = 12
POLICIES = ("random", "sticky")


@dataclass(frozen=True)
class Recording:
    """What is recorded of an environment.

    Args:
        environment: its name, as `Environment` takes it.
        frames: of each clip.
        hold: frames of the environment's own that each frame lasts, and each action.
        size: height and width of the frames; None as they are drawn.
        policy: random, where each frame brings an action of its own; sticky, where it is mostly the one before; or a
            file of actions, .npy or .csv, a row a frame, with which every episode begins.
        start: the most frames that are played before a clip begins; how many is drawn for each.
        seed: a clip depends on the environment, (seed, split, number), and these options alone.

    Raises:
        ValueError: a field out of range.
    """

    environment: str
    frames: int = 64
    hold: int = 4
    size: tuple[int, int] | None = None
    policy: str = "sticky"
    start: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("hold", 1), ("start", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number from {least} on")
        if self.size is not None and (min(self.size) < 8 or any(side % 2 for side in self.size)):
            raise ValueError(f"size is {self.size}; give even numbers of pixels, 8 or more")
        if self.policy not in POLICIES and Path(self.policy).suffix not in (".npy", ".csv"):
            raise ValueError(
                f"policy is {self.policy!r}; choose {', '.join(POLICIES)}, or a file of actions, .npy or .csv"
            )

    @property
    def label(self) -> str:
        """The name of the environment as that of a folder."""
        name = self.environment.rpartition("/")[2]
        return name.rpartition("-")[0] if "-v" in name else name


@dataclass(frozen=True)
class Episode:
    """What a clip comes from.

    Attributes:
        frames: uint8 `(f, h, w, 3)`.
        actions: `(f, a)`; row i is what led from frame i - 1 to frame i, -1 or NaN where nothing did.
        states: `(f, s)`, what the environment knew of itself at each frame.
    """

    frames: list[np.ndarray]
    actions: np.ndarray
    states: np.ndarray


def record(out: str | Path, recordings: list[Recording], episodes: int, held_out: int, processes: int = 0) -> int:
    """Writes clips of environments to `out/{train,test}`, in a folder for each environment where there are several.

    Each clip is `0000.mp4`, with `0000.actions.npy`, `(frames, a)`, and `0000.state.npy`, `(frames, s)`; `actions.json`
    in the same folder names the dimensions. What is there already is not recorded again, so the same command goes on
    where it stopped.

    Args:
        episodes, held_out: clips of each environment to train on, and to test on.
        processes: that play at once; 0 for as many as there are cores.

    Returns:
        How many clips were written.

    Raises:
        ValueError: as `Environment`; a folder that holds clips recorded otherwise; an environment whose episodes end
            before a clip is full.
    """
    if episodes + held_out < 1 or min(episodes, held_out) < 0:
        raise ValueError(f"{episodes} and {held_out} episodes; ask for at least one")
    labels = [it.label for it in recordings]
    if len({*labels}) < len(labels):
        raise ValueError(f"{', '.join(sorted(labels))}: the same environment twice; give each once")
    check_writable(Path(out), folder=True)
    told = [about_of(it) for it in recordings]  # before anything is written
    jobs: list[tuple[Recording, str, int, Path]] = []
    for it, about in zip(recordings, told, strict=True):
        for split, count in zip(SPLITS, (episodes, held_out), strict=True):
            folder = Path(out, split, it.label if len(recordings) > 1 else "")
            if count:
                _mark(folder / ABOUT, about)
            paths = (folder / f"{number:04d}.mp4" for number in range(count))
            jobs += [(it, split, number, path) for number, path in enumerate(paths) if not path.exists()]
    with tqdm(total=len(jobs), desc="recorded", unit="clip", disable=not jobs) as bar:
        for _ in _shared(_write, jobs, processes or os.cpu_count() or 1):
            bar.update()
    return len(jobs)


def play(it: Recording, split: str, number: int) -> Episode:
    """An episode of an environment, the same for the same arguments.

    Raises:
        ValueError: all that were begun ended before the clip was full, or the file of actions has too few.
    """
    return _whole(it, split, number)[1]


def branch(it: Recording, split: str, number: int, at: int, actions: np.ndarray) -> Episode:
    """What would have come of an episode, had something else been done from its frame `at` on.

    The environment is brought to that frame by what was done until then, since that leads to the same: not every
    environment can be saved.

    Args:
        at: frames of the episode that are kept, 1 or more.
        actions: `(n, a)`, what leads to each of the frames that follow.

    Returns:
        an episode of at + n frames, or of fewer, where it ends before.

    Raises:
        ValueError: as `play`.
    """
    turn, _ = _whole(it, split, number)
    return _played(it, split, number, turn, (at, actions))


def _whole(it: Recording, split: str, number: int) -> tuple[int, Episode]:
    """The first try in which the episode did not end before the clip was full, and its number."""
    for turn in range(TRIES):
        episode = _played(it, split, number, turn)
        if len(episode.frames) == it.frames:
            return turn, episode
    raise ValueError(
        f"{find(it.environment)}: {TRIES} episodes ended within {it.start + it.frames} frames; ask for fewer frames, a "
        "smaller start or hold, or another policy"
    )


def _played(
    it: Recording, split: str, number: int, turn: int, instead: tuple[int, np.ndarray] | None = None
) -> Episode:
    """A try at an episode, as far as it goes.

    Args:
        instead: what is done from some frame of the clip on, in place of what the policy does.
    """
    world = _opened(it.environment, it.hold)
    rng = np.random.default_rng((it.seed, SPLITS.index(split), zlib.crc32(world.name.encode()), number, turn))
    choose = _policy(it, world, rng)
    start = int(rng.integers(it.start + 1))
    world.reset(int(rng.integers(1 << 31)))
    at, others = (it.frames, np.zeros((0, len(world.actions)))) if instead is None else instead
    action = np.full(len(world.actions), np.nan)
    frames, actions, states = [], [], []
    for step in range(start + at + len(others)):
        if step:
            action = choose(step - 1, action) if step < start + at else others[step - start - at]
            if world.step(action):
                break
        if step >= start:
            frames.append(world.frame())
            actions.append(action)
            states.append(world.state())
    return Episode(frames, typed(world.actions, np.array(actions)), np.array(states))


def about_of(it: Recording) -> str:
    """The text of `actions.json`: how the actions and states of a folder's clips are to be read.

    Raises:
        ValueError: as `Environment`, and a file of actions that cannot be read or has too few.
    """
    world = _opened(it.environment, it.hold)
    _policy(it, world, np.random.default_rng())
    told = {
        "environment": world.name,
        "fps": world.fps,
        "actions": [one.facts() for one in world.actions],
        "recorded": {name: value for name, value in asdict(it).items() if name != "environment"},
    }
    return json.dumps(told, indent=1) + "\n"


def recording_of(about: str) -> Recording | None:
    """How clips were recorded, as the text of their `actions.json` tells; None of clips that `record` did not write.

    Raises:
        ValueError: as `Recording`.
    """
    told = json.loads(about)
    own = told.get("recorded") if isinstance(told, dict) else None
    if not isinstance(own, dict) or not isinstance(told.get("environment"), str):
        return None
    size = own.get("size")
    try:
        return Recording(told["environment"], **{**own, "size": None if size is None else (size[0], size[1])})
    except TypeError as error:
        raise ValueError(f"what {ABOUT} tells of how clips were recorded cannot be read: {error}") from None


def _mark(path: Path, about: str) -> None:
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(about):
        raise ValueError(
            f"{path.parent} holds clips that were recorded otherwise, as its {ABOUT} tells; choose another"
        )
    if not path.exists() and path.parent.is_dir() and any(path.parent.iterdir()):
        raise ValueError(f"{path.parent} holds other files; choose a folder that is empty or not there yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, about)


def _write(job: tuple[Recording, str, int, Path]) -> None:
    it, split, number, path = job
    write_episode(path, play(it, split, number), _opened(it.environment, it.hold).fps, it.size)


def write_episode(path: Path, episode: Episode, fps: float, size: tuple[int, int] | None = None) -> None:
    """Writes a clip and, beside it, what was done and what was so at each frame.

    Args:
        fps: frames a second.
        size: height and width of the frames; None as they are.
    """
    for name, rows in (("actions", episode.actions), ("state", episode.states)):
        content = io.BytesIO()
        np.save(content, rows)
        write_whole(path.with_suffix(f".{name}.npy"), content.getvalue())
    with VideoWriter(path, fps, crf=CRF) as writer:  # last: with it the clip is whole
        for frame in episode.frames:
            writer.write(shrink(frame, size))


class _Players(ForkServerContext):
    """Processes that outlive Ctrl-C, which is the main one's to deal with, and begin with all that they need loaded."""

    Process = Shielded

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload([__name__, Shielded.__module__])


def _shared(
    work: Callable[[tuple[Recording, str, int, Path]], None],
    jobs: list[tuple[Recording, str, int, Path]],
    processes: int,
) -> Iterator[None]:
    """Does the jobs in processes, and tells of each that is done. Few wait at a time, so that a stop is heard soon."""
    if len(jobs) < 2 or processes == 1:
        for job in jobs:
            work(job)
            yield
        return
    left = iter(jobs)
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=_Players()) as pool:
        waiting = {pool.submit(work, job) for job in islice(left, 2 * processes)}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
                    waiting |= {pool.submit(work, job) for job in islice(left, 1)}
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@lru_cache(1)
def _opened(environment: str, hold: int) -> Environment:
    return Environment(environment, hold)


def _policy(it: Recording, world: Environment, rng: np.random.Generator) -> Callable[[int, np.ndarray], np.ndarray]:
    if it.policy in POLICIES:
        again = STICKY if it.policy == "sticky" else 0.0
        return lambda step, last: last if step and rng.random() < again else world.draw(rng)
    rows = read_actions(Path(it.policy), len(world.actions))
    for column, one in zip(rows.T, world.actions, strict=True):
        if not one.has(column):
            raise ValueError(f"{it.policy}: {world.name} has no such action; of {one.name} there are {one.range}")
    if len(rows) < it.start + it.frames - 1:
        raise ValueError(
            f"{it.policy} has {len(rows)} actions; with start={it.start} {it.start + it.frames - 1} are needed"
        )
    return lambda step, last: rows[step]


def read_actions(path: Path, dimensions: int) -> np.ndarray:
    """Actions of a file, .npy or .csv, `(rows, a)`. Raises ValueError for one that is not of so many numbers a row."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                rows = np.lib.format.read_array(file, allow_pickle=False)
        else:
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as actions, {error}") from error
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != dimensions or not np.isfinite(rows).all():
        raise ValueError(f"{path}: numbers of shape {rows.shape}; expected finite ones, {dimensions} a row")
    return rows


def typed(dimensions: Sequence[Action], actions: np.ndarray) -> np.ndarray:
    """Rows `(f, a)` as files have them: whole numbers, where all dimensions are, and -1 for what is unknown; else
    floats, and NaN for that."""
    if all(one.kind == "discrete" for one in dimensions):
        return np.where(np.isnan(actions), UNKNOWN, actions).astype(np.int64)
    return actions.astype(np.float32)
