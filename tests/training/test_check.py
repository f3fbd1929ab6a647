"""What is wrong with a training is told before its autoencoder is trained, and what its config tells before anything is
made."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.videos import numbered
from vidiff.codec.files import load_codec, same_codec
from vidiff.metrics.motion_network import MotionNetwork, save_motion
from vidiff.train import main
from vidiff.video.writer import write_video

VAE = """\
kind: vae
name: shared
device: cpu
batch: 2
data: {root: data, size: 16, frames: 2, workers: 0}
vae: {channels: 2, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 1, precision: fp32, log_every: 1, validate_every: 1}
"""
MODEL = """\
kind: diffusion
name: model
device: cpu
batch: 2
data: {root: data, size: 16, frames: 2, workers: 0}
codec: {config: vae.yaml, least: 0}
unet: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, joint_attention: []}
sampling: {sampler: {name: ddim}, steps: 1, context: 1, count: 2}
train: {steps: 1, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 1}
"""
STUDENT = """\
base: model.yaml
kind: student
name: student
start: kept/model
loss: {steps: 4}
sampling: {sampler: {name: consistency}}
"""
JUDGE = """\
kind: classifier
name: judge
device: cpu
batch: 2
data: {root: flat, layout: flat, size: 16, frames: 2, workers: 0}
codec: {config: vae.yaml, least: 0}
classifier: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, spatial_attention: []}
train: {steps: 1, precision: fp32}
"""
PIXELS = ["runs=kept", "name=pixels", "codec={name: identity}", "unet.patch=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in kept/: a model, on an autoencoder that is called as that of the recipes is, and a model of pixels."""
    place = tmp_path_factory.mktemp("check")
    for split in ("train", "test"):
        for number in range(2):
            clip = numbered(3, 16, 16, 20 * number)
            write_video(place / "data" / split / "ab"[number] / "0.mp4", clip, fps=8)
            write_video(place / "flat" / split / f"{number}.mp4", clip, fps=8)
    for name, text in (("vae", VAE), ("model", MODEL), ("student", STUDENT), ("judge", JUDGE)):
        (place / f"{name}.yaml").write_text(text)
    save_motion(place / "network", MotionNetwork(0, features=4, width=8), {})
    declaration = json.loads((place / "network/network.json").read_text())
    (place / "network/network.json").write_text(json.dumps(declaration | {"frames": [10, None]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["model.yaml", "runs=kept"]) == 0
        assert main(["model.yaml", *PIXELS]) == 0
    (place / "kept/begun").mkdir()
    shutil.copy(place / "kept/model/resolved.yaml", place / "kept/begun")
    return place


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    shutil.rmtree(trained / "runs", ignore_errors=True)
    return trained


def files(place: Path) -> set[str]:
    return {str(path) for path in place.rglob("*")}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["model.yaml", "start=nowhere"], "nowhere is not a trained run (it has no resolved.yaml)"),
        (["model.yaml", "start=kept/shared"], "kept/shared is a run of kind vae; one of kind diffusion is needed"),
        (["model.yaml", "start=kept/begun"], "start=kept/begun has no checkpoint yet: train it first"),
        (["student.yaml", "start=nowhere"], "nowhere is not a trained run"),
        (["student.yaml", "start=kept/shared"], "kept/shared is a run of kind vae"),
        (["model.yaml", "train.log=[tensorboard]"], "train.log has tensorboard: pip install 'vidiff[tensorboard]'"),
        (["model.yaml", "train.log=[wandb]"], "train.log has wandb: pip install 'vidiff[wandb]', or leave it out"),
        (["judge.yaml", "train.log=[trackio]"], "train.log has trackio: pip install 'vidiff[trackio]'"),
        (["model.yaml", "codec.override.train.log=[wandb]"], "train.log has wandb"),
        (["vae.yaml", "train.log=[wandb]"], "train.log has wandb"),
        (["model.yaml", "codec.override.start=nowhere"], "nowhere is not a trained run"),
        (["vae.yaml", "start=kept/shared", "vae.width=4"], "start=kept/shared has an autoencoder of another shape"),
        (["model.yaml", "codec.run=nowhere"], "codec.run is nowhere, which is no trained run"),
        (
            ["model.yaml", "sampling.grid.kind=trailing", "sampling.steps=5000", "schedule={name: linear}"],
            "steps is 5000, but the schedule has 1000 discrete steps: give no more",
        ),
        (["model.yaml", "loss.bound=-1"], "loss.bound is -1.0; give 0 or more: 0.001 is usual"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_what_a_config_tells_is_told_before_anything_is_made(
    place: Path,
    command: list[str],
    message: str,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("tensorboard", "wandb", "trackio"):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
    before = files(place)
    assert main([*command, *more]) == 2
    assert message in capsys.readouterr().err
    assert files(place) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["model.yaml", "text={name: words, dim: 8}"], "no captions"),
        (["model.yaml", "data.stride=[3,3]"], "needs 4 frames, but the longest file in data has 3: lower data"),
        (["judge.yaml", "data.frames=4"], "needs 4 frames, but the longest file in flat has 3: lower data"),
        (["model.yaml", "data.actions=true"], "actions"),
        (["model.yaml", "data.control=nowhere"], "data.control is nowhere"),
        (["model.yaml", "data.images=nowhere"], "nowhere"),
        (["judge.yaml"], "the clips in flat have 0 labels; a classifier tells 2 or more apart"),
        (["model.yaml", "codec.ceiling.network=nowhere"], "no nowhere/network.json"),
        (["model.yaml", "codec.ceiling.network=network"], "clips have 2 frames, network motion takes 10 or more"),
        (["model.yaml", "start=kept/pixels"], "start=kept/pixels was trained on the latents of another codec"),
        (
            ["model.yaml", "start=kept/model", "codec.override.vae.width=4"],
            "start=kept/model was trained on the latents of another codec",
        ),
        (["model.yaml", "start=kept/model", "unet.width=16"], "start=kept/model has another network: size mismatch"),
        (["student.yaml", "unet.width=16"], "start=kept/model has unet.width=8, not 16, but a student begins as a"),
        (["student.yaml", "start=kept/pixels"], "start=kept/pixels has unet."),
        (["student.yaml", "prediction=eps"], "start=kept/model has prediction=v, not eps: set it so"),
        (["student.yaml", "data.root=flat"], "start=kept/model has unet.labels=2, not 0"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_the_data_and_other_runs_tell_is_told_before_the_autoencoder_is_trained(
    place: Path, command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in (place / "runs").iterdir()} <= {"index", "model", "student", "judge"}
    assert {path.name for path in (place / "runs").glob("[mjs]*/*")} == {".lock"}


def test_a_run_of_another_model_is_told_of_as_early(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "kept/model", place / "runs/model")
    before = files(place / "runs/model")
    assert main(["model.yaml", "unet.width=16", "train.steps=2"]) == 2
    assert "runs/model was trained with unet.width=8, not 16" in capsys.readouterr().err
    assert files(place / "runs/model") == before | {str(place / "runs/model/.lock")}
    assert not (place / "runs/shared").exists()


def test_a_start_of_the_same_autoencoder_is_known_once_that_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained anew it has the same bits; by another seed others, which is told before anything is encoded by it."""
    assert main(["model.yaml", "start=kept/model", "codec.override.train.seed=1"]) == 2
    assert "start=kept/model was trained on the latents of another codec" in capsys.readouterr().err
    assert not (place / "runs/latents").exists() and not (place / "runs/model/codec-kept.json").exists()
    shutil.rmtree(place / "runs")
    assert main(["model.yaml", "start=kept/model"]) == 0
    assert same_codec(load_codec(place / "runs/model/codec"), load_codec(place / "kept/model/codec"))


def test_what_begins_anew_is_told_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model.yaml", "start=kept/model", "data.root=flat"]) == 0
    assert capsys.readouterr().out.count("start=kept/model: this model knows no class") == 1


def test_a_rehearsal_takes_no_random_number(place: Path) -> None:
    """So that first weights depend on the seed alone, as before."""
    state = torch.get_rng_state()
    from vidiff.recipe.build import build_denoiser
    from vidiff.recipe.load import load

    config = load("model.yaml")
    config.resolve(2, 2)  # type: ignore[attr-defined]
    assert all(weight.is_meta for weight in build_denoiser(config, empty=True).parameters())  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_two_processes_are_both_refused(place: Path) -> None:
    """And neither waits for the other, though nobody is there to end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).parents[2])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "vidiff.train", "model.yaml", "start=nowhere"],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=100)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [2, 2]
    assert all("error: nowhere is not a trained run" in lines for lines in said)
    assert not (place / "runs").exists()
