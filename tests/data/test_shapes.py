from __future__ import annotations

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidiff.data.shapes import (
    DIRECTIONS,
    REACH,
    SPLITS,
    TRAVEL,
    WOBBLE,
    ShapesClip,
    ShapesSpec,
    direction,
    make_clip,
    make_shapes,
    read_clips,
)
from vidiff.metrics.objects import BACKGROUND, COLOURS, LABELS, SHAPES, coverage, rgb
from vidiff.video.reader import VideoReader

TOOL = Path(__file__).parents[2] / "tools" / "make_shapes.py"
TINY = ShapesSpec(size=32, frames=4, train=2, test=1)


def clips(spec: ShapesSpec, split: str = "train") -> list[ShapesClip]:
    numbers = range(getattr(spec, split))
    return [make_clip(spec, split, label, number) for label in LABELS for number in numbers]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_labels_are_numbered_as_sorted_class_folders_are() -> None:
    assert list(LABELS) == sorted(LABELS)
    assert len(LABELS) == 12
    assert LABELS[2 * len(SHAPES) + 1] == "red_square"


@pytest.mark.parametrize("shape", SHAPES)
def test_area_and_centre_of_mass_are_as_asked(shape: str) -> None:
    centre, size = torch.tensor([[30.3, 33.8], [28.9, 31.1]]), torch.tensor([7.0, 11.0])
    amount = coverage(shape, centre, size, 64, 64).double()
    area = amount.sum((1, 2))
    torch.testing.assert_close(area, math.pi * size.double() ** 2, rtol=0.01, atol=0)
    place = torch.arange(64) + 0.5
    x, y = (amount.sum(1) * place).sum(1) / area, (amount.sum(2) * place).sum(1) / area
    torch.testing.assert_close(torch.stack([x, y], 1), centre.double(), rtol=0, atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_agrees_with_counting_fine_samples(shape: str) -> None:
    centre, size = torch.tensor([[15.3, 16.8]]), torch.tensor([7.6])
    fine = 16
    sampled = (coverage(shape, centre * fine, size * fine, 32 * fine, 32 * fine) > 0.5).float()
    sampled = sampled.unflatten(2, (32, fine)).unflatten(1, (32, fine)).mean((2, 4))
    error = (coverage(shape, centre, size, 32, 32) - sampled).abs()
    assert error.max() < 0.3  # at the triangle's tips; elsewhere far less
    assert error.mean() < 0.003


def test_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="no shape 'star'; choose one of disc, square, triangle"):
        coverage("star", torch.zeros(1, 2), torch.ones(1), 8, 8)


def test_drawing_has_the_colour_inside_and_the_background_outside() -> None:
    video = ShapesClip("green_square", 8.0, (20.0, 30.0), (1.0, 0.0), 64).video(3)
    assert video.shape == (3, 3, 64, 64)
    assert video.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(video[:, i, 30, 20 + i], rgb(COLOURS["green"]))
        torch.testing.assert_close(video[:, i, 50, 50], rgb(BACKGROUND))


@pytest.mark.parametrize("size", [32, 64, 96])
def test_objects_stay_inside_and_keep_size_and_speed_in_range(size: int) -> None:
    for clip in clips(ShapesSpec(size=size, train=20)):
        across, up, down = (clip.size * reach for reach in REACH[clip.label.split("_")[1]])
        path = clip.path(200)
        assert path[0].tolist() == pytest.approx(clip.position, abs=1e-9)
        assert path[:, 0].min() - across >= -1e-9
        assert path[:, 0].max() + across <= size + 1e-9
        assert path[:, 1].min() - up >= -1e-9
        assert path[:, 1].max() + down <= size + 1e-9
        assert 7 <= clip.size * 64 / size <= 11
        assert 1 <= clip.speed * 64 / size <= 4


def test_velocity_is_constant_but_for_its_sign_at_walls() -> None:
    for clip in clips(ShapesSpec(train=10)):
        step = clip.path(64).diff(dim=0)  # f-1 2
        speed = torch.tensor(clip.velocity, dtype=torch.float64).abs()
        whole = torch.isclose(step.abs(), speed, rtol=0, atol=1e-9)
        assert (step.abs() <= speed + 1e-9).all()  # shorter only in the step in which it bounces
        turned = step.sign().diff(dim=0) != 0  # f-2 2
        beside = whole[:-1] & whole[1:]
        assert not (~whole[1:] & ~whole[:-1]).any()  # a bounce takes one step
        assert (turned & beside).sum() == (turned & beside & (step[1:] == -step[:-1])).sum()
        assert whole.double().mean() > 0.7


def test_bounce_by_hand() -> None:
    """A disc of radius 8 has its centre in [8, 56]: from x = 53 at 2 a frame it reaches 57, that is, 55."""
    path = ShapesClip("red_disc", 8.0, (53.0, 9.5), (2.0, -1.0), 64).path(5)
    assert path[:, 0].tolist() == [53, 55, 55, 53, 51]
    assert path[:, 1].tolist() == [9.5, 8.5, 8.5, 9.5, 10.5]


