"""A trained run, ready to use: it generates, and goes on with clips, by every strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from pipelines import LABELS, build, clip, config, denoiser

from vidiff.codec.codec import Identity
from vidiff.diffusion.grid import Grid
from vidiff.draw.guide import Guide
from vidiff.draw.long import STRATEGIES
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.slots import build_grid


@pytest.fixture
def pipe() -> Pipeline:
    return build()


def test_what_training_measured_of_a_model_spaces_its_draws(pipe: Pipeline) -> None:
    measured = Pipeline(replace(pipe.model, facts=replace(pipe.facts, half=-2.0)), pipe.sampling, "cpu")
    bell = {"grid": {"kind": "logistic"}, "steps": 4}
    told = pipe.generate(label="cat", grid={"kind": "logistic", "half": -2.0}, steps=4)
    assert torch.equal(measured.generate(label="cat", **bell), told)
    assert not torch.equal(pipe.generate(label="cat", **bell), told)
    assert torch.equal(measured.extend(clip(3), 6, **bell), pipe.extend(clip(3), 6, **bell)), (
        "of known frames it is not"
    )


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
        ({"grid": {"kind": "karras", "sigma": 1}}, "it takes kind, ends, rho and half"),
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
