"""The protocol for prompts of the shapes set: does the object that was asked for go where it was asked to?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidiff.data.shapes import DIRECTIONS, TRAVEL, caption, direction
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import Reading, label_right, read_shapes

LEAST = TRAVEL[0] / 2 / 64  # of the frame's height that an object must go, from end to end, to go anywhere
TRIPLES = tuple((label, course) for label in LABELS for course in DIRECTIONS)


@dataclass(frozen=True)
class PromptProtocol:
    """How many clips. The scores of two models compare only under one protocol."""

    repeats: int = 2  # of each of the 48 prompts
    batch: int = 24  # clips drawn at once


def read_direction(reading: Reading) -> Tensor:
    """Where objects go: `(b,)` int64, index into DIRECTIONS.

    It is the larger component of the way from the first to the last frame in which the object is found; -1 for one
    that is found in fewer than two, or goes less than half of the least way in a straight set.
    """
    found = []
    for seen, centre in zip(reading.found, reading.centre, strict=True):
        places = centre[seen]  # n 2
        x, y = (places[-1] - places[0]).tolist() if len(places) else (0.0, 0.0)
        far = (x * x + y * y) ** 0.5 >= LEAST * reading.frame[0]
        found.append(DIRECTIONS.index(direction(x, y)) if far else -1)
    return torch.tensor(found)


def prompt_score(reading: Reading, label: Tensor, course: Tensor) -> dict[str, float]:
    """How often b clips show what was asked for.

    Args:
        reading: of `(b, f)` frames.
        label: `(b,)` int64, index into LABELS.
        course: `(b,)` int64, index into DIRECTIONS.

    Returns:
        `right`: fraction of clips with all of it right; `object_right`: with the right colour and shape in at least
        7/8 of their frames; `direction_right`: with the right direction.
    """
    shown, goes = label_right(reading, label), read_direction(reading) == course
    parts = {"right": shown & goes, "object_right": shown, "direction_right": goes}
    return {name: part.double().mean().item() for name, part in parts.items()}


def score_prompts(
    generate: Callable[[Sequence[str], int], Tensor],
    unseen: Collection[tuple[str, str]],
    protocol: PromptProtocol,
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Score clips that are drawn from prompts such as "a red square moves left".

    Args:
        generate: (prompts, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        unseen: (label, direction) of the prompts that training left out.

    Returns:
        "prompts", the scores of all; "prompts_held_out", of those left out, and "prompts_seen", of the others, where
        there are any; and the clips `(n, 3, f, h, w)`, in the order of TRIPLES, all of them `protocol.repeats` times.
    """
    wanted = TRIPLES * protocol.repeats
    starts = range(0, len(wanted), protocol.batch)
    parts = [wanted[start : start + protocol.batch] for start in starts]
    clips = torch.cat([generate([caption(*triple) for triple in part], seed) for seed, part in enumerate(parts)])
    reading = read_shapes(clips)
    label = torch.tensor([LABELS.index(name) for name, _ in wanted])
    course = torch.tensor([DIRECTIONS.index(name) for _, name in wanted])
    new = torch.tensor([triple in unseen for triple in wanted])
    groups = {"prompts": torch.ones_like(new), "prompts_held_out": new, "prompts_seen": ~new}
    scores = {}
    for name, rows in groups.items():
        if rows.any():
            scores[name] = {"clips": int(rows.sum()), **prompt_score(reading[rows], label[rows], course[rows])}
    return scores, clips
