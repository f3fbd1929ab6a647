from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pipelines import enlarging, save

from vidiff.data.shapes import ShapesSpec, make_clip, make_shapes
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.evaluate.upscaling import UpscalingProtocol, read_held_out, score_upscaling, side_by_side
from vidiff.metrics.objects import LABELS
from vidiff.metrics.prediction import overall_psnr

CHOSEN = ("blue_disc", "red_square", "yellow_triangle", "green_disc")


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.stack([make_clip(ShapesSpec(), "test", label, 0).video(4) for label in CHOSEN])


def test_psnr_is_its_formula() -> None:
    video = torch.zeros(2, 3, 4, 5, 5)
    assert overall_psnr(video + 0.02, video) == pytest.approx(10 * math.log10(4 / 0.02**2), abs=1e-3)
    half = video.clone()
    half[0] += 0.02
    assert overall_psnr(half, video) == pytest.approx(10 * math.log10(8 / 0.02**2), abs=1e-3)
    assert overall_psnr(video, video) == pytest.approx(126.02, abs=0.01)


def test_scores_are_of_what_was_made(truth: torch.Tensor) -> None:
    small = shrink(truth, 2)
    bicubic = enlarge(small, 2)
    label = torch.tensor([LABELS.index(name) for name in CHOSEN])
    asked: list[tuple[int, int]] = []

    def better(given: torch.Tensor, seed: int) -> torch.Tensor:
        asked.append((len(given), seed))
        part = slice(2 * seed, 2 * seed + 2)
        assert torch.equal(given, small[part])
        return (truth[part] + bicubic[part]) / 2

    decoded = truth.flip(0)
    scores, made = score_upscaling(better, decoded, truth, small, bicubic, label, UpscalingProtocol(batch=2))
    assert asked == [(2, 0), (2, 1)] and torch.equal(made, (truth + bicubic) / 2)
    assert scores["upscaled"]["gain"] == pytest.approx(20 * math.log10(2), abs=1e-3)  # half the error
    assert scores["bicubic"]["psnr"] == pytest.approx(overall_psnr(bicubic, truth))
    assert scores["upscaled"]["frames_right"] == scores["bicubic"]["frames_right"] == 1
    assert scores["codec"]["frames_right"] == 0, "the clips of another label"
    unread, _ = score_upscaling(lambda given, seed: bicubic, truth, truth, small, bicubic, None, UpscalingProtocol())
    assert unread["upscaled"] == {"clips": 4, "psnr": pytest.approx(overall_psnr(bicubic, truth)), "gain": 0}
    assert unread["codec"]["psnr"] > 126


def test_the_picture_shows_each_row_as_it_is(truth: torch.Tensor) -> None:
    small = shrink(truth, 2)
    picture = side_by_side(small, truth * 0, truth * 0.5, truth, columns=2)
    assert picture.shape == (3, 4 * 64, 2 * 64)
    first, last = truth[1, :, 2], truth[3, :, 2]
    assert torch.equal(picture[:, 192:, :64], first) and torch.equal(picture[:, 192:, 64:], last)
    assert torch.equal(picture[:, 128:192, :64], first * 0.5) and not picture[:, 64:128].any()
    assert torch.equal(picture[:, :64:2, :64:2], small[1, :, 2])
    assert torch.equal(picture[:, 1:64:2, 1:64:2], small[1, :, 2])


@pytest.mark.parametrize(("clips", "labels"), [(8, (0, 1, 3, 4, 6, 7, 9, 10)), (4, (0, 3, 6, 9)), (48, range(12))])
def test_held_out_clips_are_evenly_chosen(tmp_path: Path, clips: int, labels: tuple[int, ...]) -> None:
    make_shapes(tmp_path / "set", ShapesSpec(size=32, frames=4, train=0, test=1), progress=False)
    run = save(tmp_path / "runs" / "sr", enlarging(32))
    held = read_held_out(run, 32, tmp_path / "set", UpscalingProtocol(clips, 3))
    names = sorted(LABELS)  # in the order of files
    assert held.label is not None
    assert [LABELS[number] for number in held.label] == [names[number] for number in labels]
    assert held.truth.shape == (len(labels), 3, 3, 32, 32)