@pytest.mark.parametrize(
    ("velocity", "direction"),
    [((-2.0, 1.0), "left"), ((2.0, -1.9), "right"), ((0.5, -1.0), "up"), ((1.0, 3.0), "down")],
)
def test_caption_names_the_larger_component(velocity: tuple[float, float], direction: str) -> None:
    clip = ShapesClip("red_square", 8.0, (30.0, 30.0), velocity, 64)
    assert clip.caption == f"a red square moves {direction}"


def test_no_two_clips_share_a_trajectory() -> None:
    specs = [ShapesSpec(seed=seed) for seed in (0, 1)]
    starts = [clip.position for spec in specs for split in SPLITS for clip in clips(spec, split)]
    assert len(set(starts)) == len(starts) == 2 * 12 * (64 + 8)


def test_a_clip_depends_on_its_own_name_alone() -> None:
    few, many = ShapesSpec(train=1), ShapesSpec(train=50, test=50, frames=8)
    assert make_clip(few, "test", "blue_disc", 3) == make_clip(many, "test", "blue_disc", 3)


def test_files_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert make_shapes(tmp_path / name, TINY, progress=False) == 12 * 3
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 12 * 3 + 2


def test_files_hold_what_was_asked_and_captions_tell_the_truth(tmp_path: Path) -> None:
    make_shapes(tmp_path, TINY, progress=False)
    truth = read_clips(tmp_path)
    assert set(truth) == set(tmp_path.rglob("*.mp4"))
    for path, clip in truth.items():
        split, label, name = path.relative_to(tmp_path).parts
        assert clip == make_clip(TINY, split, label, int(Path(name).stem))
        with VideoReader(path) as reader:
            assert (reader.frames, reader.size) == (4, (32, 32))
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        clip = truth[tmp_path / line["path"]]
        assert line["caption"] == clip.caption
        assert line["speed"] == math.hypot(*line["velocity"])
    assert sum(line["path"].startswith("test/") for line in lines) == 12


def test_a_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    make_shapes(tmp_path, TINY, progress=False)
    before = files(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert make_shapes(tmp_path, TINY, progress=False) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == written
    (tmp_path / "train" / "red_disc" / "0001.mp4").unlink()
    assert make_shapes(tmp_path, TINY, progress=False) == 1
    assert files(tmp_path) == before


def test_an_interrupted_run_is_made_anew(tmp_path: Path) -> None:
    make_shapes(tmp_path, replace(TINY, seed=5, train=3), progress=False)
    (tmp_path / "spec.json").rename(tmp_path / ".begun")  # the one is written last, the other first
    assert make_shapes(tmp_path, TINY, progress=False) == 12 * 3
    make_shapes(tmp_path.with_name("fresh"), TINY, progress=False)
    assert files(tmp_path) == files(tmp_path.with_name("fresh"))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["captions.jsonl", "train/red_disc/77.mp4"])
