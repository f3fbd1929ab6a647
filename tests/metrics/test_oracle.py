from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidiff.data.shapes import ShapesClip, ShapesSpec, make_shapes, read_clips
from vidiff.metrics.objects import BACKGROUND, LABELS, rgb
from vidiff.metrics.oracle import (
    Reading,
    acceleration,
    extension_score,
    join_readings,
    kept_along,
    label_score,
    read_shapes,
)
from vidiff.video.reader import read_video

GROUND = rgb(BACKGROUND).view(3, 1, 1, 1)
DIAGONAL = math.hypot(64, 64)


def still(label: str, x: float = 30.3, y: float = 33.6, size: float = 9.0) -> Tensor:
    """One frame of one object, (3, 1, 64, 64)."""
    return ShapesClip(label, size, (x, y), (0.0, 0.0), 64).video(1)


def noise(like: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def read(video: Tensor) -> str | None:
    """The label that the oracle reads in a single frame, if any."""
    label = read_shapes(video).label.item()
    return None if label < 0 else LABELS[int(label)]


def test_oracle_is_right_on_the_held_out_files(tmp_path: Path) -> None:
    """All 96 default held-out files, as they come back from H.264: 16 frames of each, from all over the clip."""
    make_shapes(tmp_path, ShapesSpec(train=0), progress=False)
    truth = read_clips(tmp_path)
    windows = [range(4 * (i % 13), 4 * (i % 13) + 16) for i in range(len(truth))]
    video = torch.stack([read_video(path, window) for path, window in zip(truth, windows, strict=True)])
    path = torch.stack([clip.path(64)[window] for clip, window in zip(truth.values(), windows, strict=True)])
    size = torch.tensor([clip.size for clip in truth.values()])[:, None]
    label = torch.tensor([LABELS.index(clip.label) for clip in truth.values()])

    reading = read_shapes(video)
    right = reading.label == label[:, None]
    right &= (reading.centre - path).norm(dim=-1) <= 0.25
    right &= (reading.size / size - 1).abs() <= 0.05
    assert right.numel() == 96 * 16
    assert right.double().mean() >= 0.99
    assert label_score(reading, label)["clips_right"] == 1
    assert acceleration(reading)["acceleration"] < 0.1


@pytest.mark.parametrize(("size", "least"), [(32, 0.95), (96, 0.99)])
def test_oracle_reads_other_frame_sizes(size: int, least: float, tmp_path: Path) -> None:
    """At 32 pixels, with halved chroma, the smallest squares and discs grow alike."""
    make_shapes(tmp_path, ShapesSpec(size=size, frames=16, train=0, test=1), progress=False)
    truth = read_clips(tmp_path)
    reading = read_shapes(torch.stack([read_video(path) for path in truth]))
    label = torch.tensor([LABELS.index(clip.label) for clip in truth.values()])
    assert label_score(reading, label)["frames_right"] >= least
    path = torch.stack([clip.path(16) for clip in truth.values()])
    assert (reading.centre - path).norm(dim=-1).mean() < 0.1


@pytest.mark.parametrize("label", LABELS)
def test_oracle_reads_generated_looking_frames(label: str) -> None:
    """Noisy, blurred, paler, on a background that is a little off, and in every corner."""
    clean = still(label)
    blurred = torch.nn.functional.avg_pool2d(clean[:, 0], 3, 1, 1, count_include_pad=False)[:, None]
    assert read(clean + 0.1 * noise(clean)) == label
    assert read(blurred + 0.05 * noise(clean)) == label
    assert read(GROUND + 0.7 * (clean - GROUND)) == label
    assert read(clean + 0.1) == label
    for x, y, size in ((10.0, 12.0, 7.0), (54.0, 12.0, 7.0), (10.0, 58.0, 5.5), (49.0, 50.0, 11.0)):
        reading = read_shapes(still(label, x, y, size))
        assert LABELS[int(reading.label)] == label
        assert math.dist(reading.centre.flatten().tolist(), (x, y)) < 0.1
        assert reading.size.item() == pytest.approx(size, rel=0.03)


def test_colours_are_not_taken_for_each_other() -> None:
    assert read(still("red_disc")[[1, 0, 2]]) == "green_disc"
    assert read(still("red_triangle")[[1, 2, 0]]) == "blue_triangle"
    assert read(still("red_square").amax(0, keepdim=True).expand(3, -1, -1, -1)) is None  # white
    assert read(still("yellow_square")[[0, 2, 0]]) is None  # magenta


def test_no_object_is_not_found() -> None:
    blank = GROUND.expand(3, 1, 64, 64)
    assert read(blank) is None
    assert read(blank + 0.1 * noise(blank)) is None
    assert read(noise(blank)) is None
    assert read(torch.full_like(blank, math.nan)) is None
    assert read(rgb((225, 45, 45)).view(3, 1, 1, 1).expand_as(blank)) is None  # all red
    assert read(GROUND + 0.25 * (still("red_disc") - GROUND)) is None  # a ghost of one
    assert read(still("red_disc", size=2.5)) is None  # too small to tell


@pytest.mark.parametrize("other", ["red_disc", "blue_triangle"])
def test_two_objects_are_not_one(other: str) -> None:
    first, second = still("red_disc", 18, 20, 8), still(other, 46, 44, 8)
    both = torch.where((second - GROUND).norm(dim=0) > 0.1, second, first)
    assert read(first) == "red_disc"
    assert read(both) is None
    touching = still(other, 31, 20, 8)
    assert read(torch.where((touching - GROUND).norm(dim=0) > 0.1, touching, first)) is None


@pytest.mark.parametrize("label", LABELS[:3])
def test_a_half_erased_object_is_not_found(label: str) -> None:
    video = still(label, 30, 33)
    left = torch.arange(64) < 30
    assert read(torch.where(left, GROUND, video)) is None
    assert read(torch.where(~left, GROUND, video)) is None
    if label != "blue_triangle":  # the upper part of one is a smaller triangle
        assert read(torch.where((torch.arange(64) < 33)[:, None], video, GROUND)) is None


def test_a_two_coloured_object_is_not_found() -> None:
    left = torch.arange(64) < 30
    assert read(torch.where(left, still("red_disc", 30), still("blue_disc", 30))) is None
    assert read(torch.where(left, still("red_disc", 30), still("yellow_disc", 30))) is None


def test_a_smear_is_not_found() -> None:
    track = [still("green_square", x, 32, 8) for x in range(16, 49, 4)]
    assert read(torch.stack(track).mean(0)) is None
    assert read(torch.stack(track).amax(0)) is None


def test_one_clip_reads_as_a_batch_of_one() -> None:
    clip = ShapesClip("red_disc", 9.0, (30.0, 30.0), (1.5, 0.5), 64).video(5)
    one, two = read_shapes(clip), read_shapes(torch.stack([clip, clip]))
    assert one.found.shape == (1, 5)
    assert two.centre.shape == (2, 5, 2)
    torch.testing.assert_close(two.centre[1], one.centre[0])
    with pytest.raises(ValueError, match=r"video is \(5, 64, 64, 3\); expected .*: video.movedim\(-1, -4\)"):
        read_shapes(torch.zeros(5, 64, 64, 3))


def reading_of(path: Tensor, label: Tensor | int = 0, found: Tensor | None = None) -> Reading:
    """A reading made by hand: centres (b, f, 2), labels (b, f) or one for all."""
    label = torch.as_tensor(label).expand(path.shape[:2])
    found = torch.ones(path.shape[:2], dtype=torch.bool) if found is None else found
    ones = torch.ones(path.shape[:2])
    return Reading(found, label // 3, label % 3, ones, path, ones, (64, 64))


def straight(frames: int, velocity: tuple[float, float] = (2.0, -1.0)) -> Tensor:
    return (20 + torch.arange(frames)[:, None] * torch.tensor(velocity))[None]  # 1 f 2


def test_label_score_wants_fourteen_of_sixteen_frames() -> None:
    label = torch.full((4, 16), 7)
    label[1, :2] = 3  # 14 right
    label[2, :3] = 3  # 13 right
    found = torch.ones(4, 16, dtype=torch.bool)
    found[3, 4:8] = False  # 12 right
    score = label_score(reading_of(torch.zeros(4, 16, 2), label, found), torch.tensor([7, 7, 7, 7]))
    assert score == {"clips_right": 0.5, "frames_right": 55 / 64, "frames_found": 60 / 64}
    assert label_score(reading_of(torch.zeros(1, 16, 2), 7), torch.tensor([6]))["clips_right"] == 0


def test_constant_velocity_has_no_acceleration() -> None:
    assert acceleration(reading_of(straight(16))) == {"acceleration": 0, "missing": 0}


def test_teleporting_accelerates_as_computed() -> None:
    """Between (0, 0) and (3, 4) in turn, each second difference is twice (3, 4): length 10."""
    there = torch.tensor([3.0, 4.0]) * (torch.arange(16) % 2)[:, None]
    assert acceleration(reading_of(there[None])) == {"acceleration": 10, "missing": 0}


def test_missing_objects_never_improve_the_acceleration() -> None:
    found = torch.ones(1, 16, dtype=torch.bool)
    found[0, 7] = False  # spoils 3 of 14 second differences
    score = acceleration(reading_of(straight(16), found=found))
    assert score == {"acceleration": 0, "missing": pytest.approx(3 / 14)}
    found[0, 2:14:3] = False
    score = acceleration(reading_of(straight(16), found=found))
    assert score["acceleration"] == pytest.approx(2 * DIAGONAL)
    assert json.loads(json.dumps(score)) == score
    with pytest.raises(ValueError, match="clips of 2 frames have no acceleration; give at least 3"):
        acceleration(reading_of(straight(2)))


def test_extension_score_of_known_errors() -> None:
    """One clip follows the truth, the other is (3, 4) off and misses its object in the second new frame."""
    truth = torch.cat([straight(20), straight(20, (0.0, 3.0))])
    path = truth.clone()
    path[1, 8:] += torch.tensor([3.0, 4.0])
    found = torch.ones(2, 20, dtype=torch.bool)
    found[1, 9] = False
    score = extension_score(reading_of(path, 4, found), truth, given=8, horizon=4)
    assert score["error_by_frame"] == pytest.approx([2.5, DIAGONAL / 2] + [2.5] * 10)
    assert score["error"] == pytest.approx((7.5 + DIAGONAL / 2) / 4)
    speed = (math.sqrt(5) + 3) / 2
    assert score["standing_still_by_frame"] == pytest.approx([speed * i for i in range(1, 13)], rel=1e-5)
    assert score["standing_still"] == pytest.approx(2.5 * speed, rel=1e-5)
    assert score["label_kept"] == 1  # 11 of 12 frames
    assert json.loads(json.dumps(score)) == score


def test_extension_score_compares_labels_with_the_given_frames() -> None:
    label = torch.full((3, 24), 4)
    label[1, 8:] = 5  # another object from there on
    found = torch.ones(3, 24, dtype=torch.bool)
    found[2, :8] = False  # nothing to keep
    path = straight(24).expand(3, -1, -1)
    score = extension_score(reading_of(path, label, found), path, given=8)
    assert score["label_kept"] == pytest.approx(1 / 3)


def test_extension_score_needs_enough_frames() -> None:
    with pytest.raises(ValueError, match=r"given=10 and horizon=8 need .* 18 in all; the clips have 16"):
        extension_score(reading_of(straight(16)), straight(40), given=10)


def test_how_long_clips_are_right_is_counted_for_each_stretch() -> None:
    """Of two clips of red discs, one turns into a square after 10 of 20 frames, and one has two objects in the last."""
    disc, square = still("red_disc"), still("red_square")
    away = GROUND + (still("red_disc", x=50.0) - GROUND) + (still("red_disc", x=14.0) - GROUND)
    clips = [torch.cat([*[disc] * 10, *[square] * 10], dim=1), torch.cat([*[disc] * 19, away], dim=1)]
    label = torch.tensor([LABELS.index("red_disc")] * 2)
    parts = [read_shapes(torch.stack(clips)[:, :, a : a + 5]) for a in range(0, 20, 5)]
    found = kept_along(join_readings(parts), label, 8, last=3)
    assert found["kept"] == [1.0, 0.5, 0.0]
    assert found["right"] == [1.0, pytest.approx((2 + 8) / 16), pytest.approx(3 / 8)]
    assert found["kept_last"] == 0.0 and found["right_last"] == 0.0
    assert kept_along(join_readings(parts[:3]), label, 15, last=3)["kept_last"] == 0.5
    assert kept_along(join_readings(parts), label, 5, given=9)["right"] == [pytest.approx(6 / 10), 0.5, 0.0]
    for chunk, last in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="give 1 or more frames for both"):
            kept_along(join_readings(parts), label, chunk, last=last)
    with pytest.raises(ValueError, match="no readings to join"):
        join_readings([])
