"""Buckets and pictures with a codec that makes one latent of several frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prepared import prepare_latents

from vidiff.codec.files import load_codec
from vidiff.data.buckets import Bucket
from vidiff.data.latents.cache import LatentCache
from vidiff.pipeline.pipeline import Pipeline
from vidiff.plan.sketch import sketch
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import build_config, load
from vidiff.report.log import read_metrics
from vidiff.train import main
from vidiff.training.datasets import latent_dataset
from vidiff.video.reader import read_video
from vidiff.video.writer import write_image, write_video

VAE = """\
kind: vae
name: tiny_vae
device: cpu
batch: 2
data: {root: data, size: 16, frames: 5, workers: 0, buckets: [{}, {frames: 3, size: [12, 20]}]}
vae: {channels: 3, width: 8, multipliers: [1], patch: 2, temporal: 2}
train: {steps: 2, precision: fp32, log_every: 1, validate_every: 2, sample_every: 2}
"""
DIFFUSION = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data:
  root: data
  workers: 0
  flip: true
  buckets: [{frames: 5, size: [16, 16]}, {frames: 3, size: [12, 20]}]
  images: pictures
  images_share: 0.25
codec: {config: vae.yaml, least: 0}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 1, context: 3, count: 2}
train: {steps: 4, precision: fp32, log_every: 1, validate_every: 4, sample_every: 4}
"""
SQUARE, WIDE = Bucket(5, 16, 16), Bucket(3, 12, 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tall files of 12 frames, wide ones of 7, pictures of both shapes, and a whole run on them."""
    folder = tmp_path_factory.mktemp("buckets")
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for split, count in (("train", 3), ("test", 1)):
            for label, shape in (("cat", (12, 24, 24)), ("dog", (7, 18, 30))):
                for number in range(count):
                    video = torch.rand(3, *shape, generator=generator) * 2 - 1
                    write_video(folder / f"data/{split}/{label}/{number}.mp4", video, fps=8)
        for name, size in (("cat/0", (20, 20)), ("dog/0", (16, 26))):
            picture = torch.rand(3, *size, generator=generator) * 2 - 1
            write_image(folder / f"pictures/train/{name}.png", picture)
        Path("vae.yaml").write_text(VAE)
        Path("tiny.yaml").write_text(DIFFUSION)
        assert main(["tiny.yaml"]) == 0
        yield folder


def test_a_file_is_cached_in_segments_of_its_own_bucket(place: Path) -> None:
    """Of 12 frames two segments of 5, each of 3 latents; of 7 two of 3, each of 2; a picture is a latent by itself."""
    caches = [LatentCache(path.parent) for path in (place / "runs/latents").glob("*/index.json")]
    kept = {(*cache.segments, *cache.frames) for cache in caches}
    assert kept == {(3, 3, 3, 2, 2, 2, 6, 6, 6, 4, 4, 4), (3, 2, 6, 4), (1, 1, 1, 1)}
    cache = next(cache for cache in caches if len(cache) == 2 and len({*cache.segments}) == 2)
    codec = load_codec(place / "runs/tiny/codec")
    shift, scale = (x.view(-1, 1, 1, 1) for x in (codec.shift, codec.scale))
    wide = read_video(place / "data/test/dog/0.mp4", size=(12, 20))[None]
    for number in range(2):
        expected = codec.encode(wide[:, :, 3 * number : 3 * number + 3]).mean[0] * scale + shift
        torch.testing.assert_close(cache.read(1, 2 * number, 2)[0], expected, atol=5e-3, rtol=5e-3)  # float16


def test_windows_are_the_segments_of_their_bucket(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    config = load("tiny.yaml")
    assert isinstance(config, DiffusionRun)
    found = prepare_latents(config, place)
    dataset = latent_dataset(config, found.index, found.seen, found.seen)
    drawn = [dataset.draw((epoch, file), torch.Generator().manual_seed(epoch)) for epoch in range(8) for file in (0, 5)]
    assert {(window.number, window.start, window.frames) for window in drawn} == {
        (0, 0, 3),
        (0, 3, 3),
        (5, 0, 2),
        (5, 2, 2),
    }
    assert [len(group) for group in dataset.groups] == [3, 3]


def test_any_shape_that_was_trained_is_drawn(place: Path) -> None:
    losses = [line["loss"] for line in read_metrics(place / "runs/tiny/metrics.jsonl") if "loss" in line]
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
    pipe = Pipeline.from_pretrained(place / "runs/tiny", "cpu")
    assert pipe.buckets == (SQUARE, WIDE, SQUARE.picture, WIDE.picture)
    assert pipe.generate().shape == (1, 3, 5, 16, 16)
    wide = pipe.generate(size=(12, 20), label="dog")
    assert wide.shape == (1, 3, 3, 12, 20)
    assert pipe.generate(frames=1, size=(12, 20)).shape == (1, 3, 1, 12, 20)
    longer = pipe.extend(wide, frames=8)  # which looks back on 1 frame, since its window has 3
    assert longer.shape == (1, 3, 8, 12, 20) and torch.equal(longer[:, :, :3], wide)
    with pytest.raises(ValueError, match="context is 3; give 1 to 2: the model sees 3 frames at once"):
        pipe.extend(wide, frames=8, context=3)


def test_files_seen_at_one_rate_fall_into_buckets_by_their_length_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 and 7 frames at 8 a second, 4 a second leave 6 and 4: a segment of 5 and one of 3."""
    monkeypatch.chdir(place)
    before = set(Path("runs/latents").glob("*/index.json"))
    config = load("tiny.yaml", ["data.fps=4", "data.images=''", "name=slow"])
    assert isinstance(config, DiffusionRun)
    prepare_latents(config, place)
    made = [json.loads(path.read_text()) for path in set(Path("runs/latents").glob("*/index.json")) - before]
    assert sorted((facts["segment"], facts["frames"]) for facts in made) == [
        ([3, 2], [3, 2]),
        ([3, 3, 3, 2, 2, 2], [3, 3, 3, 2, 2, 2]),
    ]


def test_the_plan_is_of_the_bucket_with_most_latents(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not be that with most frames: 9 of 8x8 hold more pixels than 1 of 20x20, and fewer latents' pixels."""
    monkeypatch.chdir(place)
    buckets = [{"frames": 9, "size": [8, 8]}, {"frames": 1, "size": [20, 20]}]
    config = load("tiny.yaml")
    assert sketch(config, place).batch(2)["mean"].shape == (2, 3, 3, 8, 8)
    config = load("tiny.yaml", [f"data.buckets={json.dumps(buckets)}"])
    assert sketch(config, place).batch(2)["mean"].shape == (2, 3, 1, 10, 10)


def test_a_bucket_that_makes_no_whole_latents_is_refused_with_the_nearest(place: Path) -> None:
    given = {"kind": "vae", "name": "a", "vae": {"temporal": 4, "multipliers": [1]}}
    given["data"] = {"root": "data", "buckets": [{"frames": 5}, {"frames": 8, "size": [48, 80]}]}
    with pytest.raises(ValueError, match=r"data.buckets has 8 frames of 48x80, where frames is 8; .*: give 5 or 9"):
        build_config(given, "a.yaml")
