"""Games and simulators recorded: each row of actions led to its frame, and a clip depends on its options alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from vidiff.data.find import take_stock
from vidiff.data.root import Root
from vidiff.record.environment import Environment, find
from vidiff.record.record import Recording, about_of, branch, play, record, recording_of
from vidiff.store.tree import Folder
from vidiff.video.reader import read_video

ROOT = Path(__file__).parents[2]
STAY, RIGHT, LEFT, PADDLE = (
    0,
    2,
    3,
    72,
)  # of Breakout: three actions, and the byte of memory that has the paddle's place


def test_a_row_of_actions_is_what_led_to_its_frame() -> None:
    """A pendulum's own equation: the next speed from the state before and the row of the state after."""
    episode = play(Recording("Pendulum-v1", frames=12, hold=1, policy="random", start=0), "train", 0)
    assert episode.actions.dtype == np.float32 and np.isnan(episode.actions[0]).all()
    for before, row, after in zip(episode.states, episode.actions[1:], episode.states[1:], strict=False):
        speed = before[2] + 0.05 * (15 * math.sin(math.atan2(before[1], before[0])) + 3 * float(row[0]))
        assert after[2] == pytest.approx(np.clip(speed, -8, 8), abs=1e-4)


def test_a_file_of_actions_is_played_and_the_paddle_follows(tmp_path: Path) -> None:
    rows = np.array([LEFT] * 2 + [RIGHT] * 3 + [LEFT] * 3 + [STAY] * 2)
    np.save(tmp_path / "moves.npy", rows)
    wanted = Recording("breakout", frames=11, policy=str(tmp_path / "moves.npy"), start=0)
    episode = play(wanted, "train", 0)
    assert episode.actions[:, 0].tolist() == [-1, *rows]
    places = episode.states[:, PADDLE].astype(int)
    moved = np.diff(places)
    assert (moved[[1, 6, 7]] < -10).all() and (moved[[3, 4]] > 10).all() and moved[9] == 0  # it needs a frame to turn
    for frame, place in zip(episode.frames, places, strict=True):  # what is seen is of the same moment
        left = 8 + np.flatnonzero(frame[190, 8:152, 0] > 100)[0]
        assert abs(left + 47 - place) <= 6  # of two frames, in each of which it goes by up to 6 pixels


def test_no_engine_outlives_the_recording(tmp_path: Path) -> None:
    """Of VizDoom each is a process of its own: none is left, with one player or two, and nothing is said."""
    for players in ("1", "2"):
        options = ["--episodes", "2", "--held-out", "0", "--frames", "3", "--start", "0", "--size", "32", "--processes"]
        command = ["-m", "vidiff", "record", "VizdoomBasic-v1", "--out", str(tmp_path / players), *options, players]
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0 and "could not" not in done.stdout + done.stderr, done.stdout + done.stderr
        places = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                places.append(os.readlink(process / "cwd"))
        assert not [place for place in places if place.startswith(str(tmp_path))]
        assert not [*tmp_path.glob("vidiff_*")]


@pytest.mark.parametrize("name", ["breakout", "VizdoomBasic-v1"])
def test_an_episode_goes_another_way_from_a_frame_on(name: str) -> None:
    it = Recording(name, frames=8, start=9)
    episode = play(it, "test", 1)
    again = branch(it, "test", 1, 5, episode.actions[5:])
    assert all(np.array_equal(one, other) for one, other in zip(episode.frames, again.frames, strict=True))
    assert np.array_equal(episode.states, again.states) and np.array_equal(episode.actions, again.actions)
    ways = [branch(it, "test", 1, 5, np.full((4, 1), action)) for action in (RIGHT, LEFT)]
    for way in ways:
        assert len(way.frames) == 9
        assert all(np.array_equal(one, other) for one, other in zip(episode.frames[:5], way.frames[:5], strict=True))
    assert not np.array_equal(ways[0].frames[-1], ways[1].frames[-1])
    assert recording_of(about_of(it)) == Recording(find(name), frames=8, start=9)
    assert recording_of('{"actions": []}') is None


