"""Trainings on clips of several shapes, and on pictures beside them: the order of what is drawn, and whole runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from prepared import prepare_latents
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.data.buckets import Bucket
from vidiff.data.clips import Joint
from vidiff.data.workers import Watched
from vidiff.objective.latents import normalised
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.recipe.load import build_config, load
from vidiff.recipe.slots import ConfigError
from vidiff.report.log import read_metrics
from vidiff.train import main
from vidiff.training.datasets import batches, clip_dataset, latent_dataset
from vidiff.training.indexes import buckets_of, make_index, make_pictures
from vidiff.video.reader import read_video
from vidiff.video.writer import write_image, write_video

HERE = Path(__file__)
SQUARE, WIDE = Bucket(6, 16, 16), Bucket(4, 12, 20)
CONFIG = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data:
  root: data
  workers: 0
  frames: 6
  flip: true
  stride: [1, 2]
  buckets: [{size: [16, 16]}, {frames: 4, size: [12, 20]}, {frames: 40, size: [20, 20]}]
  images: pictures
  images_share: 0.25
codec: {name: identity}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 1, context: 3, count: 2}
train: {steps: 8, precision: fp32, log_every: 1, validate_every: 4, sample_every: 8, checkpoint_every: 3, keep: 9}
"""
VAE = """\
kind: vae
name: codec
device: cpu
batch: 4
data: {root: data, workers: 0, frames: 5, size: 12, flip: true, stride: [1, 2], images: pictures, images_share: 0.3,
  jitter: 0.3, zoom: [1, 1.5], buckets: [{}, {frames: 3, size: [12, 20]}]}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 10, precision: fp32, log_every: 1, validate_every: 10, sample_every: 10}
"""


