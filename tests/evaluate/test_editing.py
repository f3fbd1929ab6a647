"""The protocol for editing, held against clips of which everything is known."""

from __future__ import annotations

import math

import pytest
import torch

from vidiff.data.shapes import ShapesSpec, make_clip
from vidiff.evaluate.editing import hiding_box, score_editing, score_inpainting, score_interpolation, score_loop
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import read_shapes

FRAMES = 16
TRUTH = [make_clip(ShapesSpec(), "test", label, 0) for label in LABELS]
CLIPS = torch.stack([clip.video(FRAMES) for clip in TRUTH])
PATHS = torch.stack([clip.path(FRAMES) for clip in TRUTH])
SIZES = torch.tensor([clip.size for clip in TRUTH])
LABEL = torch.arange(len(LABELS))
HIDDEN = range(4, 12)
MASK = hiding_box(PATHS, SIZES, HIDDEN, 64)


def test_a_box_hides_the_whole_object_in_the_hidden_frames_alone() -> None:
    assert MASK.shape == (12, 1, 16, 64, 64)
    assert not MASK[:, :, [0, 3, 12, 15]].any()
    background = CLIPS[:, :, :1, :1, :1]
    bare = torch.where(MASK, background, CLIPS)[:, :, 4:12]
    assert torch.equal(bare, background.expand_as(bare)), "nothing of the object is left"
    for mask in MASK[:, 0, 4]:
        assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0)[None]), "it is a box"


def test_the_truth_itself_scores_best() -> None:
    scores = score_editing(
        lambda clips, mask: clips.clone(),
        lambda first, last, between: CLIPS,
        lambda clips, between: CLIPS,
        CLIPS,
        LABEL,
        PATHS,
        SIZES,
    )
    assert scores["inpainting"] == {
        "clips": 12,
        "known_bit_equal": True,
        "near": 1.0,
        "error": pytest.approx(0, abs=0.1),
    }
    assert scores["interpolation"]["known_bit_equal"] and scores["interpolation"]["clips_right"] == 1.0
    assert scores["interpolation"]["acceleration"] < 0.1


def test_an_object_that_does_not_come_back_is_as_far_as_can_be() -> None:
    gone = torch.where(MASK, CLIPS[:, :, :1, :1, :1], CLIPS)
    score = score_inpainting(gone, CLIPS, MASK, PATHS, HIDDEN)
    assert score["near"] == 0.0 and score["error"] == pytest.approx(64 * math.sqrt(2))
    assert score["known_bit_equal"]
    touched = CLIPS.clone()
    touched[0, 0, 0, 0, 0] += 1e-3
    assert not score_inpainting(touched, CLIPS, MASK, PATHS, HIDDEN)["known_bit_equal"]


def test_an_object_two_frames_late_is_off_by_two_frames_of_its_way() -> None:
    late = torch.cat([CLIPS[:, :, :4], CLIPS[:, :, 2:10], CLIPS[:, :, 12:]], dim=2)
    score = score_inpainting(late, CLIPS, torch.ones_like(MASK), PATHS, HIDDEN)
    way = (PATHS[:, 4:12] - PATHS[:, 2:10]).norm(dim=-1).mean(1)
    assert score["error"] == pytest.approx(float(way.median()), abs=0.1)
    assert score["near"] == pytest.approx(float((way <= 3).double().mean()), abs=0.09)


def test_a_jump_between_the_ends_is_seen() -> None:
    still = CLIPS[:, :, :1].expand(-1, -1, FRAMES, -1, -1).clone()
    still[:, :, :2], still[:, :, -2:] = CLIPS[:, :, :2], CLIPS[:, :, -2:]
    assert score_interpolation(still, CLIPS, LABEL, 2)["known_bit_equal"]
    other = score_interpolation(CLIPS.roll(1, dims=0), CLIPS, LABEL, 2)
    assert not other["known_bit_equal"] and other["clips_right"] == 0.0


def test_a_loop_is_seamless_where_its_ends_are_neighbours() -> None:
    there_and_back = torch.cat([CLIPS[:, :, :8], CLIPS[:, :, 1:7].flip(2)], dim=2)
    score = score_loop(there_and_back)
    assert score["seam"] == pytest.approx(1.0, abs=0.25)
    assert score["step"] == pytest.approx(score["steps_within"], abs=0.35)
    cut = score_loop(CLIPS)
    centre = read_shapes(CLIPS).centre
    assert cut["step"] == pytest.approx(float((centre[:, 0] - centre[:, -1]).norm(dim=-1).median()))
    assert cut["seam"] > 2
