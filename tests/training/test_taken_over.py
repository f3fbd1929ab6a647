"""What a training takes over from another is named, and taken only where it was trained alike, or asked for."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.videos import numbered
from vidiff.cli.make import plan
from vidiff.cli.use import generate
from vidiff.codec.files import load_codec, same_codec
from vidiff.engine.loop import fit
from vidiff.recipe.load import load
from vidiff.recipe.slots import ConfigError
from vidiff.train import main
from vidiff.training import stage
from vidiff.training.prepare import plan_codec
from vidiff.training.stage import changed_sight
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
CONFIG = """\
kind: diffusion
name: first
device: cpu
batch: 2
data: {root: data, size: 16, frames: 2, workers: 0}
codec: {config: vae.yaml, least: 0}
unet: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, joint_attention: []}
sampling: {sampler: {name: ddim}, steps: 1, context: 1, count: 2}
train: {steps: 1, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 1}
"""


DETERMINISTIC: dict[str, bool] = {}  # what is trained: whether only kernels were taken that give the same bits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its autoencoder, and other clips than those that they were trained on."""
    place = tmp_path_factory.mktemp("codecs")
    for folder, shade in (("data", 0), ("other", 60)):
        for number in range(3):
            write_video(place / folder / f"{number}.mp4", numbered(3, 16, 16, shade + 10 * number), fps=8)
    (place / "vae.yaml").write_text(VAE)
    (place / "first.yaml").write_text(CONFIG)

    def noted(objective: nn.Module, *given: Any, **more: Any) -> None:
        DETERMINISTIC[type(objective).__name__] = torch.are_deterministic_algorithms_enabled()
        fit(objective, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(stage, "fit", noted)
        assert main(["first.yaml", "train.deterministic=true"]) == 0
    return place


def test_each_training_has_its_own_kernels(trained: Path) -> None:
    """An autoencoder that is trained first does not undo what the model's recipe asks for."""
    assert DETERMINISTIC == {"VAEObjective": False, "DiffusionObjective": True}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file of a run."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complaint(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_codec(load("first.yaml", ["name=second", *changes]), Path())  # type: ignore[arg-type]
    return str(caught.value)


def test_an_autoencoder_of_the_same_data_and_config_serves_another_model(place: Path) -> None:
    before = contents(place / "runs/shared")
    assert main(["first.yaml", "name=second", f"data.root={place}/data", "data.limit=2"]) == 0
    assert contents(place / "runs/shared") == before
    assert same_codec(load_codec(place / "runs/second/codec"), load_codec(place / "runs/first/codec"))


def test_one_of_other_data_is_named_and_not_taken_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(place / "runs/shared")
    for more in ([], ["codec.override.train.steps=9"], ["--dry-run"]):
        assert main(["first.yaml", "name=second", "data.root=other", *more]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            "error: there is an autoencoder runs/shared already, trained with data.root=data, not other: take it all "
            "the same by codec.run=runs/shared, or have another trained by codec.override.name=..."
        )
    assert contents(place / "runs/shared") == before and not (place / "runs/second/checkpoints").exists()


def test_it_is_taken_over_when_asked_for_wherever_it_is(place: Path) -> None:
    (place / "runs/shared").rename(place / "elsewhere")
    before = contents(place / "elsewhere")
    command = ["first.yaml", "name=second", "data.root=other", "codec.run=elsewhere"]
    assert main(command) == 0
    assert contents(place / "elsewhere") == before
    assert same_codec(load_codec(place / "runs/second/codec"), load_codec(place / "runs/first/codec"))
    assert main([*command, "train.steps=2"]) == 0
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["first", "index", "latents", "second"]


def test_commands_find_a_run_with_a_slash_in_its_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["first.yaml", "name=deep/er"]) == 0
    assert generate.main(["--device", "cpu", "--out", "clip.mp4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("from runs/deep/er")
    assert sorted(path.name for path in (place / "runs/deep").iterdir()) == ["er"]


def test_a_rehearsal_and_a_plan_take_it_as_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(place / "runs")
    asked = ["first.yaml", "name=second", "data.root=other", "codec.run=runs/shared"]
    assert main([*asked, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[-3:]] == ["parameters", "diffusion", "dry"]
    assert plan.main([*asked, "--gpu", "cpu"]) == 0
    assert contents(place / "runs") == before


def test_another_is_trained_by_another_name(place: Path) -> None:
    assert main(["first.yaml", "name=second", "data.root=other", "codec.override.name=mine"]) == 0
    assert load("runs/mine/resolved.yaml").data.root == "other"
    assert not same_codec(load_codec(place / "runs/second/codec"), load_codec(place / "runs/first/codec"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("codec.override.vae.width=4", "trained with vae.width=8, not 4:"),
        ("codec.override.loss.kl=0.5", "trained with loss.kl=0.0001, not 0.5:"),
        ("codec.override.data.frames=1", "trained with data.frames=2, not 1:"),
        (
            "codec.override={vae: {width: 4, channels: 3, blocks: 2}, data: {size: 32}}",
            "; vae.channels=2, not 3; vae.width=8, not 4, and 1 more: ",
        ),
        ("data.split=test", "trained with data.split=train, not test:"),
        ("codec.run=nowhere", "codec.run is nowhere, which is no trained run: it has no resolved.yaml"),
        ("codec.run=runs/first", "codec.run: "),
        ("codec={name: identity, run: runs/shared}", "codec.run is runs/shared, but codec.name is identity"),
    ],
)
def test_what_does_not_agree_is_named(place: Path, change: str, said: str) -> None:
    assert said in complaint(change)


def test_a_run_without_a_checkpoint_is_no_autoencoder_yet(place: Path) -> None:
    shutil.rmtree(place / "runs/shared/checkpoints")
    assert "codec.run is runs/shared, which has no checkpoint yet" in complaint("codec.run=runs/shared")


def test_a_model_goes_on_with_the_autoencoder_that_it_began_with(place: Path) -> None:
    before = contents(place / "runs/shared")
    (place / "vae.yaml").write_text(VAE.replace("frames: 2", "frames: 1"))
    assert main(["first.yaml", "train.steps=2"]) == 0
    assert contents(place / "runs/shared") == before


def test_which_files_were_seen() -> None:
    one, other = load(Path(__file__).parents[2] / "configs/shapes.yaml"), load("shapes", ["data.limit=8"])
    assert changed_sight(one, other) == [] and changed_sight(other, one) == ["data.limit=8, not 0"]
    other.data.limit, one.data.limit = 8, 4
    assert changed_sight(one, other) == ["data.limit=4, not 8"] and changed_sight(other, one) == []
    one, other = (load("shapes", [f"data.buckets={given}"]) for given in ("[{frames: 9}]", "[{}, {frames: 9}]"))
    assert changed_sight(one, other) == [] and len(changed_sight(other, one)) == 1


def test_a_training_that_goes_on_says_that_its_clips_are_others(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vae.yaml", "data.root=other", "train.steps=2"]) == 0
    assert "runs/shared was trained so far with data.root=data, not other: from" in capsys.readouterr().out
    assert main(["vae.yaml", "train.steps=2"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "runs/shared has been trained to its last step, with data.root=other, not data: give this training" in said