def moving(frames: int, height: int, width: int, seed: int) -> Tensor:
    """Smooth noise that changes in time, `(3, f, h, w)`."""
    noise = torch.rand(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return interpolate(noise, (frames, height, width), mode="trilinear")[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    for split, squares, wides in (("train", 5, 3), ("test", 2, 1)):
        for number in range(squares):
            write_video(place / f"data/{split}/cat/{number}.mp4", moving(12, 24, 24, number), fps=8)
        for number in range(wides):
            write_video(place / f"data/{split}/dog/{number}.mp4", moving(9, 18, 32, 50 + number), fps=8)
    for number in range(3):
        write_image(place / f"pictures/train/dog/{number}.png", moving(1, 20, 20, 80 + number)[:, 0])
        write_image(place / f"pictures/train/ant/{number}.png", moving(1, 16, 24, 90 + number)[:, 0])
    (place / "tiny.yaml").write_text(CONFIG)
    (place / "vae.yaml").write_text(VAE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["tiny.yaml"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def dataset_of(config: VAERun) -> Joint:
    index = make_index(config, "train")
    pictures = make_pictures(config, index)
    assert pictures is not None
    clips = clip_dataset(config, index, changed=True)
    return Joint(clips, clip_dataset(config, pictures, changed=True, pictures=True), config.data.images_share)


def drawn(workers: int, count: int, start: int = 0) -> list[dict[str, Tensor]]:
    config = load("vae.yaml", [f"data.workers={workers}"])
    assert isinstance(config, VAERun)
    return list(islice(batches(config, dataset_of(config))(start), count))


def digests(found: list[dict[str, Tensor]]) -> list[list[str]]:
    """Of each batch, a hash of each sample."""
    rows = [[{name: value[n] for name, value in batch.items()} for n in range(len(batch["key"]))] for batch in found]
    return [
        [hashlib.sha256(b"".join(row[name].numpy().tobytes() for name in sorted(row))).hexdigest() for row in batch]
        for batch in rows
    ]


if __name__ == "__main__":  # one of two processes, as torchrun starts them
    torch.set_num_threads(1)
    Path(f"rank-{os.environ['RANK']}.json").write_text(json.dumps(digests(drawn(0, 12))))


def test_any_number_of_workers_and_processes_draws_the_same(place: Path) -> None:
    alone = drawn(0, 12)
    expected = digests(alone)
    assert len({row for batch in expected for row in batch}) == 48, "no two alike"
    shapes = [tuple(batch["video"].shape[1:]) for batch in alone]
    assert set(shapes) == {(3, 5, 12, 12), (3, 3, 12, 20), (3, 1, 12, 12), (3, 1, 12, 20)}
    assert [shape[1] for shape in shapes[:10]].count(1) == 3, "the share of pictures"
    for workers in (1, 4):
        assert digests(drawn(workers, 12)) == expected
    assert digests(drawn(0, 5, start=4 * 7)) == expected[7:], "resumed"

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(HERE.parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, str(HERE)], env=environment, check=True, stderr=subprocess.DEVNULL, timeout=300)
    parts = [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [one + other for one, other in zip(*parts, strict=True)] == expected


def test_batches_of_latents_are_the_same_for_any_number_of_workers(place: Path) -> None:
    config = load("tiny.yaml")
    assert isinstance(config, DiffusionRun)
    found = prepare_latents(config, place)
    assert found.pictures is not None and found.shown is not None
    clips = latent_dataset(config, found.index, found.seen, found.seen)
    pictures = latent_dataset(config, found.pictures, found.shown, found.seen, pictures=True)
    dataset = Joint(clips, pictures, 0.25)
    drawn = {}
    for config.data.workers in (0, 2):
        drawn[config.data.workers] = list(islice(batches(config, dataset)(0), 16))
    assert digests(drawn[0]) == digests(drawn[2])
    shapes = [normalised(batch)["mean"].shape for batch in drawn[0]]
    assert {tuple(shape[2:]) for shape in shapes} == {SQUARE, WIDE, SQUARE.picture, WIDE.picture}
    shown = [bool((batch["key"] >= 8).all()) for batch in drawn[0]]
    assert [shape[2] == 1 for shape in shapes] == shown == 4 * [False, False, False, True]
    for batch in drawn[0]:
        for row, key in enumerate(batch["key"].tolist()):
            labels = [file.label for file in (*found.index.files, *found.pictures.files)]
            assert batch["label"][row] == labels[key]


@pytest.mark.faults
def test_a_picture_whose_decoder_hangs_is_left_out(place: Path) -> None:
    config = load("vae.yaml", ["data.max_broken=0.5", "runs=elsewhere"])
    assert isinstance(config, VAERun)
    dataset = dataset_of(config)
    assert isinstance(dataset, Watched) and dataset.clips.files == 8
    clips, pictures = dataset.clips, dataset.pictures
    keys = {int(dataset[0, index]["key"]) for index in range(len(dataset))}
    assert keys == set(range(8 + 6))
    with pytest.warns(UserWarning, match=r"pictures/.*: its decoder hung"):
        dataset.lose(8 + 2, "its decoder hung")
    assert pictures.lost.tolist() == [number == 2 for number in range(6)] and not clips.lost.any()
    alike = {8 + pictures.kept[place] for place in pictures.alike[2]}
    found = {int(dataset[epoch, len(clips) + 2]["key"]) for epoch in range(12)}
    assert found == alike - {8 + 2} and len(found) == 2
    with pytest.warns(UserWarning, match=r"data/.*: its decoder hung"):
        dataset.lose(3, "its decoder hung")
    assert clips.lost.tolist() == [number == 3 for number in range(8)]


def test_labels_are_matched_by_name(place: Path) -> None:
    config = load("tiny.yaml")
    index = make_index(config, "train")
    pictures = make_pictures(config, index)
    assert index.labels == ["cat", "dog"] and pictures is not None and pictures.labels == index.labels
    found = {file.name.split("/")[1]: file.label for file in pictures.files}
    assert found == {"dog": 1, "ant": -1}
    assert buckets_of(config, pictures, pictures=True).count(WIDE.picture) == 3
    assert make_pictures(load("tiny.yaml", ["data.images=''"]), index) is None


def test_a_run_on_buckets_and_pictures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_metrics(Path("runs/tiny/metrics.jsonl"))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 8 and all(math.isfinite(loss) for loss in losses)
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert {path.name for path in Path("runs/tiny/samples").iterdir()} == {
        "step-0000008.mp4",
        "step-0000008-extended.mp4",
    }
    config = read_config(Path("runs/tiny"))
    assert config.data.plan() == [SQUARE, WIDE], "what no clip goes to is left out"
    assert main(["tiny.yaml"]) == 0
    said = "".join(capsys.readouterr())
    assert "no clip goes to the bucket of 40 frames of 20x20: it is left out" in said and "from step 8 of 8" in said


def test_any_shape_that_was_trained_is_drawn(place: Path) -> None:
    pipe = Pipeline.from_pretrained("runs/tiny", "cpu")
    assert pipe.buckets == (SQUARE, WIDE, SQUARE.picture, WIDE.picture) and pipe.frames == 6
    assert pipe.generate(count=2).shape == (2, 3, 6, 16, 16)
    wide = pipe.generate(size=(12, 20), label="dog")
    assert wide.shape == (1, 3, 4, 12, 20)
    assert pipe.generate(frames=1, size=(12, 20)).shape == (1, 3, 1, 12, 20)
    assert pipe.generate(frames=7, size=(12, 20)).shape == (1, 3, 7, 12, 20)
    longer = pipe.extend(wide, frames=6, context=3)
    assert longer.shape == (1, 3, 6, 12, 20) and torch.equal(longer[:, :, :4], wide)
    assert pipe.animate(wide[:, :, 0]).shape == (1, 3, 4, 12, 20)
    assert pipe.loop(wide).shape == (1, 3, 6, 12, 20)
    assert torch.equal(pipe.outpaint(wide, (2, 2, 10, 18))[..., 2:10, 2:18], wide[..., 2:10, 2:18])
    with pytest.raises(ValueError, match=r"size is 20x20; this model was trained on clips of 16x16, 12x20"):
        pipe.generate(size=(20, 20))
    with pytest.raises(ValueError, match=r"expected \(b, 3, f, 16, 16\) or \(b, 3, f, 12, 20\): resize it"):
        pipe.extend(torch.zeros(1, 3, 4, 20, 12), frames=6)
    with pytest.raises(ValueError, match="context is 4; give 1 to 3: the model sees 4 frames at once"):
        pipe.extend(wide, frames=6, context=4)
    with pytest.raises(ValueError, match=r"size is \(16, 16\), but the clip has \(12, 20\): leave out size"):
        list(pipe.stream(6, clip=wide, size=(16, 16)))


def test_commands_take_the_nearest_shape(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tool(name: str, *arguments: str) -> int:
        return runpy.run_path(str(HERE.parents[2] / "tools" / f"{name}.py"))["main"](list(arguments))

    assert tool("generate", "--run", "runs/tiny", "--size", "12x20", "--out", "wide.mp4", "--label", "dog") == 0
    assert read_video("wide.mp4").shape == (3, 4, 12, 20)
    source = "data/test/dog/0.mp4"  # 18x32
    assert tool("extend", source, "--run", "runs/tiny", "--given", "5", "--frames", "7", "--out", "longer.mp4") == 0
    assert read_video("longer.mp4").shape == (3, 7, 12, 20)
    assert tool("edit", "inpaint", source, "--run", "runs/tiny", "--box", "2,2,8,18", "--out", "new.mp4") == 0
    assert read_video("new.mp4").shape == (3, 9, 12, 20)
    assert tool("generate", "--run", "runs/tiny", "--size", "12x12", "--out", "none.mp4") == 2
    assert "size is 12x12; this model was trained on clips of 16x16, 12x20" in capsys.readouterr().err


def test_a_resumed_run_ends_with_the_same_bits(place: Path) -> None:
    shutil.copytree("runs/tiny", "runs/again")
    checkpoints = Path("runs/again/checkpoints")
    for path in checkpoints.glob("step-*"):
        if int(path.name.split("-")[1]) > 3:
            shutil.rmtree(path)
    (checkpoints / "latest").write_text("step-0000003")
    assert main(["tiny.yaml", "name=again"]) == 0
    names = ["model.safetensors", "ema.safetensors"]
    ends = [
        [Path(f"runs/{run}/checkpoints/step-0000008/{name}").read_bytes() for name in names]
        for run in ("tiny", "again")
    ]
    assert ends[0] == ends[1]


def test_an_autoencoder_is_trained_on_both(place: Path) -> None:
    assert main(["vae.yaml"]) == 0
    losses = [line["loss"] for line in read_metrics(Path("runs/codec/metrics.jsonl")) if "loss" in line]
    assert len(losses) == 10 and all(math.isfinite(loss) for loss in losses)


def test_text_detail_and_classifiers_know_buckets(place: Path) -> None:
    """A super-resolution run with text on clips and pictures of both shapes, and a classifier that guides the other."""
    for path in [*Path("data").rglob("*.mp4"), *Path("pictures").rglob("*.png")]:
        path.with_suffix(".txt").write_text(f"a {path.parent.name}")
    changes = [
        "name=larger",
        "lowres.factor=2",
        "text={name: words, dim: 8}",
        "train.steps=6",
        "train.validate_every=6",
    ]
    assert main(["tiny.yaml", *changes, "train.sample_every=6"]) == 0
    assert read_video("runs/larger/samples/step-0000006.mp4").shape == (3, 6, 48, 32)
    pipe = Pipeline.from_pretrained("runs/larger", "cpu")
    for frames, height, width in ((6, 8, 8), (9, 6, 10)):
        found = pipe.upscale(torch.zeros(1, 3, frames, height, width), text="a dog")
        assert found.shape == (1, 3, frames, 2 * height, 2 * width) and found.isfinite().all()
    assert pipe.upscale(torch.zeros(1, 3, 1, 6, 10), text="a ant").shape == (1, 3, 1, 12, 20), "a picture's word"
    with pytest.raises(ValueError, match=r"expected \(b, 3, f, 8, 8\) or \(b, 3, f, 6, 10\)"):
        pipe.upscale(torch.zeros(1, 3, 6, 16, 16))

    config = yaml.safe_load(CONFIG) | {"kind": "classifier", "name": "judge"}
    config["classifier"] = config.pop("unet")
    del config["sampling"], config["data"]["images"]
    Path("judge.yaml").write_text(yaml.safe_dump(config))
    assert main(["judge.yaml", "train.sample_every=0"]) == 0
    guided = Pipeline.from_pretrained("runs/tiny", "cpu", classifier="runs/judge")
    assert guided.generate(label="cat", size=(12, 20)).shape == (1, 3, 4, 12, 20)
    config["data"]["images"] = "pictures"
    with pytest.raises(ValueError, match=r"data\.images is 'pictures', but a classifier is trained on clips"):
        build_config(config, "judge.yaml")


def test_a_run_at_a_frame_rate_of_its_own(place: Path) -> None:
    """Clips of 12 and 9 frames at 8 a second are seen as 6 and 5 at 4 a second."""
    before = set(Path("runs/latents").glob("*/index.json"))
    rate = ["data.fps=4", "data.seconds=1.5", "data.stride=[1,1]", "data.images=''", "name=slow"]
    assert main(["tiny.yaml", *rate, "train.steps=2", "train.sample_every=2", "train.validate_every=2"]) == 0
    made = set(Path("runs/latents").glob("*/index.json")) - before
    assert sorted(sorted(set(json.loads(file.read_text())["frames"])) for file in made) == [[5, 6], [5, 6]]
    pipe = Pipeline.from_pretrained("runs/slow", "cpu")
    assert (pipe.fps, pipe.frames, pipe.buckets) == (4, 6, (SQUARE, WIDE))


def test_a_dry_run_of_buckets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", "--dry-run"]) == 0
    assert "dry run complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"buckets": [{"frames": -1}]}, "data.buckets has {'frames': -1, 'size': []}; give frames and"),
        ({"buckets": [{"size": [16]}]}, "give frames and [height, width]"),
        ({"buckets": [{"size": [16, 15]}]}, "data.buckets has 16x15, where a side is 15; the codec shrinks by 1"),
        ({"buckets": [{}, {"frames": 6}]}, "data.buckets has clips of 6 frames of 64x64 more than once"),
        ({"buckets": [{"frames": 3}]}, "sampling.context is 3; give 1 to 2, less than the first bucket's frames"),
        ({"images_share": 1.0}, "data.images_share is 1.0; give more than 0 and less than 1"),
        ({"zoom": [1, 2]}, "latents are encoded once"),
        ({"jitter": 2.0}, "data.jitter is 2.0; give a fraction"),
        ({"zoom": [0.5, 1]}, "data.zoom is [0.5, 1.0]; give the least and the most"),
    ],
)
def test_mistakes_are_told(place: Path, changes: dict[str, object], said: str) -> None:
    config = yaml.safe_load(CONFIG)
    config["data"] |= changes
    with pytest.raises(ValueError) as caught:
        build_config(config, "tiny.yaml")
    assert said in str(caught.value)


def test_the_colours_of_latents_do_not_change(place: Path) -> None:
    """Those of pixels may, unless a video comes with them that would keep its own."""
    config = yaml.safe_load(CONFIG)
    config["data"]["jitter"] = 0.1
    assert build_config(config, "tiny.yaml").data.jitter == 0.1
    with pytest.raises(ConfigError, match="latents are encoded once"):
        build_config(config | {"codec": {"name": "vae", "config": "vae.yaml"}}, "tiny.yaml")
    config["data"]["control"] = "data/edges"
    with pytest.raises(ConfigError, match=r"data\.jitter is 0\.1, but the video beside each clip keeps its colours"):
        build_config(config, "tiny.yaml")


def test_a_plain_run_has_one_bucket() -> None:
    config = build_config({"kind": "diffusion", "name": "a", "data": {"root": "x"}, "codec": {"name": "identity"}}, "a")
    assert isinstance(config, DiffusionRun)
    assert config.data.plan() == config.data.drawn() == [Bucket(16, 64, 64)]
    config.data.seconds, config.data.fps = 0.5, 8
    config.data.check()
    assert config.data.plan() == [Bucket(4, 64, 64)]
