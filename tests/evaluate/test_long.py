"""Strategies beside each other, on a run of random weights: what is measured, kept, and found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidiff.codec.codec import Identity
from vidiff.data.options import DataConfig
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.data.shapes import ShapesSpec, make_shapes, read_clips
from vidiff.draw.long import STRATEGIES
from vidiff.evaluate.comparison import comparison_page, comparison_table, finite, markdown
from vidiff.evaluate.long import (
    LongProtocol,
    Way,
    compare_ways,
    held_out,
    score_continuation,
    seams_of,
    watch,
    ways,
)
from vidiff.metrics.drift import look
from vidiff.metrics.objects import LABELS
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.video.reader import read_image, read_video
from vidiff.video.writer import write_video

FEW = LongProtocol(clips=3, given=3, frames=9, chunk=4, batch=2)
SHOW = (0, 2, 8)


def build(
    size: int = 32, stride: int | None = None, labels: tuple[str, ...] = tuple(LABELS), frames: int = 4
) -> Pipeline:
    torch.manual_seed(0)
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=len(labels), strided=stride is not None)
    sampling = SamplingConfig({"name": "ddim"}, steps=1, guidance=1.5, context=2)
    data = DataConfig("nowhere", size=size, frames=frames, stride=[stride, 4] if stride else [1, 1])
    config = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    denoiser = build_denoiser(config).eval()
    return Pipeline(TrainedModel(denoiser, Identity(), Facts.of(config, labels, 8.0)), sampling, "cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, ShapesSpec(size=32, frames=6, train=0, test=1), progress=False)
    return DataConfig(str(root), layout="shapes", size=32, frames=4)


def test_held_out_shapes_come_with_the_truth(shapes: DataConfig, tmp_path: Path) -> None:
    clips = held_out(build(), shapes, LongProtocol(clips=4), tmp_path)
    paths = [Path(file.place.name) for file in clips.files]
    truth = read_clips(shapes.root)
    assert [path.parts[-3] for path in paths] == ["test"] * 4
    assert clips.labels == [truth[path].label for path in paths] and len(set(clips.labels)) == 4
    assert torch.equal(clips.read(slice(1, 2), 5)[0], read_video(paths[1], range(5)))
    assert torch.equal(clips.real(slice(1, 2), 40)[0], truth[paths[1]].video(40))
    with pytest.raises(ValueError, match="must have frames of 64 px"):
        held_out(build(64), shapes, FEW, tmp_path)


def test_no_held_out_clip_comes_twice(shapes: DataConfig, tmp_path: Path) -> None:
    """There are 12: asked for more, they all come."""
    for asked, numbers in ((13, range(12)), (24, range(12)), (5, (1, 3, 6, 8, 10))):
        clips = held_out(build(), shapes, LongProtocol(clips=asked), tmp_path)
        assert clips.labels == [LABELS[number] for number in numbers]


def test_other_held_out_clips_are_cropped_as_for_training_and_have_no_truth(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "test" / name).mkdir(parents=True)
        write_video(tmp_path / "test" / name / "0.mp4", torch.full((3, 9 + number, 24, 48), number - 0.5))
    data = DataConfig(str(tmp_path), size=16, frames=4, stride=[2, 4])
    clips = held_out(build(16, 2, ("cat", "dog")), data, FEW, tmp_path)
    assert clips.labels == ["cat", "dog"] and not clips.truth and clips.length == 5 and clips.stride == 2
    video = clips.read(slice(0, 2), 5)
    assert video.shape == (2, 3, 5, 16, 16) and torch.equal(clips.real(slice(0, 2), 5), video)
    torch.testing.assert_close(video.mean((1, 2, 3, 4)), torch.tensor([-0.5, 0.5]), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match=r"given is 6, but a held-out clip in .* has only 5 frames: give fewer"):
        held_out(build(16), data, LongProtocol(given=6), tmp_path)


@pytest.mark.parametrize("told", [True, False])  # whether captions.jsonl tells the truth about each clip
def test_held_out_clips_are_those_that_training_would_read(tmp_path: Path, shapes: DataConfig, told: bool) -> None:
    """What the quarantine holds is left out, and the decoder is that of the config."""
    data, runs = replace(shapes, decoder="decord", stride=[1, 1] if told else [2, 2]), tmp_path / "runs"
    protocol = LongProtocol(clips=12, given=2)
    first = held_out(build(), data, protocol, runs)
    assert len(first.files) == 12 and {file.decoder for file in first.files} == {"decord"} and bool(first.truth) == told
    Quarantine(quarantine_list(runs)).add(first.files[5], "its decoder hung in a training")
    second = held_out(build(), data, replace(protocol, clips=11), runs)
    assert sorted(second.names) == sorted({*first.names} - {first.names[5]})
    other = held_out(build(), replace(data, decoder="pyav"), FEW, runs)
    assert {file.decoder for file in other.files} == {"pyav"}


def test_every_strategy_is_tried_with_guidance_on_history_and_without() -> None:
    names = [way.name for way in ways(build())]
    guided = ["clean", "noisy", "rolling"]
    assert names == [
        *("clean, history 1.5", "noisy, history 1.5", "replace", "reconstruct", "rolling, history 1.5"),
        *guided,
    ]
    assert "keyframes" in [way.name for way in ways(build(stride=1))]
    causal = build(stride=1)
    causal.facts = replace(causal.facts, causal=True)
    assert {way.strategy["name"] for way in ways(causal)} == set(STRATEGIES) - {"keyframes"}
    chosen = ways(build(), ["{name: noisy, level: 0.1}", "replace"], [3.0, None])
    assert chosen == [
        Way({"name": "noisy", "level": 0.1}, 3.0),
        Way({"name": "replace"}, None),
        Way({"name": "noisy", "level": 0.1}, None),
    ]
    assert chosen[0].name == "noisy, level 0.1, history 3.0"
    assert ways(build(), ["clean", "replace"], [None]) == [Way({"name": "clean"}, None), Way({"name": "replace"}, None)]
    with pytest.raises(ValueError, match=r"unknown sampling.strategy 'x'; choose one of clean"):
        ways(build(), ["x"])


def test_results_are_kept_and_only_what_is_missing_is_made(shapes: DataConfig, tmp_path: Path, monkeypatch) -> None:
    pipeline, clips = build(), held_out(build(), shapes, FEW, tmp_path)
    calls: list[dict] = []
    stream = Pipeline.stream

    def spy(self: Pipeline, *arguments, **options):
        calls.append(options)
        return stream(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "stream", spy)
    every = ways(pipeline, ["clean", "replace"])

    def run(protocol: LongProtocol = FEW, origin: str = "a") -> list[tuple[dict, Path]]:
        calls.clear()
        return list(compare_ways(pipeline, clips, every, protocol, SHOW, tmp_path, origin))

    first = run()
    assert [result["name"] for result, _ in first] == ["real", "clean, history 1.5", "replace", "clean"]
    assert [(call["history"], call["guidance"], call["seed"]) for call in calls] == [
        *((1.5, None, 0), (1.5, None, 1), (None, 1.5, 0), (None, 1.5, 1), (None, 1.5, 0), (None, 1.5, 1))
    ]
    again = run()
    assert not calls and again == first
    (tmp_path / "replace.json").unlink()
    assert run()[2][0]["drift"] == first[2][0]["drift"] and len(calls) == 2
    every = every[1:2]
    assert run(LongProtocol(**{**vars(FEW), "seed": 5}))[1][0]["drift"] != first[2][0]["drift"] and len(calls) == 2
    run(origin="b")
    assert len(calls) == 2, "of other weights"


@pytest.mark.parametrize(
    ("context", "given", "frames", "begins"),
    [(8, 4, 40, [4, 16, 24, 32]), (12, 8, 30, [8, 16, 20, 24, 28]), (8, 8, 33, [8, 16, 24, 32])],
)
def test_seams_are_where_windows_begin(context: int, given: int, frames: int, begins: list[int]) -> None:
    """The first window knows no more than is given, though it would look back further."""
    pipeline = build(8, frames=16)
    protocol = LongProtocol(given=given, frames=frames, context=context)
    assert seams_of(pipeline, None, protocol) == begins
    for name in ("clean", "noisy", "replace"):
        way, done, seen = Way({"name": name}, None), given, []
        for piece in pipeline.stream(frames, clip=torch.zeros(3, given, 8, 8), context=context, strategy=way.strategy):
            seen.append(done)
            done += piece.shape[2]
        assert seams_of(pipeline, way, protocol) == seen == begins


def test_what_has_no_windows_has_no_seams(shapes: DataConfig, tmp_path: Path) -> None:
    for name in ("rolling", "stream", "keyframes"):
        assert seams_of(build(), Way({"name": name}, None), FEW) == []
    pipeline, protocol = build(), replace(FEW, frames=14)
    clips, every = held_out(pipeline, shapes, protocol, tmp_path), ways(pipeline, ["clean", "rolling"], [None])
    clean, rolling = (one for one, _ in compare_ways(pipeline, clips, every, protocol, SHOW, tmp_path, "", real=False))
    assert clean["drift"]["seam"] > 0 and rolling["drift"]["seam"] is None
    head, *rows = comparison_table([clean, rolling])
    assert rows[0][head.index("seam")] and not rows[1][head.index("seam")]


def test_real_clips_have_the_figures_of_the_truth(shapes: DataConfig, tmp_path: Path) -> None:
    pipeline, clips = build(), held_out(build(), shapes, FEW, tmp_path)
    (result, picture), *_ = compare_ways(pipeline, clips, [], FEW, SHOW, tmp_path, "")
    assert result["shapes"]["right_last"] == 1.0 and result["shapes"]["error"] < 0.5
    assert result["shapes"]["kept"] == [1.0, 1.0] and "seconds" not in result
    truth = clips.real(slice(0, 3), 9)
    shown = read_image(picture)
    assert shown.shape == (3, 32, 3 * (3 * 32 + 4))
    for clip in range(3):
        part = shown[:, :, clip * 100 : clip * 100 + 96].unflatten(2, (3, 32)).movedim(2, 1)
        torch.testing.assert_close(part[:, 2], truth[clip, :, 8], atol=1 / 127, rtol=0)
        assert torch.equal(part[:, 0], clips.read(slice(clip, clip + 1), 1)[0, :, 0]), "the first frame is a given one"
    assert json.loads((tmp_path / "real.json").read_text()) == result


def test_what_is_watched_in_pieces_is_what_the_whole_is() -> None:
    video = torch.rand(2, 3, 12, 32, 32)
    told: list[int] = []

    def seen(cuts: list[int]):
        pieces = iter(video[:, :, 4:].split(cuts, dim=2))
        return watch(pieces, video[:, :, :4], [0, 3, 4, 11], True, told.append)

    whole, cut = seen([8]), seen([3, 1, 4])
    assert told == [8, 3, 1, 4]
    for one in (whole, cut):
        assert torch.equal(one.shown, video[:, :, [0, 3, 4, 11]])
        torch.testing.assert_close(one.looks.change, look(video).change, equal_nan=True)
        assert one.reading is not None and one.reading.found.shape == (2, 12)
    labels, paths = torch.tensor([0, 1]), torch.zeros(2, 12, 2)
    results = [score_continuation([one], 4, 4, [4, 8], labels, paths) for one in (whole, cut)]
    assert results[0]["drift"]["motion"] == pytest.approx(results[1]["drift"]["motion"])
    assert len(results[0]["drift"]["motion"]) == 2, "given frames are not counted"
    assert results[0]["shapes"] == results[1]["shapes"]
    halves = [watch(iter([half[:, :, 4:]]), half[:, :, :4], [0], True, told.append) for half in video.split(1)]
    both = score_continuation(halves, 4, 4, [4, 8], labels, paths)
    assert both["drift"]["sharpness"] == pytest.approx(results[0]["drift"]["sharpness"])
    assert "shapes" not in score_continuation([watch(iter([video]), video, [], False, told.append)], 12, 4, [])


def test_the_table_leaves_out_what_was_not_measured(shapes: DataConfig) -> None:
    drift = {"chunk": 4, "seam": None, "frozen": [0.0, 0.25]}
    drift |= {name: [1.0, 0.5] for name in ("sharpness", "contrast", "colour", "motion")}
    plain = {"name": "a | b", "drift": drift, "seconds": 0.25}
    rows = comparison_table([plain])
    assert rows[0] == ["strategy", "sharpness", "contrast", "colour off", "motion", "frozen", "s a frame"]
    assert rows[1][1:] == ["0.5", "0.5", "0.5", "0.5", "25%", "0.25"]
    told = {**plain, "name": "<c>", "shapes": {"right_last": 0.875, "error": 3.25, "kept": [1.0, None]}}
    both = comparison_table([plain, told])
    assert both[0][1:3] == ["right at the end", "error, px"]
    assert both[1][1:3] == ["", ""] and both[2][1:3] == ["88%", "3.25"]
    lines = markdown([plain, told]).splitlines()
    assert (
        lines[1].count("---") == len(both[0]) and len({line.replace(r"\|", "").count("|") for line in lines[:4]}) == 1
    )
    page = comparison_page("A & B", "told", [plain, told], {"<c>": b"png"}, "frames")
    assert "<title>A &amp; B</title>" in page and "&lt;c&gt;" in page and "data:image/png;base64,cG5n" in page
    assert page.count("<svg") == 6 and "<c>" not in page and "http" not in page.replace("http-equiv", "")


def test_what_is_not_finite_is_none() -> None:
    assert finite({"a": [1.0, float("nan"), (float("inf"), 2)]}) == {"a": [1.0, None, [None, 2]]}


@pytest.mark.parametrize(("name", "value"), [("clips", 0), ("given", 0), ("frames", 8), ("chunk", 1), ("batch", 0)])
def test_a_protocol_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; give"):
        LongProtocol(**{name: value})
