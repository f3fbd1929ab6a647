"""A model on latents of several frames each: what it learns from, what it makes, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import VAECodec
from vidiff.data.buckets import Bucket, Strides, View
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import LatentDataset
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.diffusion.condition import Condition
from vidiff.draw.edit import causal, of_latents
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.train import main
from vidiff.video.reader import read_video

VAE = """\
kind: vae
name: tiny_vae
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 5, workers: 0}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2, temporal: 2}
loss: {shifted: 0.5}
train: {steps: 2, precision: fp32, log_every: 1, validate_every: 2, sample_every: 2}
"""
DIFFUSION = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 5, workers: 0}
codec: {config: vae.yaml, least: 0}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 2, context: 3, count: 2}
train: {steps: 4, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2, sample_every: 4}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clips of 13 frames, and a whole run on them: two segments of 5 frames, and 3 that make none."""
    folder = tmp_path_factory.mktemp("temporal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_shapes("data", ShapesSpec(size=32, frames=13, train=1, test=2), progress=False)
        Path("vae.yaml").write_text(VAE)
        Path("tiny.yaml").write_text(DIFFUSION)
        assert main(["tiny.yaml", "train.steps=2"]) == 0
        yield folder


@pytest.fixture(scope="module")
def pipeline(place: Path) -> Pipeline:
    return Pipeline.from_pretrained("runs/tiny", device="cpu")


def cache_of(place: Path, files: int) -> LatentCache:
    caches = [LatentCache(path.parent) for path in (place / "runs/latents").glob("*/index.json")]
    return next(cache for cache in caches if len(cache) == files)


def test_files_are_cached_segment_by_segment(place: Path, pipeline: Pipeline) -> None:
    """Each is a clip of its own to the codec: it begins with a frame that has a latent to itself."""
    cache, codec = cache_of(place, 24), pipeline.codec
    assert cache.segments == [3] * 24 and cache.frames == [6] * 24
    frames = read_video(sorted((place / "data/test").rglob("*.mp4"))[0])[None]
    shift, scale = (x.view(-1, 1, 1, 1) for x in (codec.shift, codec.scale))
    for number in range(2):
        expected = codec.encode(frames[:, :, 5 * number : 5 * number + 5]).mean[0] * scale + shift
        torch.testing.assert_close(cache.read(0, 3 * number, 3)[0], expected, atol=2e-3, rtol=2e-3)  # float16
    torch.testing.assert_close(codec.shift, cache_of(place, 12).statistics[0])


def test_windows_are_the_segments(place: Path) -> None:
    cache = cache_of(place, 24)
    dataset = LatentDataset(cache, View(Bucket(3, 16, 16)))
    keys = [(epoch, index) for epoch in range(8) for index in (0, 5)]
    starts = [dataset.draw(key, torch.Generator().manual_seed(key[0])).start for key in keys]
    assert set(starts) == {0, 3}
    for frames, stride in ((2, Strides()), (3, Strides(1, 2))):
        with pytest.raises(ValueError, match="holds segments of 3 latents"):
            LatentDataset(cache, View(Bucket(frames, 16, 16), stride))


def test_it_goes_on_where_it_stopped(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml"]) == 0
    assert "going on from step 2 of 4" in "".join(capfd.readouterr())
    assert read_video(place / "runs/tiny/samples/step-0000004.mp4").shape[1] == 5
    assert read_video(place / "runs/tiny/samples/step-0000004-extended.mp4").shape[1] == 7


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 12])
def test_clips_of_every_length_are_made(pipeline: Pipeline, frames: int) -> None:
    made = pipeline.generate(frames=frames, label=0, seed=1)
    assert made.shape == (1, 3, frames, 32, 32) and bool(made.isfinite().all())
    assert torch.equal(made, pipeline.generate(frames=frames, label=0, seed=1))


@pytest.mark.parametrize("given", [1, 2, 3, 7])
def test_clips_of_every_length_are_continued(pipeline: Pipeline, given: int) -> None:
    clip = torch.rand(2, 3, given, 32, 32) * 2 - 1
    longer = pipeline.extend(clip, frames=given + 9, label=1)
    assert longer.shape[2] == given + 9 and torch.equal(longer[:, :, :given], clip)
    assert torch.equal(pipeline.animate(clip[:, :, 0], 5)[:, :, 0], clip[:, :, 0])


