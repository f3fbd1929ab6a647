from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vidiff.data.shapes import DIRECTIONS, ShapesClip, ShapesSpec, caption, make_clip, make_shapes
from vidiff.evaluate import editing, shapes
from vidiff.evaluate.editing import EditingProtocol, score_edits
from vidiff.evaluate.long import LongProtocol
from vidiff.evaluate.shapes import (
    TRIPLES,
    PromptProtocol,
    ShapesProtocol,
    Subject,
    prompt_score,
    read_direction,
    score_classifier,
    score_labels,
    score_prompts,
    score_run,
)
from vidiff.evaluate.upscaling import UpscalingProtocol
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import read_shapes
from vidiff.training.windows import evenly
from vidiff.video.reader import read_image

FRAMES = 4
SPEC = ShapesSpec(size=48, frames=FRAMES, straight=1, train=4, test=4)


def drawn(label: str, course: str) -> Tensor:
    """A clip of the set, (3, 4, 48, 48): of a label's four, the one that goes there."""
    clip = make_clip(SPEC, "test", label, DIRECTIONS.index(course))
    assert clip.caption == caption(label, course)
    return clip.video(SPEC.frames)


def test_the_oracle_reads_every_direction() -> None:
    clips = torch.stack([drawn(label, course) for label, course in TRIPLES])
    courses = torch.tensor([DIRECTIONS.index(course) for _, course in TRIPLES])
    assert len(TRIPLES) == 48 and torch.equal(read_direction(read_shapes(clips)), courses)


def test_the_way_counts_from_the_first_frame_found_to_the_last() -> None:
    clip = make_clip(ShapesSpec(frames=8, straight=1), "test", "red_disc", 0).video(8)
    empty = ShapesClip("red_disc", 0.0, (0.0, 0.0), (0.0, 0.0), 64).video(8)
    clip[:, [0, 6, 7]] = empty[:, [0, 6, 7]]
    clip[:, 3] = -1.0
    still = clip[:, 1:2].expand(3, 8, 64, 64)
    reading = read_shapes(torch.stack([clip, still, empty]))
    assert reading.found[0].tolist() == [False, True, True, False, True, True, False, False]
    assert read_direction(reading).tolist() == [DIRECTIONS.index("left"), -1, -1]


def test_an_object_must_go_half_of_the_least_way() -> None:
    def pushed(pixels: float) -> Tensor:
        return ShapesClip("blue_square", 9.0, (30.0, 30.0), (0.0, pixels / 7), 64).video(8)

    assert read_direction(read_shapes(torch.stack([pushed(7.0), pushed(8.0)]))).tolist() == [-1, 3]


def test_all_of_a_prompt_must_be_right() -> None:
    shown = [("red_disc", "left"), ("red_disc", "left"), ("red_disc", "up"), ("green_disc", "left")]
    reading = read_shapes(torch.stack([drawn(*triple) for triple in shown]))
    label = torch.full((4,), LABELS.index("red_disc"))
    course = torch.full((4,), DIRECTIONS.index("left"))
    assert prompt_score(reading, label, course) == {"right": 0.5, "object_right": 0.75, "direction_right": 0.75}


def test_scores_of_prompts_that_training_left_out_stand_apart() -> None:
    """A model that has never seen "moves up" and goes down instead."""
    unseen = [(label, "up") for label in LABELS]
    asked = []

    def generate(prompts: Sequence[str], seed: int) -> Tensor:
        asked.append((seed, list(prompts)))
        made = []
        for prompt in prompts:
            _, colour, shape, _, course = prompt.split()
            made.append(drawn(f"{colour}_{shape}", "down" if course == "up" else course))
        return torch.stack(made)

    scores, clips = score_prompts(generate, unseen, PromptProtocol(repeats=2, batch=20))
    assert [len(prompts) for _, prompts in asked] == [20, 20, 20, 20, 16] and [s for s, _ in asked] == list(range(5))
    prompts = [prompt for _, part in asked for prompt in part]
    assert len(clips) == 96 and prompts[:48] == prompts[48:] and len(set(prompts)) == 48
    assert scores == {
        "prompts": {"clips": 96, "right": 0.75, "object_right": 1.0, "direction_right": 0.75},
        "prompts_held_out": {"clips": 24, "right": 0.0, "object_right": 1.0, "direction_right": 0.0},
        "prompts_seen": {"clips": 72, "right": 1.0, "object_right": 1.0, "direction_right": 1.0},
    }


# Which held-out clips


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("of", [1, 5, 12, 49, 60, 95, 97])
@pytest.mark.parametrize("count", [1, 7, 24, 48])
def test_evenly_chosen_clips_are_as_many_as_asked_for_and_reach_from_end_to_end(
    count: int, of: int, middle: bool
) -> None:
    chosen = evenly(count, of, middle)
    assert len(chosen) == min(count, of) and set(chosen) <= set(range(of))
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    pace = of / len(chosen)
    assert chosen[0] <= pace and of - 1 - chosen[-1] <= pace


