"""Classes are told apart by their names: however folders sort, a training goes on with what it learned of each."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import vidiff.data.index
from tests.helpers.videos import numbered
from vidiff.cli.use import generate
from vidiff.data.index import by_number, index_of
from vidiff.data.options import DataConfig
from vidiff.engine.checkpoint import load_part, newest
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import ClassifierRun
from vidiff.recipe.load import load
from vidiff.report.log import read_metrics
from vidiff.train import main
from vidiff.training.indexes import make_indexes, make_pictures
from vidiff.video.reader import read_metadata
from vidiff.video.writer import write_image, write_video

AS_TEXT, AS_NUMBERS = ["0", "1", "10", "11", "2", "3"], ["0", "1", "2", "3", "10", "11"]
CONFIG = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {root: data, size: 16, frames: 2, workers: 0}
codec: {name: identity}
unet: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, patch: 4, joint_attention: []}
sampling: {sampler: {name: ddim}, steps: 1, context: 1, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2}
"""
JUDGE = """\
kind: classifier
name: judge
device: cpu
batch: 2
data: {root: data, size: 16, frames: 2, workers: 0}
codec: {name: identity}
classifier: {width: 8, multipliers: [1], blocks: [1], spatial_attention: [], head_dim: 8}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2}
"""


def as_before(patch: pytest.MonkeyPatch) -> None:
    """Sort the names of classes as text, as was done at first."""
    patch.setattr(vidiff.data.index, "by_number", lambda name: name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a classifier that were trained while the names of classes were sorted as text."""
    place = tmp_path_factory.mktemp("classes")
    for split in ("train", "test"):
        for number, name in enumerate(AS_TEXT):
            write_video(place / "data" / split / name / "clip.mp4", numbered(3, 16, 16, 20 * number), fps=8)
    (place / "tiny.yaml").write_text(CONFIG)
    (place / "judge.yaml").write_text(JUDGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        as_before(patch)
        assert main(["tiny.yaml"]) == 0
        assert main(["tiny.yaml", "name=whole", "train.steps=4"]) == 0
        assert main(["judge.yaml"]) == 0
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def kept(run: str, file: str = "data.json") -> list[str]:
    return json.loads(Path("runs", run, file).read_text())["labels"]


def tensors(run: str) -> dict[str, torch.Tensor]:
    checkpoint = newest(Path("runs", run, "checkpoints"))
    assert checkpoint is not None
    return load_part(checkpoint, "denoiser", "model")


def test_names_that_are_numbers_sort_as_numbers() -> None:
    names = ["10", "b", "9", "-1", "a10", "2.5", "02", "2", "B", "1e3", "\u0663", ""]
    assert sorted(names, key=by_number) == [
        "-1",
        "02",
        "2",
        "2.5",
        "9",
        "10",
        *sorted(["b", "a10", "B", "1e3", "\u0663", ""]),
    ]


def test_the_order_of_an_index_is_that_of_numbers_and_its_digest_as_ever(place: Path) -> None:
    index = index_of(DataConfig("data"), Path("runs"), "train")
    assert index.labels == AS_NUMBERS
    assert [index.labels[file.label] for file in index.files] == [file.name.split("/")[1] for file in index.files]
    lines = [
        json.dumps([file.name, AS_TEXT.index(file.name.split("/")[1]), file.frames, file.fingerprint])
        for file in index.files
    ]
    assert index.digest == hashlib.sha256("\n".join([*AS_TEXT, *lines]).encode()).hexdigest()
    assert index.relabelled(AS_TEXT).digest == index.digest
    assert index.relabelled(AS_TEXT[::-1]).labels == AS_TEXT[::-1]


def test_a_training_goes_on_in_the_order_in_which_it_began(place: Path) -> None:
    caches = sorted(path.name for path in (place / "runs/latents").iterdir())
    assert kept("tiny") == AS_TEXT
    assert main(["tiny.yaml", "train.steps=4"]) == 0
    assert kept("tiny") == AS_TEXT
    one, other = (
        [line["loss"] for line in read_metrics(Path("runs", run, "metrics.jsonl")) if "loss" in line]
        for run in ("tiny", "whole")
    )
    assert one == other and len(one) == 4
    assert all(torch.equal(value, tensors("whole")[key]) for key, value in tensors("tiny").items())
    assert sorted(path.name for path in (place / "runs/latents").iterdir()) == caches, "encoded again"


def test_a_new_training_has_numbers_in_order_and_the_latents_that_are_there(place: Path) -> None:
    caches = sorted(path.name for path in (place / "runs/latents").iterdir())
    assert main(["tiny.yaml", "name=new", "train.steps=4"]) == 0
    assert kept("new") == AS_NUMBERS
    assert sorted(path.name for path in (place / "runs/latents").iterdir()) == caches, "encoded again"
    clips = Pipeline.from_pretrained("runs/new", "cpu")
    one, other = (clips.model.label_tensor(asked, 1) for asked in ("2", 2))
    assert one is not None and other is not None and one.tolist() == other.tolist() == [2]
    before = Pipeline.from_pretrained("runs/tiny", "cpu")
    assert before.model.label_tensor(["2", 2, "10", 10], 4).tolist() == [4, 4, 2, 2]  # type: ignore[union-attr]


def test_a_command_takes_a_name_before_a_number_and_tells_what_may_be_either(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--run", "runs/whole", "--device", "cpu", "--out", "clip.mp4"]
    assert generate.main([*asked, "--label", "2", "--label", "010"]) == 0
    assert read_metadata("clip.mp4")["labels"] == ["2", "10"]
    assert generate.main([*asked, "--label", "4"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: no class is called '4', and class number 4 is called '2': give a name"


def test_a_class_that_is_renamed_new_or_missing_is_told_by_name(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (place / "data" / split / "11").rename(place / "data" / split / "00")
    for command in (["tiny.yaml"], ["judge.yaml"]):
        assert main([*command, "train.steps=4"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "was trained on 6 classes, and data now is without '11' and has '00' besides" in said
        assert "call the classes as they were, or give this training another name=..." in said
        assert ("start=runs/tiny" in said) == (command == ["tiny.yaml"])
    for split in ("train", "test"):
        shutil.rmtree(place / "data" / split / "00")
    assert main(["tiny.yaml", "train.steps=4"]) == 2
    assert "data now is without '11': call" in capsys.readouterr().err
    for name in ("11", "12"):
        for split in ("train", "test"):
            shutil.copytree(place / "data" / split / "10", place / "data" / split / name)
    assert main(["tiny.yaml", "train.steps=4"]) == 2
    assert "data now has '12' besides: call" in capsys.readouterr().err
    assert kept("tiny") == AS_TEXT
    assert main(["tiny.yaml", "name=another"]) == 0 and len(kept("another")) == 7


def test_a_classifier_goes_on_and_guides_models_of_either_order(place: Path) -> None:
    config = load("judge.yaml")
    assert isinstance(config, ClassifierRun)
    assert [index.labels for index in make_indexes(config)] == [AS_TEXT] * 2
    assert main(["judge.yaml", "train.steps=3"]) == 0 and kept("judge", "classifier.json") == AS_TEXT
    assert main(["tiny.yaml", "name=new"]) == 0
    for run, labels in (("tiny", AS_TEXT), ("new", AS_NUMBERS)):
        guided = Pipeline.from_pretrained(f"runs/{run}", "cpu", classifier="runs/judge")
        assert list(guided.labels) == labels
        assert guided.classifier is not None
        alone = TrainedClassifier.from_pretrained("runs/judge", "cpu")
        rows = [AS_TEXT.index(name) for name in labels]
        assert torch.equal(guided.classifier.network.leave.weight, alone.network.leave.weight[rows])
        assert torch.equal(guided.classifier.network.leave.bias, alone.network.leave.bias[rows])


def test_pictures_have_the_classes_of_the_clips_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("10", "cat"):
        write_image(place / "pictures" / "train" / name / "a.png", torch.zeros(3, 16, 16))
    config = load("tiny.yaml", ["data.images=pictures"])
    for name, number in (("tiny", 2), ("fresh", 4)):
        config.name = name
        index, _ = make_indexes(config)
        pictures = make_pictures(config, index)
        assert pictures is not None and [file.label for file in pictures.files] == [number, -1]
    assert "no clip is of a class 'cat': pictures of it are trained on without a label" in capsys.readouterr().out