@pytest.mark.parametrize("p", [0, 2, 9])
def test_each_window_goes_on_from_frames_encoded_anew(p: int) -> None:
    codec = VAECodec(VAEConfig(channels=3, width=4, multipliers=[1], patch=2, temporal=2)).eval()
    codec.set_statistics(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]))
    seen: list[tuple[Tensor, Tensor | None]] = []

    class Draw:
        window = 4

        def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition) -> Tensor:
            seen.append((frames, known))
            new = torch.randn(frames.shape, generator=torch.Generator().manual_seed(len(seen)))
            made.append(new if known is None else torch.where(known, frames, new))
            return made[-1]

    made: list[Tensor] = []
    past = torch.rand(1, 3, p, 8, 8) * 2 - 1
    parts = list(causal(Draw(), codec, past, 9, 5, Condition()))  # type: ignore[arg-type]
    clip = torch.cat([past, *parts], dim=2)
    assert clip.shape[2] == p + 9
    done = p
    for (frames, known), window, part in zip(seen, made, parts, strict=True):
        given = {0: 0, 2: 1}.get(done, 5)
        assert frames.shape[2] == 4
        if given:
            expected = codec.encode(clip[:, :, done - given : done]).mean
            assert known is not None and int(known.sum()) == expected.shape[2] == (given + 1) // 2
            torch.testing.assert_close(frames[:, :, : expected.shape[2]], expected)
        else:
            assert known is None
        torch.testing.assert_close(part, codec.decode(window)[:, :, given : given + part.shape[2]])
        done += part.shape[2]


@pytest.mark.parametrize("frames", [4, 5, 12])
def test_a_part_of_each_frame_is_made_anew(pipeline: Pipeline, frames: int) -> None:
    clip = torch.rand(2, 3, frames, 32, 32) * 2 - 1
    mask = torch.zeros(1, 1, 1, 32, 32, dtype=torch.bool)
    mask[..., 8:16, 12:20] = True
    made = pipeline.inpaint(clip, mask, seed=1)
    assert torch.equal(made.masked_fill(mask, 0), clip.masked_fill(mask, 0))
    inside = mask.expand_as(clip)
    assert (made[inside] != clip[inside]).all()
    assert torch.equal(made, pipeline.inpaint(clip.masked_fill(mask, 0.5), mask, seed=1)), "hidden pixels are seen"
    around = pipeline.outpaint(clip, (8, 12, 16, 20), seed=1)
    assert torch.equal(around[inside], clip[inside]) and not torch.equal(around, clip)


@pytest.mark.parametrize("between", [1, 2, 9])
def test_frames_between_lead_from_the_one_to_the_other(pipeline: Pipeline, between: int) -> None:
    first, last = torch.rand(1, 3, 4, 32, 32) * 2 - 1, torch.rand(1, 3, 3, 32, 32) * 2 - 1
    made = pipeline.interpolate(first, last, between, seed=1)
    assert made.shape[2] == 7 + between
    assert torch.equal(made[:, :, :4], first) and torch.equal(made[:, :, 4 + between :], last)
    other = pipeline.interpolate(first, -last, between, seed=1)
    assert not torch.equal(made[:, :, 4 + between - 1], other[:, :, 4 + between - 1]), (
        "the last of them sees what follows"
    )
    assert pipeline.loop(first, between).shape[2] == 4 + between


@pytest.mark.parametrize("frames", [2, 5, 9])
def test_frames_come_between_every_two_and_before_the_first(pipeline: Pipeline, frames: int) -> None:
    clip = torch.rand(1, 3, frames, 32, 32) * 2 - 1
    made = pipeline.double(clip, seed=1)
    assert made.shape[2] == 2 * frames - 1 and torch.equal(made[:, :, ::2], clip)
    before = pipeline.extend(clip, frames + 7, backwards=True, seed=1)
    assert before.shape[2] == frames + 7 and torch.equal(before[:, :, 7:], clip) and bool(before.isfinite().all())
    other = pipeline.extend(-clip, frames + 7, backwards=True, seed=1)
    assert not torch.equal(before[:, :, 6], other[:, :, 6]), "the last of them sees what follows"


