"""What a page plays: the same seed and keys the same frames, back and on again, other ways, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidiff.data.actions.read import read_actions
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.find import take_stock
from vidiff.data.index import build_index
from vidiff.data.options import DataConfig
from vidiff.data.root import Root
from vidiff.pipeline.given import GivenClip
from vidiff.pipeline.pipeline import Pipeline
from vidiff.play import session as module
from vidiff.play.openings import Openings
from vidiff.play.real import Real, recording_of
from vidiff.play.session import Session, Shot
from vidiff.record.record import Episode, Recording, record, write_episode
from vidiff.store.tree import Folder
from vidiff.video.reader import read_video
from vidiff.video.writer import to_uint8, write_video

STAY, LEFT, RIGHT = [0.0], [1.0], [2.0]


def seen(shots: list[Shot]) -> list[bytes]:
    return [shot.pixels.tobytes() for shot in shots]


def test_it_goes_on_from_a_real_clip_as_the_pipeline_s_world(session: Session, pipe: Pipeline) -> None:
    begun = session.begin(0, seed=3)
    opening = session.opening
    assert opening is not None and opening.name == "test/cat/0.mp4" and opening.label == "cat"
    assert opening.rows[:, 0].tolist() == [-1, 1] and opening.video.shape == (3, 2, 8, 8)
    assert np.array_equal(begun.pixels[0], to_uint8(opening.video)[-1])
    world = pipe.world(opening.video, opening.rows, label="cat", seed=3)
    for row in (LEFT, RIGHT, STAY):
        assert np.array_equal(session.step(row).pixels[0], to_uint8(world.step(row)[:, None])[0])
    unknown = Session(pipe, session.openings, None, session.out)
    unknown.begin(1, seed=3)
    assert unknown.opening is not None and np.isnan(unknown.opening.rows).all(), "nothing tells what was done there"


def test_a_seed_draws_the_clip_and_the_same_seed_the_same_frames(session: Session) -> None:
    names = {session.begin(None, seed).name for seed in range(8)}
    assert names == {"test/cat/0.mp4", "test/dog/0.mp4"}
    session.begin(0, 5)
    first = [session.step(row) for row in (LEFT, LEFT, RIGHT)]
    session.begin(0, 5)
    assert seen([session.step(row) for row in (LEFT, LEFT, RIGHT)]) == seen(first)
    session.begin(0, 6)
    assert seen([session.step(row) for row in (LEFT, LEFT, RIGHT)]) != seen(first)


def test_going_back_shows_the_frames_that_were_and_the_same_keys_lead_to_the_same(session: Session) -> None:
    draw = np.random.default_rng(0)
    keys = [[float(key)] for key in draw.integers(0, 3, 12)]
    shots = [session.begin(0, 1), *(session.step(row) for row in keys)]
    for number in (11, 0, 9, 12):
        assert seen([session.show(number)]) == seen([shots[number]])
    for number in (9, 3, 10):
        shown = session.show(number)
        assert (shown.number, shown.last) == (number, len(session.branch.rows))
        again = [session.step(row) for row in keys[number:]]
        assert seen(again) == seen(shots[number + 1 :]), f"bit for bit from {number} on"
    session.show(11)
    other = session.step(LEFT if keys[11] != LEFT else RIGHT)
    assert seen([other]) != seen([shots[12]])


def test_ways_are_kept_and_the_oldest_is_forgotten(session: Session) -> None:
    session.begin(0)
    for _ in range(3):
        session.step(LEFT)
    ended = session.shot()
    session.show(1)
    other = session.step(RIGHT)
    assert (other.branch, other.branches, other.number, other.last) == (2, [1, 2], 2, 2)
    back = session.turn_to(1)
    assert (back.number, back.last) == (3, 3) and seen([back]) == seen([ended])
    forked = session.fork()
    assert (forked.branch, forked.branches, forked.number) == (3, [1, 2, 3], 3)
    assert seen([session.step(RIGHT)]) != seen([ended])
    session.turn_to(1)
    session.fork()
    assert session.fork().branches == [1, 3, 4, 5], "the second was not looked at for longest"
    with pytest.raises(ValueError, match="there is no way 2; choose 1, 3, 4, 5"):
        session.turn_to(2)


def test_memory_is_bounded(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SHOTS", 12)
    monkeypatch.setattr(module, "KEPT", ((8, 4), (40, 8)))
    shots = [session.begin(0, 1)]
    for number in range(30):
        shots.append(session.step([float(number % 3)]))
    branch = session.branch
    assert len(branch.shots) == 12 and sorted(branch.marks) == [0, 8, 16, 20, 24, 28]
    assert session.show(19).first == 19
    assert seen([session.step([float(19 % 3)])]) == seen([shots[20]])
    with pytest.raises(ValueError, match="frame 18 is not kept; choose 19 to 20"):
        session.show(18)


def test_what_was_saved_is_a_data_set(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[Episode]()

    def write(path: Path, episode: Episode, fps: float) -> None:
        written.append(episode)
        write_episode(path, episode, fps)

    monkeypatch.setattr(module, "write_episode", write)
    session.begin(0, 1)
    shots = [session.step(row) for row in (LEFT, RIGHT, STAY, LEFT)]
    session.show(3)
    assert [path.relative_to(tmp_path).as_posix() for path in session.save()] == ["world/0000.mp4"]
    session.show(4)
    assert session.save() == [tmp_path / "world" / "0001.mp4"]
    index = build_index(DataConfig(str(tmp_path / "world"), size=8, frames=4), "train", progress=False)
    assert len(index.files) == 1 and not index.labels, "and one is held out"
    stock = take_stock(Root(Folder(tmp_path / "world")), "auto")
    clips = [replace(clip, frames=frames) for clip, frames in zip(stock.clips, (5, 6), strict=True)]
    space, rows = read_actions(stock.root, clips)
    assert space == session.space
    assert [row[:, 0].tolist() for row in rows] == [[-1, 1, 1, 2, 0], [-1, 1, 1, 2, 0, 1]]
    assert read_video(tmp_path / "world" / "0001.mp4").shape == (3, 6, 8, 8)
    opening = session.opening
    assert opening is not None
    wanted = [*to_uint8(opening.video), *(shot.pixels[0] for shot in shots)]
    assert np.array_equal(written[1].frames, wanted)
    told = json.loads((tmp_path / "world" / "actions.json").read_text())
    assert told == {"fps": 8.0, "actions": session.space.facts()}
    (tmp_path / "world" / "actions.json").write_text(json.dumps({**told, "fps": 4}))
    with pytest.raises(ValueError, match="holds clips of other actions"):
        session.save()


def test_what_cannot_be_done_is_refused(session: Session) -> None:
    for early in (session.save, session.fork, lambda: session.show(0), lambda: session.turn_to(1)):
        with pytest.raises(ValueError, match="begin first"):
            early()
    for clip, seed, said in ((2, 0, "there is no clip 2; choose 0 to 1"), (0, -1, "seed is -1")):
        with pytest.raises(ValueError, match=said):
            session.begin(clip, seed)
    session.begin()
    with pytest.raises(ValueError, match="keys is 7; it takes whole numbers from 0 to 2"):
        session.step([7.0])
    assert session.shot().number == 0


def test_a_single_clip_of_the_user_s(pipe: Pipeline, data: Path) -> None:
    openings = Openings(data / "test" / "cat" / "0.mp4", DataConfig("none"), data, pipe.facts, 3)
    assert openings.names == ["0.mp4"] and openings.read(0).rows[:, 0].tolist() == [-1, 1, 2]


@pytest.fixture(scope="module")
def cart() -> tuple[Recording, ActionSpace]:
    pytest.importorskip("gymnasium", reason="no Gymnasium here: pip install 'vidiff[games]'")
    return Recording("CartPole-v1", hold=1, size=(8, 8), start=3), ActionSpace((Action("action", "discrete", 2),))


def test_beside_begins_from_the_same_moment_and_obeys_the_same_keys(
    cart: tuple[Recording, ActionSpace], make_pipe: Callable[..., Pipeline], tmp_path: Path
) -> None:
    recording, space = cart
    pipe = make_pipe(space)
    session = Session(pipe, None, Real(recording, pipe.facts, 2), tmp_path)
    begun = session.begin(None, seed=4)
    assert begun.pixels.shape == (2, 8, 8, 3) and np.array_equal(*begun.pixels)
    keys = [[0.0], [1.0], [1.0], [0.0], [0.0]]
    shots = [session.step(row) for row in keys]
    assert all(not np.array_equal(*shot.pixels) for shot in shots), "random weights know nothing of it"
    session.show(2)
    assert seen([session.step(row) for row in keys[2:]]) == seen(shots[2:]), "it is played again up to there"
    session.turn_to(1)
    world, real = session.save()
    assert [path.parent.name for path in (world, real)] == ["world", "real"]
    rows, states = (np.load(real.with_suffix(f".{name}.npy")) for name in ("actions", "state"))
    assert rows[-5:, 0].tolist() == [0, 1, 1, 0, 0] and len(rows) == len(states) == read_video(real).shape[1] == 7
    pushed = np.sign(np.diff(states[:, 1]))  # the cart's speed goes where it was pushed
    assert pushed.tolist() == np.where(rows[1:, 0] == 1, 1, -1).tolist()
    assert np.array_equal(np.load(world.with_suffix(".actions.npy")), rows)
    while not session.step([0.0]).over:
        assert session.at < 60
    assert len(np.load(session.save()[1].with_suffix(".state.npy"))) == session.at + 1, "but for the last"


def test_beside_is_stepped_as_far_as_a_frame_of_the_model_goes(
    cart: tuple[Recording, ActionSpace], make_pipe: Callable[..., Pipeline]
) -> None:
    """A model of every second frame, by `data.fps`: its opening has every second one, and a key is held for two."""
    recording, space = cart
    real = Real(recording, replace(make_pipe(space).facts, held=2), 2)
    opening, key = real.begin(4), np.array([1.0])
    last = real.go_to([key], lambda: False)
    episode = real.episode([key])
    assert len(episode.frames) == 5 and episode.actions[-2:, 0].tolist() == [1, 1]
    shown = torch.cat([opening.video, last[:, None]], dim=1)
    assert np.array_equal(to_uint8(shown), np.stack(episode.frames[::2]))


def test_which_environment_is_told_by_the_data(cart: tuple[Recording, ActionSpace], tmp_path: Path) -> None:
    recording, _ = cart
    record(tmp_path / "data", [replace(recording, frames=4)], 1, 1, 1)
    found = recording_of(tmp_path / "data")
    assert (found.environment, found.hold, found.size, found.start) == ("CartPole-v1", 1, (8, 8), 3)
    with pytest.raises(ValueError, match=r"no actions.json of vidiff record in .*: name a folder that it wrote"):
        recording_of(tmp_path / "none")


def test_an_environment_of_other_actions_is_refused(cart: tuple[Recording, ActionSpace], pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"takes action .*, but this model was told keys .*: leave out --beside"):
        Real(cart[0], pipe.facts, 2)


def test_a_clip_of_another_rate_begins_as_the_model_sees_it(pipe: Pipeline, data: Path, tmp_path: Path) -> None:
    """Of a model of four frames a second, with what was done at the frames that are seen."""
    levels = torch.linspace(-1, 1, 32)
    write_video(tmp_path / "0.mp4", levels.view(1, -1, 1, 1).expand(3, 32, 8, 8).contiguous(), fps=16)
    (tmp_path / "actions.json").write_text(json.dumps({"actions": pipe.facts.actions.facts()}))
    np.save(tmp_path / "0.actions.npy", np.arange(32) % 3)
    facts = replace(pipe.facts, rate=4.0)
    opening = Openings(tmp_path / "0.mp4", DataConfig("none"), data, facts, 4).read(0)
    with GivenClip(tmp_path / "0.mp4", facts) as given:
        assert torch.equal(opening.video, given.read(range(4)))
    torch.testing.assert_close(opening.video.mean((0, 2, 3)), levels[:16:4], atol=0.05, rtol=0)
    assert opening.rows[:, 0].tolist() == [0, 1, 2, 0]
