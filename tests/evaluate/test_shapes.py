from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidiff.data.shapes import DIRECTIONS, ShapesClip, ShapesSpec, caption, make_clip
from vidiff.evaluate.shapes import TRIPLES, PromptProtocol, prompt_score, read_direction, score_prompts
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import read_shapes

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