@pytest.mark.parametrize("frames", [4, 5, 12])
def test_a_clip_is_noised_and_drawn_anew(pipeline: Pipeline, frames: int) -> None:
    clip = torch.rand(1, 3, frames, 32, 32) * 2 - 1
    kept = pipeline.edit(clip, 0.0)
    assert kept.shape == clip.shape
    assert not torch.equal(kept, pipeline.edit(clip, 0.5)) and pipeline.invert(clip, inversion=2).shape == clip.shape
    if frames == 5:
        torch.testing.assert_close(kept, pipeline.reconstruct(clip))


@pytest.mark.parametrize("strategy", ["noisy", "replace", "reconstruct", "rolling"])
def test_every_strategy_but_key_frames_goes_on(pipeline: Pipeline, strategy: str) -> None:
    clip = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    longer = pipeline.extend(clip, 14, strategy=strategy, history=None, guidance=1.0, seed=1)
    assert longer.shape[2] == 14 and torch.equal(longer[:, :, :5], clip) and bool(longer.isfinite().all())
    assert pipeline.generate(frames=8, strategy=strategy, guidance=1.0).shape[2] == 8


def test_another_video_is_encoded_with_each_window_as_a_clip_of_its_own(place: Path) -> None:
    """Here the clips themselves are shown beside them, so that caches of both hold the same."""
    assert main(["tiny.yaml", "name=shown", "data.control=data", "train.steps=2"]) == 0
    shown = Pipeline.from_pretrained("runs/shown", device="cpu")
    video = read_video(sorted((place / "data/test").rglob("*.mp4"))[0])[None]
    pixels = shown.model.control_tensor(video, 2, 13, (32, 32))
    assert pixels is not None and torch.equal(pixels, video.expand(2, -1, -1, -1, -1))
    told = of_latents(Condition(control=pixels), shown.codec, 5, 3).control
    assert told is not None
    torch.testing.assert_close(told, shown.codec.encode(video[:, :, 5:10]).mean.expand(2, -1, -1, -1, -1))
    caches = [LatentCache(path.parent) for path in Path("runs/latents").glob("*/index.json")]
    own, beside = ([one for one in caches if one.facts["made_of"]["kind"] == kind] for kind in ("video", "control"))
    assert {len(one) for one in beside} == {12, 24}
    for one in beside:
        same = next(other for other in own if len(other) == len(one))
        assert all(torch.equal(one.read(n, 3, 3)[0], same.read(n, 3, 3)[0]) for n in range(len(one)))
    other = video.clone()
    other[:, :, 9:] = -1
    for strategy in ("clean", "rolling"):
        one, two = (shown.generate(13, control=each, strategy=strategy, seed=0) for each in (video, other))
        same_frames = (one == two).flatten(3).all(3).all(1)[0]
        assert same_frames[:5].all() and not same_frames[9:].any(), strategy
    clip = video[:, :, :5]
    back = [
        shown.extend(clip, 9, control=each[:, :, :9].flip(2), backwards=True, seed=0) for each in (video, other.flip(2))
    ]
    assert not torch.equal(*back) and all(torch.equal(one[:, :, 4:], clip) for one in back)


def test_what_makes_no_sense_is_refused(pipeline: Pipeline) -> None:
    clip = torch.zeros(1, 3, 5, 32, 32)
    with pytest.raises(ValueError, match="one latent of 2 frames in a row: choose another strategy, such as clean"):
        pipeline.extend(clip, 9, strategy="keyframes")
    with pytest.raises(ValueError, match="goes with strategy=clean alone"):
        pipeline.extend(clip, 9, strategy="rolling", backwards=True)
    with pytest.raises(ValueError, match=r"context is 2; .*: give 1 or 3"):
        pipeline.extend(clip, 9, context=2)


def test_files_shorter_than_a_segment_are_left_out(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changes = ["data.frames=15", "codec.override.data.frames=5", "name=long", "sampling.context=3"]
    assert main(["tiny.yaml", *changes]) == 2
    assert "lower data.frames" in capfd.readouterr().err.strip().splitlines()[-1]