def test_usual_sets_are_scored_by_the_clips_that_known_figures_are_of() -> None:
    """Of the 96 held-out clips of the shapes set, and of the 48 and 36 that recipes which enlarge have."""
    protocol, every = ShapesProtocol(), [*range(96)]
    assert evenly(protocol.extended, 96, middle=True) == every[1::2]
    assert evenly(protocol.untold, 96, middle=True) == every[2::4]
    assert evenly(EditingProtocol().clips, 96, middle=True) == every[1::2]
    assert evenly(LongProtocol().clips, 96, middle=True) == every[2::4]
    assert evenly(12, 96, middle=True) == every[4::8]
    assert evenly(UpscalingProtocol().clips, 48) == every[:48] and evenly(12, 36) == every[:36:3]


class Stands:
    """In the place of a pipeline of the shapes set: it shows the label, and each clip stands still where it is."""

    size, frames, fps, labels, text = 32, 4, 8.0, tuple(LABELS), None
    facts = SimpleNamespace(strides=(1, 1), rate=0, fps=8.0)

    def __init__(self, folder: Path) -> None:
        self.classifier = SimpleNamespace(name=str(folder / "judge"))

    def generate(self, label: Sequence[str] = ("red_disc",), count: int = 1, **options: object) -> Tensor:
        names = [*label] * (count // len(label))
        clips = [make_clip(ShapesSpec(size=32, frames=4), "test", name, 0).video(4) for name in names]
        return torch.stack(clips)

    def extend(self, given: Tensor, frames: int, *asked: object, **options: object) -> Tensor:
        return torch.cat([given, given[:, :, -1:].expand(-1, -1, frames - given.shape[2], -1, -1)], dim=2)

    def reconstruct(self, clip: Tensor) -> Tensor:
        return clip

    def inpaint(self, clip: Tensor, mask: Tensor, *asked: object, **options: object) -> Tensor:
        return clip

    def interpolate(self, first: Tensor, last: Tensor, between: int, *asked: object, **options: object) -> Tensor:
        return torch.cat([self.extend(first, first.shape[2] + between), last], dim=2)

    def loop(self, clip: Tensor, between: int, *asked: object, **options: object) -> Tensor:
        return self.extend(clip, clip.shape[2] + between)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """With twelve held-out clips."""
    make_shapes(tmp_path / "set", ShapesSpec(size=32, frames=6, train=0, test=1), progress=False)
    return Subject(tmp_path / "run", Stands(tmp_path), tmp_path / "set")  # type: ignore[arg-type]


def test_what_the_oracle_cannot_read_is_scored_otherwise(subject: Subject, tmp_path: Path) -> None:
    """A run of own clips: no other run would do, another way to score it does."""
    instead = "--network efficientnet, or numbers of steps such as --few 8, score clips of any kind"
    pipeline: Any = Stands(tmp_path)
    pipeline.labels = ("cat", "dog")
    for score in (score_run, score_edits):
        with pytest.raises(ValueError) as caught:
            score(replace(subject, pipeline=pipeline))
        assert str(caught.value).endswith(f"was not trained on the shapes set: its labels are cat, dog; {instead}")
    pipeline.text = "words"  # of a run of own captions
    (tmp_path / "captions.jsonl").write_text('{"path": "a.mp4", "caption": "a cat"}\n')
    for root, said in ((tmp_path, "is not of a shapes set: it has a line without"), (tmp_path / "none", "no ")):
        with pytest.raises(ValueError, match=rf"{said}.*; {instead}$"):
            score_run(replace(subject, pipeline=pipeline, root=root))


def test_no_more_held_out_clips_are_scored_than_the_protocol_says(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(ShapesProtocol, per_label=1, untold=5, given=2, frames=6, horizon=4)
    for extended, clips in ((7, 7), (48, 12)):
        monkeypatch.setattr(shapes, "ShapesProtocol", partial(few, extended=extended))
        scores = score_labels(subject)
        assert (scores["extension"]["clips"], scores["extension_untold"]["clips"]) == (clips, 5)
    for asked, clips in ((7, 7), (48, 12)):
        monkeypatch.setattr(editing, "EditingProtocol", partial(EditingProtocol, clips=asked))
        scores = score_edits(subject)
        assert {scores[name]["clips"] for name in ("inpainting", "interpolation", "loop")} == {clips}


def test_the_picture_of_a_classifier_shows_each_label(subject: Subject) -> None:
    scores = score_classifier(subject, ShapesProtocol(per_label=2))
    assert scores["guided"]["clips_right"] == 1 and scores["unguided"]["clips"] == 24
    picture = read_image(subject.pipeline.classifier.name + "/samples/evaluated-guided.png")  # type: ignore[union-attr]
    assert picture.shape == (3, 12 * 32, 4 * 32)
    shown = picture.unflatten(1, (12, 32)).unflatten(3, (4, 32)).permute(1, 0, 3, 2, 4)  # a row of frames is a clip
    assert read_shapes(shown).label.tolist() == [[number] * 4 for number in range(12)]
