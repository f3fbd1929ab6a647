"""A model of clips and what was done in them, trained by the command: it is told, and what it makes depends on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import run

import vidiff
from vidiff.cli.make.train import main as train
from vidiff.cli.measure.evaluate import main as evaluate
from vidiff.cli.use.extend import main as extend
from vidiff.cli.use.generate import main as generate
from vidiff.pipeline.model import load_model
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video

CONFIG = """\
kind: diffusion
name: moved
device: cpu
batch: 4
data: {root: data, size: 16, frames: 6, workers: 0, actions: true, stride: [1, 2]}
codec: {name: identity}
unet: {width: 16, multipliers: [1, 2], blocks: [1, 1], head_dim: 8, patch: 2}
sampling: {sampler: {name: ddim}, steps: 2, context: 3, count: 2, guidance: 1}
train: {steps: 6, precision: fp32, optim: {lr: 0.01}, log_every: 6, checkpoint_every: 6, validate_every: 6}
"""
MOVES = ("stay", "left", "right")


def moved(folder: Path, clips: int, seed: int) -> None:
    """Clips of a square that goes where it is told, and what it was told."""
    folder.mkdir(parents=True)
    told = {"actions": [{"name": "move", "kind": "discrete", "count": 3, "names": MOVES}]}
    (folder / "actions.json").write_text(json.dumps(told))
    draw = np.random.default_rng(seed)
    for number in range(clips):
        actions, place = draw.integers(0, 3, 14), 6
        video = torch.full((3, 14, 16, 16), -1.0)
        for frame, action in enumerate(actions):
            place = int(np.clip(place + 2 * ((action == 2) - (action == 1).astype(int)), 0, 12)) if frame else place
            video[:, frame, 6:10, place : place + 4] = 1
        write_video(folder / f"{number}.mp4", video)
        np.save(folder / f"{number}.actions.npy", actions)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("moved")
    moved(place / "data" / "train", 6, 0)
    moved(place / "data" / "test", 2, 1)
    (place / "moved.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["moved.yaml"]) == 0
    return place


@pytest.fixture(scope="module")
def pipe(place: Path) -> Pipeline:
    return vidiff.Pipeline.from_pretrained(place / "runs" / "moved", device="cpu")


def test_a_run_knows_what_can_be_done(place: Path, pipe: Pipeline) -> None:
    assert pipe.facts.actions is not None and pipe.facts.actions.dimensions[0].names == MOVES
    assert "actions: 6" in (place / "runs" / "moved" / "resolved.yaml").read_text()  # three, of two frames at most


def test_what_is_made_depends_on_what_is_done_and_on_nothing_after_a_frame_for_all_names_of_it(pipe: Pipeline) -> None:
    plain = pipe.generate(6, seed=0)
    left = pipe.generate(6, actions=["left"] * 6, seed=0)
    assert not torch.equal(plain, left)
    assert torch.equal(left, pipe.generate(6, actions=np.ones((6, 1)), seed=0))
    assert torch.equal(plain, pipe.generate(6, actions=[None] * 6, seed=0))
    two = pipe.generate(6, actions=np.array([[1] * 6, [2] * 6])[..., None], count=2, seed=0)
    assert not torch.equal(two, pipe.generate(6, actions=["left"] * 6, count=2, seed=0))
    assert not torch.equal(left, pipe.generate(6, actions=["left"] * 6, action_guidance=3.0, seed=0))
    assert torch.equal(left, pipe.generate(6, actions=["left"] * 6, action_guidance=1.0, seed=0))


@pytest.mark.parametrize("strategy", ["clean", "noisy", "rolling", {"name": "keyframes", "stride": 2}])
def test_every_strategy_is_told_of_each_frame_its_own(pipe: Pipeline, strategy: object) -> None:
    """A long video whose last action alone is another differs in its last window, and nowhere before."""
    actions = ["left"] * 16
    clip = pipe.generate(6, seed=1)[0]
    one, other = (
        pipe.extend(clip, 22, actions=[*actions[:-1], last], strategy=strategy, seed=2) for last in ("left", "right")
    )
    same = (one == other).flatten(3).all(3).all(1)[0]
    assert not same[-1] and same[: 22 - 6 - 4].all()
    all_of_it = pipe.extend(clip, 22, actions=[None] * 6 + actions, strategy=strategy, seed=2)
    assert torch.equal(all_of_it, one)


def test_edits_take_actions(pipe: Pipeline) -> None:
    clip = pipe.generate(6, seed=1)
    assert not torch.equal(
        pipe.edit(clip, 0.5, actions=["left"] * 6, seed=3), pipe.edit(clip, 0.5, actions=["right"] * 6, seed=3)
    )


def test_frames_between_two_clips_are_told_their_own_actions(pipe: Pipeline) -> None:
    first, last = pipe.generate(6, seed=1), pipe.generate(6, seed=2)

    def joined(changed: int) -> torch.Tensor:
        actions = ["left"] * 14
        actions[changed] = "right"
        return pipe.interpolate(first, last, 2, actions=actions, context=2, seed=3)

    plain = joined(0)  # of frames that are not looked at
    assert torch.equal(plain, joined(3)) and torch.equal(plain, joined(10))
    assert not any(torch.equal(plain, joined(changed)) for changed in (4, 6, 7, 9))


def test_commands_take_a_file_of_actions(place: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    Path("moves.csv").write_text("move\n" + "left\n" * 6)
    assert generate(["--run", "runs/moved", "--actions", "moves.csv", "--out", "made.mp4", "--device", "cpu"]) == 0
    assert read_video("made.mp4").shape[1] == 6
    np.save("moves.npy", np.array([-1] * 4 + [1, 2, 1]))
    given = ["data/test/0.mp4", "--given", "4", "--frames", "7", "--run", "runs/moved", "--out", "longer/"]
    assert extend([*given, "--actions", "moves.npy", "--device", "cpu"]) == 0
    made = pipe.extend(read_video("data/test/0.mp4", range(4), (16, 16)), 7, actions=[1, 2, 1])
    written = read_video(sorted(Path("longer").glob("*.png"))[-1])  # exactly, but for rounding to a byte
    assert torch.allclose(written[:, 0], made[0, :, -1], atol=0.005)
    assert extend([*given, "--actions", "moves.txt", "--device", "cpu"]) == 2


def test_a_world_without_an_environment_is_scored_by_what_can_be_read_of_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    asked = ["--run", "runs/moved", "--follow", "--starts", "4", "--given", "3", "--new", "4", "--device", "cpu"]
    assert evaluate([*asked, "--json", "scores/follow.json"]) == 0
    scores = json.loads(Path("scores/follow.json").read_text())
    read = scores["inverse"]
    assert read["real_accuracy"] >= 0.7 and read["real_accuracy"] > read["shuffled_accuracy"]
    assert "was not recorded by `vidiff record`" in scores["left_out"]["counterfactual"]
    assert scores["true"]["psnr"] < scores["true"]["psnr_repeated"]  # it has learned nothing
    assert scores["protocol_follow"]["environment"] is None and Path("scores/follow.html").is_file()
    assert "real_accuracy" in capsys.readouterr().out
    assert evaluate([*asked, "--weights", "model"]) == 2
    assert "name a file with --json" in capsys.readouterr().err


def test_wrong_actions_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="move has no action 'up'; there are stay, left, right"):
        pipe.generate(6, actions=["up"] * 6)
    with pytest.raises(ValueError, match="actions has 5 rows, but the result has 6 frames: give 6"):
        pipe.generate(6, actions=["left"] * 5)
    with pytest.raises(ValueError, match="actions of 3 clips for 2"):
        pipe.generate(6, actions=np.zeros((3, 6, 1)), count=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.flip=true", "a mirrored clip has no actions that are known"),
        ("lowres.factor=2", "only models that make clips learn actions"),
    ],
)
def test_what_does_not_go_with_actions_is_said_before_anything_is_done(place: Path, change: str, message: str) -> None:
    assert message in run(place, "-m", "vidiff.train", "moved.yaml", "name=other", change, code=2)


def test_files_seen_at_a_rate_of_ones_own_are_told_all_that_led_to_a_frame(place: Path, pipe: Pipeline) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["moved.yaml", "name=rated", "data.fps=4", "data.stride=[1, 1]", "train.steps=1"]) == 0
    rated = vidiff.Pipeline.from_pretrained(place / "runs" / "rated", device="cpu")
    assert rated.facts.held == 2 and pipe.facts.held == 1  # files have 8 frames a second
    assert read_config(place / "runs" / "rated").unet.actions == 6  # one of three, of two frames
    run_folder = place / "runs" / "rated"
    told = load_model(run_folder, read_config(run_folder)).action_tensor(["left"], 1, 1, 0, 1)
    assert told is not None and told.tolist() == [[[[0.0, 1.0, 0.0]] * 2]]
    assert rated.generate(6, actions=["left"] * 6).shape == (1, 3, 6, 16, 16)