def test_the_same_clips_by_one_process_and_by_two_and_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = [Recording(name, frames=6, size=(32, 32), start=5) for name in ("pong", "VizdoomBasic-v1")]
    assert record(tmp_path / "one", wanted, episodes=2, held_out=1, processes=1) == 6
    assert record(tmp_path / "two", wanted, episodes=2, held_out=1, processes=2) == 6
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 2 * (3 * 3 + 2)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    lost = tmp_path / "two" / "train" / "pong" / "0001.mp4"
    before = lost.read_bytes()
    lost.unlink()
    assert record(tmp_path / "two", wanted, episodes=2, held_out=1) == 1 and lost.read_bytes() == before

    stock = take_stock(Root(Folder(tmp_path / "one")), "auto")
    assert stock.labels == ["VizdoomBasic", "pong"] and not stock.left_out
    assert {split: len(clips) for split, clips in stock.splits.items()} == {"train": 4, "test": 2}
    video = read_video(tmp_path / "one" / "train" / "pong" / "0000.mp4")
    assert video.shape == (3, 6, 32, 32) and float(video.std()) > 0.05
    told = json.loads((tmp_path / "one" / "train" / "VizdoomBasic" / "actions.json").read_text())
    assert told["actions"][0]["names"] == ["NOOP", "ATTACK", "MOVE_RIGHT", "MOVE_LEFT"]
    assert np.load(tmp_path / "one" / "train" / "VizdoomBasic" / "0000.state.npy").shape == (6, 1)

    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}  # VizDoom leaves nothing behind

    with pytest.raises(ValueError, match="recorded otherwise"):
        record(tmp_path / "one", [Recording(it.environment, frames=7, start=5) for it in wanted], 2, 1)


def test_frames_that_flicker_are_shown_whole() -> None:
    """Of an Atari game, the brighter of the last two frames."""
    world = Environment("ms_pacman", hold=4)
    world.reset(3)
    for _ in range(70):
        world.step(np.array([0]))
    alone = Environment("ms_pacman", hold=1)
    alone.reset(3)
    seen = []
    for _ in range(280):
        alone.step(np.array([0]))
        seen.append(alone.frame())
    assert np.array_equal(world.frame(), np.maximum(seen[-1], seen[-2])) and not np.array_equal(seen[-1], seen[-2])


def test_an_episode_that_is_always_too_short_is_told_of() -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1: 50 episodes ended within 900 frames; ask for fewer frames"):
        play(Recording("CartPole-v1", frames=900, hold=1, policy="random", start=0), "train", 0)


@pytest.mark.parametrize(
    ("name", "known"), [("ms_pacman", "ALE/MsPacman-v5"), ("pong", "ALE/Pong-v5"), ("CartPole-v1", "CartPole-v1")]
)
def test_environments_by_plain_names(name: str, known: str) -> None:
    assert find(name) == known


def test_actions_that_are_no_numbers_of_the_environment(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "x.npy")
    np.save(tmp_path / "short.npy", np.zeros(3))
    np.save(tmp_path / "wide.npy", np.zeros((99, 2)))
    np.save(tmp_path / "odd.npy", np.full(9, 6.0))
    np.save(tmp_path / "half.npy", np.full(9, 0.5))
    none = "ALE/Pong-v5 has no such action; of action there are whole numbers from 0 to 5"
    for name, said in (
        ("odd", none),
        ("half", none),
        ("x", "cannot be read"),
        ("short", "has 3 actions"),
        ("wide", "expected finite ones, 1 a row"),
    ):
        with pytest.raises(ValueError, match=said):
            record(tmp_path / "out", [Recording("pong", policy=str(tmp_path / f"{name}.npy"), frames=9, start=0)], 1, 0)
    assert not (tmp_path / "out").exists()