def test_what_is_no_set_is_not_touched(tmp_path: Path, name: str, force: bool) -> None:
    """A recipe of the set, pointed at a folder of someone's own clips."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"my own")
    with pytest.raises(ValueError, match=rf"has {name}, but is no shapes set: .* data.layout=auto"):
        make_shapes(tmp_path, TINY, force=force, progress=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_bytes() == b"my own"


def test_other_options_are_refused_unless_forced(tmp_path: Path) -> None:
    make_shapes(tmp_path, replace(TINY, train=3), progress=False)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"choose another folder, or replace the set with --force"):
        make_shapes(tmp_path, TINY, progress=False)
    assert files(tmp_path) == before
    mine = tmp_path / "train" / "red_disc" / "mine.mp4"
    mine.write_bytes(b"kept")
    assert make_shapes(tmp_path, TINY, force=True, progress=False) == 12 * 3
    assert mine.read_bytes() == b"kept"
    mine.unlink()
    assert set(read_clips(tmp_path)) == set(tmp_path.rglob("*.mp4"))  # none of the old set's files stayed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 63}, "size is 63; give an even number"),
        ({"size": 16}, "size is 16; give an even number of pixels from 32 on"),
        ({"frames": 0}, "frames is 0; give a whole number from 1 on"),
        ({"seed": -1}, "seed is -1"),
        ({"train": 0, "test": 0}, "ask for at least one clip a label"),
    ],
)
def test_impossible_sets_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesSpec(**options)


def test_a_folder_without_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"captions\.jsonl, which a shapes set has: `vidiff train shapes` makes one"):
        read_clips(tmp_path)


def test_the_command_makes_the_set_and_tells_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(TOOL))["main"]
    small = ["--out", str(tmp_path), "--train", "1", "--test", "0", "--size", "32", "--frames", "2"]
    assert main(small) == 0
    assert capsys.readouterr().out == f"{tmp_path}: wrote 12 clips\n"
    assert main(small) == 0
    assert capsys.readouterr().out == f"{tmp_path}: up to date\n"
    assert main([*small, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} holds a shapes set made with ")
    assert error.count("\n") == 1
    assert main([*small, "--seed", "1", "--force"]) == 0


# Straight paths


FIRST = (20.129487521165565, 15.734127227825576), (2.494916531093721, 0.7854079026625025)  # of the default set
STRAIGHT = ShapesSpec(frames=16, train=8, test=8, straight=1, held_out=12)


@pytest.mark.parametrize("spec", [STRAIGHT, replace(STRAIGHT, size=32, frames=64)])
def test_straight_paths_go_one_way_and_reach_no_wall(spec: ShapesSpec) -> None:
    scale = spec.size / 64
    for clip in clips(spec) + clips(spec, "test"):
        path = clip.path(spec.frames)
        move = path[-1] - path[0]
        straight = path[0] + torch.arange(spec.frames)[:, None] * torch.tensor(clip.velocity, dtype=torch.float64)
        torch.testing.assert_close(path, straight)  # nothing is folded back
        across, up, down = (clip.size * reach for reach in REACH[clip.label.split("_")[1]])
        assert bool((path - torch.tensor([across, up]) > -1e-9).all())
        assert bool((path + torch.tensor([across, down]) < spec.size + 1e-9).all())
        assert scale * TRAVEL[0] <= move.norm() <= scale * TRAVEL[1]
        less, more = sorted(move.abs().tolist())
        assert math.atan2(less, more) <= WOBBLE
        assert clip.caption.split()[-1] == direction(*move.tolist())


def test_speeds_of_straight_clips_of_16_frames() -> None:
    speeds = [clip.speed for clip in clips(replace(STRAIGHT, train=64))]
    assert 1 <= min(speeds) < 1.05 and 2.4 < max(speeds) <= 2.5


def test_training_leaves_out_what_is_held_out_and_testing_has_all() -> None:
    seen = {split: [(clip.label, clip.caption.split()[-1]) for clip in clips(STRAIGHT, split)] for split in SPLITS}
    assert set(seen["train"]).isdisjoint(STRAIGHT.unseen())
    assert set(seen["train"]) | set(STRAIGHT.unseen()) == {(label, d) for label in LABELS for d in DIRECTIONS}
    assert all(seen["test"].count((label, d)) == 2 for label in LABELS for d in DIRECTIONS)
    many = [clip.caption.split()[-1] for clip in clips(replace(STRAIGHT, train=12))]
    assert [many.count(d) for d in DIRECTIONS] == [36] * 4


@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_is_spread_evenly(seed: int) -> None:
    for count in range(25):
        unseen = replace(STRAIGHT, seed=seed, held_out=count).unseen()
        assert len(set(unseen)) == count
        assert all(sum(label == name for name, _ in unseen) <= 2 for label in LABELS)
        if count % 12 == 0:  # each label and direction as often, and no colour or shape loses one direction wholly
            assert all(sum(label == name for name, _ in unseen) == count // 12 for label in LABELS)
            assert all(sum(d == course for _, course in unseen) == count // 4 for d in DIRECTIONS)
            pairs = [(part, course) for label, course in unseen for part in label.split("_")]
            assert max(pairs.count((colour, d)) for colour in COLOURS for d in DIRECTIONS) <= count // 12
            assert max(pairs.count((shape, d)) for shape in SHAPES for d in DIRECTIONS) <= count // 12
    assert STRAIGHT.unseen() == replace(STRAIGHT).unseen() != replace(STRAIGHT, seed=1).unseen()


def test_a_set_without_straight_paths_is_told_of_as_before(tmp_path: Path) -> None:
    make_shapes(tmp_path, TINY, progress=False)
    told = json.loads((tmp_path / "spec.json").read_text())
    assert told == {"drawing": 1, "size": 32, "frames": 4, "train": 2, "test": 1, "seed": 0}
    first = make_clip(ShapesSpec(), "train", "red_disc", 0)
    assert first.position == pytest.approx(FIRST[0], abs=1e-12) and first.velocity == pytest.approx(FIRST[1], abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"straight": 2}, "straight is 2; give 1"),
        ({"held_out": 25}, "held_out is 25; give 0 to 24"),
        ({"straight": 0}, "held_out is 12; give 0 to 24 with straight=1, else 0"),
        ({"frames": 1}, "a straight path needs 2 or more"),
    ],
)
def test_straight_options_out_of_range_are_refused(changes: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(STRAIGHT, **changes)


def test_captions_of_other_clips_are_no_truth(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"path": "a.mp4", "caption": "a cat"}\n')
    with pytest.raises(ValueError, match="is not of a shapes set: it has a line without 'position'"):
        read_clips(tmp_path)
