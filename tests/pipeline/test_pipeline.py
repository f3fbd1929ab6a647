"""A trained run, ready to use; here of random weights, since nothing of this depends on what was learned."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from vidiff.codec.codec import Codec, Identity, VAECodec
from vidiff.codec.files import load_codec, save_codec
from vidiff.data.buckets import Bucket
from vidiff.diffusion.grid import Grid
from vidiff.draw.guide import Guide
from vidiff.draw.long import STRATEGIES
from vidiff.engine import checkpoint
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import find_runs, latest_run, read_config, runs_of
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DataConfig, DiffusionRun, SamplingConfig, VAERun
from vidiff.recipe.load import dump
from vidiff.recipe.slots import build_grid
from vidiff.training.start import start_denoiser

LABELS = ("cat", "dog", "horse")
VAE = VAEConfig(channels=3, width=4, multipliers=[1], patch=2)


def config(labels: int = 3, frames: int = 6, stride: int = 1) -> DiffusionRun:
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=labels, strided=stride > 1)
    data = DataConfig("nowhere", size=8, frames=frames, stride=[1, stride])
    sampling = SamplingConfig({"name": "ddim"}, steps=2, guidance=1.5, context=2)
    return DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)


def denoiser(of: DiffusionRun, seed: int = 0):
    torch.manual_seed(0)
    made = build_denoiser(of)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def build(labels: tuple[str, ...] = LABELS, frames: int = 6, codec=None) -> Pipeline:
    of = config(len(labels), frames)
    return Pipeline(TrainedModel(denoiser(of), codec or VAECodec(VAE), Facts.of(of, labels, 8.0)), of.sampling, "cpu")


@pytest.fixture
def pipe() -> Pipeline:
    return build()


def clip(frames: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("frames", [None, 1, 5, 6, 7, 15])
def test_generate_gives_as_many_frames_as_asked(pipe: Pipeline, frames: int | None) -> None:
    made = pipe.generate(frames, "dog", count=2)
    assert made.shape == (2, 3, frames or 6, 8, 8)
    assert made.dtype == torch.float32 and made.abs().max() <= 1 and made.std() > 0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(pipe: Pipeline) -> None:
    first = pipe.generate(9, ["cat", "dog"], count=2, seed=4)
    torch.manual_seed(123)
    assert torch.equal(first, pipe.generate(9, ["cat", "dog"], count=2, seed=4))
    assert not torch.equal(first, pipe.generate(9, ["cat", "dog"], count=2, seed=5))


def test_what_streams_is_what_is_generated(pipe: Pipeline) -> None:
    parts = list(pipe.stream(15, "cat", 2, seed=1, context=3))
    assert [part.shape[2] for part in parts] == [6, 3, 3, 3]
    assert torch.equal(torch.cat(parts, dim=2), pipe.generate(15, "cat", 2, seed=1, context=3))
    assert not any(part.requires_grad for part in parts)


def test_a_longer_clip_begins_as_the_shorter(pipe: Pipeline) -> None:
    longer, shorter = (pipe.generate(frames, "cat", seed=2) for frames in (20, 11))
    torch.testing.assert_close(longer[:, :, :11], shorter, atol=1e-6, rtol=0)  # the last part decodes in another chunk


@pytest.mark.parametrize(
    ("given", "frames", "context"), [(1, 2, 1), (1, 15, 2), (3, 4, 5), (6, 12, 5), (9, 10, 2), (9, 16, 2)]
)
def test_extend_returns_the_given_frames_bit_for_bit(pipe: Pipeline, given: int, frames: int, context: int) -> None:
    start = clip(given)
    longer = pipe.extend(start, frames, "horse", context=context)
    assert longer.shape == (2, 3, frames, 8, 8)
    assert torch.equal(longer[:, :, :given], start)
    assert torch.equal(longer, pipe.extend(start, frames, "horse", context=context))


def test_extend_takes_one_clip_and_other_precisions(pipe: Pipeline) -> None:
    one = clip(3, 1).double()
    longer = pipe.extend(one[0], 8)
    assert longer.dtype == torch.float64 and longer.shape == (1, 3, 8, 8, 8)
    assert torch.equal(longer[:, :, :3], one)
    assert torch.equal(longer, pipe.extend(one, 8))


def test_only_the_context_is_looked_back_on(pipe: Pipeline) -> None:
    """So a long clip can be extended from its last frames alone."""
    start = clip(9)
    whole = pipe.extend(start, 15, context=3)
    assert torch.equal(whole[:, :, 9:], pipe.extend(start[:, :, 6:], 9, context=3)[:, :, 3:])
    other = start.clone()
    other[:, :, -1] *= -1
    assert not torch.equal(whole[:, :, 9:], pipe.extend(other, 15, context=3)[:, :, 9:])


def test_labels_are_names_or_numbers_one_or_one_each(pipe: Pipeline) -> None:
    dogs = pipe.generate(label="dog", count=2)
    assert torch.equal(dogs, pipe.generate(label=1, count=2))
    assert torch.equal(dogs, pipe.generate(label=["dog", 1], count=2))
    mixed = pipe.generate(label=["dog", "cat"], count=2)
    torch.testing.assert_close(mixed[0], dogs[0], atol=1e-5, rtol=0)
    assert (mixed[1] - dogs[1]).abs().max() > 1e-3
    assert pipe.model.label_tensor(None, 2).tolist() == [-1, -1]


def test_options_change_what_is_drawn(pipe: Pipeline) -> None:
    plain = pipe.generate(label="dog")
    for change in ({"guidance": 4.0}, {"steps": 3}, {"sampler": "heun"}, {"sampler": {"name": "ddim", "eta": 1.0}}):
        assert not torch.equal(plain, pipe.generate(label="dog", **change)), change
    assert torch.equal(plain, pipe.generate(label="dog", guidance=1.5, steps=2, sampler="ddim", seed=0, context=2))


@contextmanager
def asked_times(pipe: Pipeline) -> Iterator[list[float]]:
    """The times at which the denoiser is asked, of the voxels that are not known, without repetitions."""
    times: list[float] = []

    def see(_: object, arguments: tuple) -> None:
        time = float(arguments[1].max())
        times.extend([] if times and times[-1] == time else [time])

    hook = pipe.denoiser.register_forward_pre_hook(see)
    try:
        yield times
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "grid",
    [
        "karras",
        "trailing",
        "{kind: karras, ends: [-6, 5], rho: 3}",
        {"kind": "log_snr", "ends": [-7.5, 6]},
        {"kind": "quadratic"},
    ],
)
def test_windows_and_long_videos_are_drawn_at_the_times_of_the_grid(pipe: Pipeline, grid: str | dict) -> None:
    wanted = build_grid(grid)(pipe.denoiser.schedule, 4).tolist()
    with asked_times(pipe) as times:
        pipe.generate(9, "dog", grid=grid, steps=4, context=3, guidance=1.0)
    assert times == pytest.approx([*wanted, *wanted])  # two windows
    with asked_times(pipe) as times:
        pipe.edit(clip(), 0.5, "dog", grid=grid, steps=4, guidance=1.0)
    assert times == pytest.approx([0.5, *(time for time in wanted if time < 0.5)])
    rolling = {"name": "rolling", "moving": 5}
    with asked_times(pipe) as times:
        pipe.generate(9, "dog", grid=grid, steps=4, context=1, guidance=1.0, strategy=rolling)
    assert set(times) <= {*wanted} and set(times) >= {wanted[0]}
    pipe.sampling.grid, before = build_grid(grid), pipe.sampling.grid
    try:
        assert torch.equal(pipe.generate(6, "dog"), pipe.generate(6, "dog", grid=grid))
        assert pipe.settings()["grid"] == asdict(build_grid(grid))
    finally:
        pipe.sampling.grid = before


def test_settings_tell_how_clips_are_drawn(pipe: Pipeline) -> None:
    found = pipe.settings(steps=9, sampler=None, seed=3)
    rest = {"sampler": {"name": "ddim"}, "steps": 9, "context": 2, "lag": 0, "seed": 3, "weights": "ema"}
    rest["strategy"], rest["grid"] = {"name": "clean"}, asdict(Grid())
    assert found == rest | {"guidance": 1.5, "history": None} | asdict(Guide())
    pipe.sampling.history = 2.0
    try:
        assert pipe.settings()["history"] == 2.0
        asked = pipe.settings(guidance=3.0)
        assert asked["guidance"] == 3.0 and asked["history"] is None, "what is asked for is not replaced"
    finally:
        pipe.sampling.history = None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "hors"}, "no label 'hors'; the nearest of 3 are horse"),
        ({"label": "zebra"}, "no label 'zebra'; the nearest of 3 are"),
        ({"label": 3}, "no label 3"),
        ({"label": -1}, "no label -1"),
        ({"label": ["cat"], "count": 2}, "1 labels for 2 clips"),
        ({"frames": 0}, "frames is 0"),
        ({"count": 0}, "count is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "ddmi"}, "unknown sampling.sampler 'ddmi'"),
        ({"grid": "even"}, "sampling.grid: unknown grid kind 'even'; choose one of karras"),
        ({"grid": {"kind": "karras", "sigma": 1}}, "it takes kind, ends and rho"),
        ({"grid": "{kind: karras"}, "sampling.grid is {kind: karras; give a kind, or {kind: ..., option: ...}"),
        ({"sampler": "{name: ddim, eta: 2}"}, "eta = 2 is outside"),
        ({"sampler": {"eta": 1}}, "sampling.sampler needs a name"),
        ({"context": 0}, "context is 0; give 1 to 5: the model sees 6 frames at once"),
        ({"context": 6}, "context is 6; give 1 to 5"),
    ],
)
def test_a_wrong_option_is_named(pipe: Pipeline, options: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        pipe.generate(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("start", "frames", "said"),
    [
        (torch.zeros(1, 3, 2, 16, 16), 8, r"\(1, 3, 2, 16, 16\); expected \(b, 3, f, 8, 8\): resize"),
        (torch.zeros(1, 3, 2, 8, 4), 8, "resize"),
        (torch.zeros(2, 1, 2, 8, 8), 8, "expected"),
        (torch.zeros(3, 8, 8), 8, "expected"),
        (torch.zeros(1, 3, 0, 8, 8), 8, "expected"),
        (torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), 8, "uint8; expected floating point"),
        (torch.zeros(1, 3, 5, 8, 8), 5, "frames is 5, the clip has 5 already"),
        (torch.zeros(1, 3, 5, 8, 8), 2, "frames is 2, the clip has 5 already"),
    ],
)
def test_a_clip_that_cannot_be_extended_is_named(pipe: Pipeline, start, frames: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pipe.extend(start, frames)


def test_a_model_without_labels_says_so() -> None:
    pipe = build(labels=())
    assert pipe.generate().shape == (1, 3, 6, 8, 8)
    with pytest.raises(ValueError, match="trained without labels: leave it out"):
        pipe.generate(label="cat")


def test_a_model_of_single_frames_makes_pictures_and_no_clips() -> None:
    pipe = build(frames=1)
    assert pipe.generate(count=2).shape == (2, 3, 1, 8, 8)
    for make in (lambda: pipe.generate(2), lambda: pipe.extend(clip(1), 2)):
        with pytest.raises(ValueError, match="single frames"):
            make()


def strided(causal: bool = False) -> Pipeline:
    of = config(stride=4)
    of.unet.causal = causal
    return Pipeline(TrainedModel(denoiser(of), Identity(), Facts.of(of, LABELS, 8.0)), of.sampling, "cpu")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_video_goes_on_by_every_strategy(name: str) -> None:
    streams = name == "stream"
    pipe, start = strided(causal=streams), clip(3)
    asked = {"label": "horse", "strategy": name, "seed": 3}
    longer = pipe.extend(start, 17, **asked)
    assert longer.shape == (2, 3, 17, 8, 8) and torch.equal(longer[:, :, :3], start)
    torch.manual_seed(123)
    parts = list(pipe.stream(17, clip=start, **asked))
    assert torch.equal(torch.cat([start, *parts], dim=2), longer)
    assert not torch.equal(longer, pipe.extend(start, 17, **{**asked, "seed": 4}))
    made = pipe.generate(15, "dog", strategy=name, seed=1)
    assert made.shape == (1, 3, 15, 8, 8)
    alone = pipe.generate(6, "dog", strategy=name if streams else "clean", seed=1)
    assert torch.equal(made[:, :, :6], alone), "a window is a window"


def test_a_strategy_has_options_and_a_default() -> None:
    pipe, start = strided(), clip(3)
    plain = pipe.extend(start, 9)
    assert torch.equal(plain, pipe.extend(start, 9, strategy="clean"))
    assert torch.equal(plain, pipe.extend(start, 9, strategy={"name": "noisy", "level": 0.0}))
    noisy = pipe.extend(start, 9, strategy={"name": "noisy", "level": 0.2})
    assert not torch.equal(plain, noisy)
    assert torch.equal(noisy, pipe.extend(start, 9, strategy="{name: noisy, level: 0.2}"))
    assert pipe.settings(strategy="rolling")["strategy"] == "rolling"
    pipe.sampling.strategy = {"name": "noisy", "level": 0.2}
    assert torch.equal(noisy, pipe.extend(start, 9))
    assert pipe.settings()["strategy"] == {"name": "noisy", "level": 0.2}


def test_a_run_guided_on_history_is_not_where_a_strategy_cannot_be() -> None:
    pipe, start = strided(), clip(3)
    wanted = {name: pipe.extend(start, 9, "cat", strategy=name) for name in ("clean", "replace")}
    pipe.sampling.history = 3.0
    assert torch.equal(pipe.extend(start, 9, "cat", strategy="replace"), wanted["replace"])
    assert not torch.equal(pipe.extend(start, 9, "cat"), wanted["clean"])


def test_how_far_an_extension_looks_back() -> None:
    """So a long clip can be extended from that much of it."""
    pipe, start = strided(), clip(14)
    assert (pipe.reach(), pipe.reach("rolling", 4), pipe.reach({"name": "keyframes", "stride": 3}, 4)) == (2, 4, 10)
    options = {"strategy": {"name": "keyframes", "stride": 3}, "context": 4}
    whole = pipe.extend(start, 20, **options)
    assert torch.equal(whole[:, :, 14:], pipe.extend(start[:, :, 4:], 16, **options)[:, :, 10:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "clen"}, "unknown sampling.strategy 'clen'; choose one of clean, keyframes, noisy"),
        ({"strategy": {"level": 0.1}}, "sampling.strategy needs a name"),
        ({"strategy": {"name": "clean", "level": 0.1}}, "sampling.strategy: clean does not take these options"),
        ({"strategy": "{name: noisy, level: [}"}, "give a name, or {name: ..., option: ...}"),
        ({"strategy": "{name: noisy, level: 2}"}, "level is 2; give 0"),
        ({"strategy": "replace", "history": 2.0}, "history is 2.0, but the strategy replace is for models that never"),
        ({"strategy": {"name": "keyframes", "stride": 5}}, "stride is 5, which is 5 source frames"),
        ({"strategy": "rolling", "backwards": True}, "choose another strategy for backwards=True"),
        ({"strategy": "rolling", "lag": 1}, "lag is 1, but a rolling window"),
    ],
)
def test_a_strategy_that_cannot_be_is_named(options: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        strided().extend(clip(3), 9, **options)
    assert said in str(caught.value)


def test_a_model_of_one_stride_has_no_key_frames(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="knows of one stride alone: train it with"):
        pipe.extend(clip(3), 9, strategy="keyframes")


def test_a_model_that_was_told_strides_is_told_the_least() -> None:
    of = config(stride=4)
    pipe = strided()
    stride = pipe.condition("cat", 2).stride
    assert stride is not None and stride.tolist() == [1, 1]
    facts = replace(pipe.facts, strides=(1, 1))
    untold = Pipeline(TrainedModel(denoiser(of), Identity(), facts), of.sampling, "cpu")
    assert untold.condition("cat", 2).stride is None
    assert not torch.equal(pipe.generate(), untold.generate())


def test_reconstruct_is_the_codec_there_and_back(pipe: Pipeline) -> None:
    video = clip(4)
    assert torch.equal(pipe.reconstruct(video), pipe.codec.decode(pipe.codec.encode(video).mean))
    assert torch.equal(build(codec=Identity()).reconstruct(video), video)


# Editing


def test_a_clip_is_continued_into_its_past(pipe: Pipeline) -> None:
    for given, frames in ((1, 15), (3, 7), (9, 16)):
        start = clip(given)
        longer = pipe.extend(start, frames, "horse", backwards=True, seed=3)
        assert longer.shape == (2, 3, frames, 8, 8)
        assert torch.equal(longer[:, :, -given:], start)
        assert torch.equal(longer, pipe.extend(start, frames, "horse", backwards=True, seed=3))
        assert not torch.equal(longer[:, :, :-given], pipe.extend(start, frames, "horse", seed=3)[:, :, given:])


def test_a_picture_starts_to_move(pipe: Pipeline) -> None:
    picture = clip(1)[:, :, 0]
    made = pipe.animate(picture, label="dog")
    assert made.shape == (2, 3, 6, 8, 8) and torch.equal(made[:, :, 0], picture)
    assert torch.equal(made, pipe.extend(clip(1), 6, "dog"))
    one = pipe.animate(picture[0].double(), 9)
    assert one.shape == (1, 3, 9, 8, 8) and torch.equal(one[0, :, 0], picture[0].double())


def test_interpolation_keeps_both_ends(pipe: Pipeline) -> None:
    first, last = clip(3), clip(2).flip(0)
    made = pipe.interpolate(first, last, 2, "cat", seed=1)
    assert made.shape == (2, 3, 7, 8, 8)
    assert torch.equal(made[:, :, :3], first) and torch.equal(made[:, :, 5:], last)
    assert torch.equal(made, pipe.interpolate(first, last, 2, "cat", seed=1, context=2)), "as much as fits is seen"
    assert not torch.equal(made, pipe.interpolate(first, last, 2, "cat", seed=1, context=1))
    pictures = pipe.interpolate(first[0, :, 0], last[0].double(), 4)
    assert pictures.shape == (1, 3, 7, 8, 8) and pictures.dtype == torch.float64
    assert torch.equal(pictures[0, :, 5:], last[0].double())


def test_a_loop_ends_as_it_begins(pipe: Pipeline) -> None:
    start = clip(9)
    made = pipe.loop(start, label="cat")
    assert made.shape == (2, 3, 12, 8, 8) and torch.equal(made[:, :, :9], start)
    middle = start.clone()
    middle[:, :, 2:7] = 0
    assert torch.equal(made[:, :, 9:], pipe.loop(middle, 3, "cat")[:, :, 9:]), "only the ends are seen"


@pytest.mark.parametrize("frames", [1, 6, 15])
def test_inpainting_keeps_what_is_known_and_outpainting_is_the_same(pipe: Pipeline, frames: int) -> None:
    start = clip(frames).double()
    mask = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    mask[..., 5:8, 6:8] = True
    made = pipe.inpaint(start, mask, "dog", seed=2)
    every = mask.expand_as(start)
    assert made.dtype == torch.float64 and torch.equal(made[~every], start[~every])
    assert (made[every] != start[every]).all() and made.abs().max() <= 1
    around = pipe.outpaint(start, (5, 6, 8, 8), "dog", seed=2)
    assert torch.equal(around[every], start[every]) and (around[~every] != start[~every]).all()
    assert torch.equal(around, pipe.inpaint(start, ~mask, "dog", seed=2))
    assert torch.equal(start, pipe.inpaint(start, torch.zeros_like(mask)))
    generated = pipe.generate(frames, "dog", 2, seed=2)
    assert torch.equal(pipe.inpaint(start.float(), torch.ones_like(mask), "dog", seed=2), generated)


def test_doubling_keeps_every_other_frame(pipe: Pipeline) -> None:
    for frames in (2, 4, 9):
        made = pipe.double(clip(frames), "cat")
        assert made.shape == (2, 3, 2 * frames - 1, 8, 8) and torch.equal(made[:, :, ::2], clip(frames))


def test_editing_goes_from_the_clip_to_another(pipe: Pipeline) -> None:
    start = clip(6)
    torch.testing.assert_close(pipe.edit(start, 0.0, "cat"), pipe.reconstruct(start))
    assert torch.equal(pipe.edit(start, 1.0, "cat", seed=4), pipe.generate(6, "cat", 2, seed=4))
    assert pipe.edit(clip(15)[0], 0.5).shape == (1, 3, 15, 8, 8)
    cat, dog = (pipe.edit(start, 0.5, label) for label in ("cat", "dog"))
    assert not torch.equal(cat, dog)


def test_a_clip_comes_back_from_its_own_noise_and_not_from_any(pipe: Pipeline) -> None:
    start = clip(6)
    kept, there = pipe.reconstruct(start), {"steps": 12, "seed": 3}
    off = [float((pipe.invert(start, "cat", inversion=n, **there) - kept).square().mean().sqrt()) for n in (1, 8)]
    fresh = float((pipe.edit(start, 1.0, "cat", guidance=1.0, **there) - kept).square().mean().sqrt())
    assert 3 * off[1] < off[0] < fresh


TASKS = {
    "extend": lambda pipe, x, **options: pipe.extend(x, 12, backwards=True, **options),
    "animate": lambda pipe, x, **options: pipe.animate(x[:, :, 0], **options),
    "interpolate": lambda pipe, x, **options: pipe.interpolate(x, x, 2, **options),
    "loop": lambda pipe, x, **options: pipe.loop(x, 2, **options),
    "inpaint": lambda pipe, x, **options: pipe.inpaint(x, torch.ones(1, 1, 1, 8, 8) > 0, **options),
    "outpaint": lambda pipe, x, **options: pipe.outpaint(x, (0, 0, 4, 4), **options),
    "edit": lambda pipe, x, **options: pipe.edit(x, 0.5, **options),
    "double": lambda pipe, x, **options: pipe.double(x, **options),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("start", "options", "said"),
    [
        (torch.zeros(1, 3, 3, 16, 16), {}, "resize"),
        (torch.zeros(1, 1, 3, 8, 8), {}, "8, 8); expected ("),
        (torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8), {}, "uint8; expected floating point"),
        (clip(3), {"label": "hors"}, "no label 'hors'; the nearest of 3 are horse"),
        (clip(3), {"label": ["cat"]}, "1 labels for 2 clips"),
        (clip(3), {"context": 6}, "context is 6; give 1 to 5: the model sees 6 frames at once"),
        (clip(3), {"context": 0}, "context is 0; give 1 to 5"),
        (clip(3), {"steps": 0}, "steps is 0"),
        (clip(3), {"lag": -1}, "lag is -1"),
        (clip(3), {"sampler": "ddmi"}, "unknown sampling.sampler 'ddmi'"),
    ],
)
def test_every_task_names_a_mistake(pipe: Pipeline, task: str, start, options: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        TASKS[task](pipe, start, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda pipe: pipe.interpolate(clip(2), clip(2, 1), 2), "first holds 2 clips and last 1"),
        (lambda pipe: pipe.interpolate(clip(2), clip(2), 5), "for 6 in all at the most"),
        (lambda pipe: pipe.interpolate(clip(3), clip(3), 2, context=3), "between is 2, with 3 given frames"),
        (lambda pipe: pipe.interpolate(clip(2), torch.zeros(2, 3, 2, 16, 16), 2), "resize"),
        (lambda pipe: pipe.loop(clip(2), 0), "between is 0"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 1, 8, 8)), "the mask is of torch.float32"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 3, 8, 8) > 0), "the mask is (1, 1, 3, 8, 8); expected"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 0, 8, 8) > 0), "the mask is (1, 1, 0, 8, 8); expected"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(8, 8) > 0), "the mask is (8, 8); expected"),
        (lambda pipe: pipe.outpaint(clip(2), (4, 4, 4, 8)), "box rows 4..4, columns 4..8 must lie within 8 x 8"),
        (lambda pipe: pipe.outpaint(clip(2), (0, 0, 9, 8)), "must lie within 8 x 8"),
        (lambda pipe: pipe.edit(clip(2), 1.5), "strength is 1.5; give 0"),
        (lambda pipe: pipe.double(clip(1)), "the clip has 1 frame"),
        (lambda pipe: pipe.animate(clip(2), 6), "image is (2, 3, 2, 8, 8); expected (3, h, w) or (b, 3, h, w)"),
        (lambda pipe: pipe.animate(clip(2)[:, :, 0], 1), "frames is 1, the clip has 1 already"),
    ],
)
def test_what_a_task_cannot_do_is_said(pipe: Pipeline, make, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(pipe)
    assert said in str(caught.value)


def test_a_model_of_single_frames_edits_pictures_alone() -> None:
    pipe, picture = build(frames=1), clip(1)
    mask = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    mask[..., :3] = True
    made = pipe.inpaint(picture, mask)
    assert torch.equal(made[..., 3:], picture[..., 3:]) and not torch.equal(made, picture)
    assert torch.equal(pipe.edit(picture, 1.0), pipe.generate(1, count=2))
    for task in TASKS.values():
        with pytest.raises(ValueError, match="single frames"):
            task(pipe, clip(3))


# A run's folder


def save(folder: Path, of: DiffusionRun | None = None, seed: int = 0) -> Path:
    """The files of a trained run."""
    of = of or config()
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(dump(of))
    (folder / "data.json").write_text(json.dumps({"labels": LABELS, "fps": 6.0}))
    save_codec(folder / "codec", VAECodec(VAE))
    weights = {f"denoiser.{key}": value for key, value in denoiser(of, seed).state_dict().items()}
    ema = {f"denoiser.{key}": value for key, value in denoiser(of, seed + 1).state_dict().items()}
    weights["weighting.body"] = torch.zeros(2)  # as an objective with parameters of its own has
    checkpoint.save(folder / "checkpoints", 1, weights, ema, {})
    return folder


def test_a_folder_holds_all_that_is_needed(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    pipe = Pipeline.from_pretrained(run, "cpu")
    assert (pipe.frames, pipe.size, pipe.labels, pipe.fps, pipe.stride) == (6, 8, LABELS, 6.0, None)
    assert pipe.sampling == config().sampling
    of = config()
    facts = Facts((Bucket(6, 8, 8),), LABELS, 6.0)
    assert pipe.facts == facts and Facts.load(run, of) == facts
    expected = Pipeline(TrainedModel(denoiser(of, 1), load_codec(run / "codec"), facts), of.sampling, "cpu")
    assert torch.equal(pipe.generate(label="dog", count=2), expected.generate(label="dog", count=2))
    plain = Pipeline.from_pretrained(run, "cpu", weights="model")
    assert torch.equal(next(plain.denoiser.parameters()), next(denoiser(of, 0).parameters()))
    assert not any(p.requires_grad for p in (*pipe.denoiser.parameters(), *pipe.codec.parameters()))


def test_a_strided_run_remembers_its_stride(tmp_path: Path) -> None:
    assert Pipeline.from_pretrained(save(tmp_path / "run", config(stride=4)), "cpu").stride == 1


def test_the_codec_is_kept_with_its_statistics(tmp_path: Path) -> None:
    codec = VAECodec(VAE)
    codec.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    save_codec(tmp_path, codec)
    found, video = load_codec(tmp_path), clip(2)
    assert torch.equal(found.encode(video).mean, codec.encode(video).mean)
    save_codec(tmp_path, Identity())
    assert isinstance(load_codec(tmp_path), Identity)


def test_a_folder_that_is_no_trained_run_is_told_what_it_lacks(tmp_path: Path) -> None:
    def said(run: Path) -> str:
        with pytest.raises(ValueError) as caught:
            Pipeline.from_pretrained(run, "cpu")
        return str(caught.value)

    assert "is not a trained run" in said(tmp_path / "none")
    for number, (missing, message) in enumerate(
        {"data.json": "no checkpoint yet", "checkpoints": "no checkpoint yet", "codec": "holds no codec"}.items()
    ):
        run = save(tmp_path / str(number))
        (run / missing).rename(tmp_path / f"{number}.gone")
        assert message in said(run)
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "resolved.yaml").write_text(dump(VAERun("vae", "vae", data=DataConfig("nowhere"))))
    assert "is a run of kind vae" in said(vae)


def test_damage_is_named(tmp_path: Path) -> None:
    def said(run: Path) -> str:
        with pytest.raises(ValueError) as caught:
            Pipeline.from_pretrained(run, "cpu")
        return str(caught.value)

    run = save(tmp_path / "a")
    (run / "codec" / "codec.safetensors").write_bytes(b"not it")
    assert "codec.safetensors is damaged" in said(run)
    run = save(tmp_path / "b")
    (run / "resolved.yaml").write_text("kind: [")
    assert "resolved.yaml is not a YAML mapping" in said(run)
    run = save(tmp_path / "c")
    (run / "resolved.yaml").write_text(dump(replace(config(), unet=replace(config().unet, width=8))))
    assert "does not fit the run's resolved.yaml" in said(run)
    run = save(tmp_path / "d")
    weights = next(run.glob("checkpoints/step-*/ema.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"ema.safetensors is not what its manifest says"):
        assert "none of the 1 checkpoints" in said(run)


def test_the_latest_run_is_the_one_trained_last(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained run in .*: train one first, for instance by vidiff train shapes"):
        latest_run(tmp_path)
    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        latest = save(tmp_path / name) / "checkpoints" / "latest"
        os.utime(latest, (latest.stat().st_mtime - age,) * 2)
    (tmp_path / "codec" / "checkpoints").mkdir(parents=True)
    (tmp_path / "codec" / "checkpoints" / "latest").write_text("step-0000001")  # an autoencoder's: no data.json
    assert latest_run(tmp_path) == tmp_path / "new"
    assert read_config(latest_run(tmp_path)).unet.labels == 3


def test_a_run_with_a_slash_in_its_name_is_the_latest_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in ((30, "cats"), (20, "cats/deep/er"), (10, "dogs/one"), (0, "latents/none")):
        latest = save(tmp_path / "runs" / name) / "checkpoints" / "latest"
        os.utime(latest, (latest.stat().st_mtime - age,) * 2)
    (tmp_path / "runs" / "dogs" / "round").symlink_to(tmp_path / "runs")
    assert latest_run(tmp_path / "runs") == tmp_path / "runs" / "dogs" / "one"
    monkeypatch.chdir(tmp_path)
    assert sorted(map(str, find_runs(Path("runs")))) == ["runs/cats", "runs/cats/deep/er", "runs/dogs/one"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(tmp_path / "runs" / "dogs")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(tmp_path / "runs" / "dogs" / "one")
    assert latest_run("linked") == Path("linked/one")
    named = config()
    for name, run, folder in (
        ("one", "runs/one", "runs"),
        ("dogs/one", "runs/dogs/one", "runs"),
        ("a/b/c", "x/y/a/b/c", "x/y"),
        ("dogs/one", "dogs/one", "."),
        ("dogs/one", "copied/here", "copied"),
        ("/abs/olute", "/abs/olute", "/abs"),
    ):
        named.name = name
        assert runs_of(Path(run), named) == Path(folder), name


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    source = save(tmp_path / "run")
    codec, strided = VAECodec(VAE), config(stride=4)
    codec.load_state_dict(load_codec(source / "codec").state_dict())
    strided.start = str(source)
    new = denoiser(strided, 7)
    start_denoiser(strided, codec, Facts.of(strided, LABELS, 8.0), new)
    averaged = denoiser(config(), 1).state_dict()
    assert all(torch.equal(new.state_dict()[key], value) for key, value in averaged.items())
    assert set(new.state_dict()) > set(averaged), "the stride's embedding begins anew"

    def said(of: DiffusionRun, with_codec: Codec) -> str:
        with pytest.raises(ValueError) as caught:
            start_denoiser(of, with_codec, Facts.of(of, LABELS, 8.0), denoiser(of, 7))
        return str(caught.value)

    torch.nn.init.ones_(next(codec.network.parameters()))
    assert "of another codec" in said(strided, codec)
    own, wider = load_codec(source / "codec"), config()
    wider.unet, wider.start = replace(wider.unet, width=8), str(source)
    assert "has another network" in said(wider, own)
    plain = config()
    plain.start = str(save(tmp_path / "strided", config(stride=4)))
    assert "has weights that this model lacks, such as" in said(plain, load_codec(tmp_path / "strided" / "codec"))
    plain.start = str(tmp_path / "none")
    assert "is not a trained run" in said(plain, own)
    (source / "checkpoints" / "latest").unlink()
    shutil.rmtree(next((source / "checkpoints").glob("step-*")))
    assert "has no checkpoint yet: train it first" in said(strided, own)


def test_a_causal_model_says_what_it_cannot() -> None:
    pipe, start = strided(causal=True), clip(3)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: pipe.interpolate(start, start, 2), "cannot join clips"),
        (lambda: pipe.loop(start), "cannot join clips"),
        (lambda: pipe.double(start), "cannot make frames between others"),
        (lambda: pipe.extend(start, 9, backwards=True), "cannot continue a clip into its past"),
        (
            lambda: pipe.extend(start, 9, strategy="keyframes"),
            "strategy is keyframes, which draws frames by what comes",
        ),
        (
            lambda: strided().extend(start, 9, strategy="stream"),
            "strategy is stream, for networks that look back alone",
        ),
    ]
    for make, said in refused:
        with pytest.raises(ValueError, match=said):
            make()
    assert pipe.extend(start, 9).shape == pipe.extend(start, 9, strategy="rolling").shape == (2, 3, 9, 8, 8)
    assert pipe.edit(start, 0.5).shape == start.shape
