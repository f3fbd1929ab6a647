"""Figures of how truly a world obeys, each against the last given frame repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.data.actions.space import ActionSpace
from vidiff.data.index import other_data
from vidiff.data.options import DataConfig
from vidiff.evaluate.follow.starts import (
    Starts,
    classes,
    counts,
    drawn,
    find_starts,
    refuse_gaps,
    shuffled,
    training_clips,
)
from vidiff.metrics.prediction import psnr
from vidiff.metrics.worlds.inverse import STEPS, InverseDynamics, accuracy, learn
from vidiff.metrics.worlds.places import ORACLES, Oracle
from vidiff.metrics.worlds.turning import sideways
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config, runs_of

TRUE, OTHER, SHUFFLED = "true", "counterfactual", "shuffled"
TURNS = {"TURN_LEFT": 1, "TURN_RIGHT": -1}  # what is seen moves the other way
BATCH = 8  # starts drawn at once

World = Callable[[Tensor, np.ndarray, range], Tensor]
"""Given frames `(b, 3, g, h, w)`, actions `(b, n, a)` and numbers of the starts -> new frames `(b, 3, n, h, w)`."""


@dataclass(frozen=True)
class FollowProtocol:
    """How following is measured. Figures compare only under one protocol.

    Raises:
        ValueError: a number out of range.
    """

    starts: int = 48  # held-out windows, evenly chosen
    given: int = 8  # frames of each that are given
    new: int = 8  # frames that follow
    seed: int = 0  # of the other actions, of the model's noise, and of inverse dynamics
    clips: int = 256  # windows of training clips that teach inverse dynamics
    frames: int = 32  # of such a window, or fewer where clips are shorter
    steps: int = STEPS  # of that training

    def __post_init__(self) -> None:
        for name, least in (("starts", 2), ("given", 1), ("new", 2), ("clips", 1), ("frames", 3), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more")


@dataclass(frozen=True)
class Trial:
    """A world under some actions, and what really follows.

    Attributes:
        made, truth: `(n, 3, new, h, w)`.
        told: what the world was told, `(n, new, a)`.
        there: `(n, new)` bool, frames that really are there: an episode may end.
    """

    made: Tensor
    truth: Tensor
    told: np.ndarray
    there: Tensor


@dataclass(frozen=True)
class Following:
    """What was found.

    Attributes:
        scores: figures by name, as they are written.
        trials: by name.
        given: the frames before, `(n, 3, given, h, w)`.
        space: of what is told.
        fps: frames a second of the clips.
    """

    scores: dict[str, Any]
    trials: dict[str, Trial]
    given: Tensor
    space: ActionSpace
    fps: float = 8.0


def score_following(run: Path, pipeline: Pipeline, data: str | Path | None, protocol: FollowProtocol) -> Following:
    """Let a run's model and the environment go on from held-out clips, under the same actions.

    Args:
        data: a data set that is laid out as that of the run; None for that.

    Raises:
        ValueError: a model that is told no actions, or sees only every so many frames; as `find_starts`.
    """
    config = read_config(run)
    if pipeline.facts.actions is None:
        raise ValueError(f"{run} was trained without actions (data.actions), so there is nothing that it could follow")
    refuse_gaps(run, pipeline.facts)
    source = replace(config.data if data is None else other_data(config.data, data), limit=0)
    runs = runs_of(run, config)
    starts = find_starts(source, runs, protocol.starts, protocol.given + protocol.new, pipeline.size)
    if starts.space != pipeline.facts.actions:
        raise ValueError(f"actions in {source.root} are {starts.space}; {run} was told {pipeline.facts.actions}")
    found = follow(world_of(pipeline, starts, protocol.seed), starts, protocol)
    found.scores["inverse"] = score_inverse(found, starts, teach(source, runs, starts.space, pipeline.size, protocol))
    told = {**asdict(protocol), "environment": starts.environment, "windows_sha256": starts.windows.sha256}
    return replace(found, scores={"protocol_follow": told, **found.scores}, fps=pipeline.fps)


def world_of(pipeline: Pipeline, starts: Starts, seed: int) -> World:
    """A trained model as a world; the noise of a start is the same under all actions."""
    index = starts.windows.index
    names = [index.class_of(index.files[number]) for number, _ in starts.windows.starts]
    known = bool(pipeline.labels) and {*names} <= {None, *pipeline.labels}

    def go_on(given: Tensor, actions: np.ndarray, which: range) -> Tensor:
        frames = given.shape[2] + actions.shape[1]
        label = names[which.start : which.stop] if known else None
        drawn = pipeline.extend(given, frames, label, actions=actions, seed=1_000_003 * seed + which.start)
        return drawn[:, :, given.shape[2] :].cpu()

    return go_on


def follow(world: World, starts: Starts, protocol: FollowProtocol) -> Following:
    """All figures but those of inverse dynamics."""
    given, new = protocol.given, protocol.new
    real = torch.cat([starts.windows.read(which) for which in _batches(len(starts))])
    before, after = real[:, :, :given], real[:, :, given:]
    true = [rows[given:] for rows in starts.rows]
    all_there = torch.ones(len(starts), new, dtype=torch.bool)
    asked = {TRUE: (true, after, all_there)}
    left_out = {}
    if starts.replays is None:
        left_out[OTHER] = starts.left_out
    else:
        rng = np.random.default_rng(protocol.seed)
        others = [drawn(starts.space, rows, rng) for rows in true]
        asked[OTHER] = (others, *_played(starts, others, protocol))
    asked[SHUFFLED] = (shuffled(starts.space, true), after, all_there)
    trials = {}
    with tqdm(total=len(asked) * len(starts), desc="follow", unit="clip") as bar:
        for name, (rows, truth, there) in asked.items():
            trials[name] = Trial(_made(world, before, np.stack(rows), bar), truth, np.stack(rows), there)
    oracle = ORACLES.get(starts.environment or "")
    if oracle is None:
        left_out["places"] = "no oracle knows where things are in these frames"
    scores: dict[str, Any] = {name: score_trial(trial, before[:, :, -1:], oracle) for name, trial in trials.items()}
    turns = _turns(starts.space)
    if turns is None or starts.replays is None:
        left_out["turning"] = "there is no environment with TURN_LEFT and TURN_RIGHT"
    else:
        scores["turning"] = _score_turning(world, starts, before, turns, protocol)
    return Following({**scores, "left_out": left_out}, trials, before, starts.space)


def score_trial(trial: Trial, last: Tensor, oracle: Oracle | None) -> dict[str, Any]:
    """How near what a world shows comes to what really follows.

    Args:
        last: the last given frame, `(n, 3, 1, h, w)`.
        oracle: tells where things are; None for none.

    Returns:
        `psnr`, mean in dB, and `psnr_by_frame`; with an oracle, for each thing, over frames in which it is really seen:
        `found`, the share in which the world shows it; `error`, the mean distance in pixels where it does, `within`,
        the share of all in which it is near, and `error_by_frame`; and `invented`, the share of the other frames in
        which the world shows it nevertheless. All again as `..._repeated`, of the last given frame.
    """
    scores: dict[str, Any] = {}
    for ending, made in (("", trial.made), ("_repeated", last.expand_as(trial.truth))):
        decibels = psnr(made, trial.truth)
        scores |= {
            f"psnr{ending}": _mean(decibels, trial.there),
            f"psnr_by_frame{ending}": [_mean(*pair) for pair in zip(decibels.T, trial.there.T, strict=True)],
        }
    if oracle is None:
        return scores
    really = oracle.read(trial.truth)
    for ending, made in (("", trial.made), ("_repeated", last)):
        shown = oracle.read(made)
        for name, thing in oracle.things.items():
            place = shown[name].expand_as(really[name])
            seen, found = (~x.isnan().any(-1) for x in (really[name], place))
            off = (place - really[name]).norm(dim=-1)  # n new
            seen = seen & trial.there
            both = seen & found
            scores |= {
                f"{name}_found{ending}": _mean(found, seen),
                f"{name}_error{ending}": _mean(off, both),
                f"{name}_within{ending}": _mean(found & (off <= thing.near), seen),
                f"{name}_invented{ending}": _mean(found, trial.there & ~seen),
                f"{name}_error_by_frame{ending}": [_mean(*pair) for pair in zip(off.T, both.T, strict=True)],
            }
            if not ending:
                scores[f"{name}_seen"] = _mean(seen, trial.there)
    return scores


def teach(data: DataConfig, runs: Path, space: ActionSpace, size: int, protocol: FollowProtocol) -> InverseDynamics:
    """A network that reads actions, taught by the training clips."""
    video, rows = training_clips(data, runs, protocol.frames, size, protocol.clips)
    told = torch.stack([classes(space, one) for one in rows])
    return learn(video, told, counts(space), protocol.steps, protocol.seed)


def score_inverse(found: Following, starts: Starts, network: InverseDynamics) -> dict[str, float]:
    """How well actions can be read from real frames, and from those that the world shows when told them.

    Returns:
        `real_accuracy`, `real_balanced` and `real_commonest` (`accuracy`) of what really follows the starts, under the
        true actions and, with an environment, under others; for each trial the same of what the world shows; and
        `..._ratio`, its accuracy over the real one.
    """
    last = found.given[:, :, -1:]

    def read(videos: Sequence[Tensor], names: Sequence[str]) -> dict[str, float]:
        heard, told = [], []
        for video, name in zip(videos, names, strict=True):
            trial = found.trials[name]
            seen = torch.cat(
                [network.read(torch.cat([last[i : i + 1], video[i : i + 1]], 2)) for i in range(len(last))]
            )
            done = torch.stack([classes(starts.space, rows) for rows in trial.told])[:, :-1]
            heard.append(seen)
            told.append(done.masked_fill(~trial.there[:, 1:, None], -1))
        return accuracy(torch.cat(heard), torch.cat(told))

    own = [name for name in found.trials if name != SHUFFLED]
    real = read([found.trials[name].truth for name in own], own)
    scores = {f"real_{key}": value for key, value in real.items()}
    for name, trial in found.trials.items():
        made = read([trial.made], [name])
        scores |= {f"{name}_{key}": value for key, value in made.items() if key != "commonest"}
        scores[f"{name}_ratio"] = made["accuracy"] / real["accuracy"] if real["accuracy"] else float("nan")
    return scores


def _batches(count: int) -> Iterator[range]:
    return (range(begin, min(begin + BATCH, count)) for begin in range(0, count, BATCH))


def _made(world: World, before: Tensor, rows: np.ndarray, bar: Any) -> Tensor:
    parts = []
    for which in _batches(len(before)):
        part = slice(which.start, which.stop)
        parts.append(world(before[part], rows[part], which))
        bar.update(len(which))
    return torch.cat(parts)


def _played(starts: Starts, actions: Sequence[np.ndarray], protocol: FollowProtocol) -> tuple[Tensor, Tensor]:
    """What the environment shows under some actions of each start, and which of these frames are there."""
    assert starts.replays is not None
    videos, there = [], []
    for replay, rows in zip(starts.replays, actions, strict=True):
        video, count = replay.frames(protocol.given, rows, starts.windows.size)
        videos.append(video)
        there.append(torch.arange(len(rows)) < count)
    return torch.stack(videos), torch.stack(there)


def _turns(space: ActionSpace) -> dict[str, int] | None:
    """The numbers of the actions that turn the view, where there is one dimension that has them."""
    names = space.dimensions[0].names
    return {name: names.index(name) for name in TURNS} if len(space.dimensions) == 1 and {*TURNS} <= {*names} else None


def _score_turning(
    world: World, starts: Starts, before: Tensor, turns: dict[str, int], protocol: FollowProtocol
) -> dict[str, float]:
    """From each start all frames to the left, and all to the right.

    Returns:
        `right`, the share in which what is seen goes the other way, and `pixels`, by how much from frame to frame, less
        than 0 where it goes with the turn; and as `..._environment` of the environment itself.
    """
    moves: dict[str, list[Tensor]] = {"": [], "_environment": []}
    for name, number in turns.items():
        rows = np.full((len(starts), protocol.new, 1), float(number))
        truth, there = _played(starts, list(rows), protocol)
        with tqdm(total=len(starts), desc=name, unit="clip") as bar:
            made = _made(world, before, rows, bar)
        for key, video in (("", made), ("_environment", truth)):
            moved = sideways(torch.cat([before[:, :, -1:], video], 2)).double() * TURNS[name]  # n new
            moves[key].append((moved * there).sum(1) / there.sum(1).clamp(min=1))
    scores: dict[str, float] = {}
    for key, each in moves.items():
        moved = torch.cat(each)
        scores |= {f"right{key}": float((moved > 0).double().mean()), f"pixels{key}": float(moved.mean())}
    return scores


def _mean(values: Tensor, which: Tensor) -> float | None:
    """Over some of them; None where there are none."""
    return float(values[which].double().mean()) if which.any() else None
