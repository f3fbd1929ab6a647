"""What a reader sees of a scoring: a page with all numbers, real and made clips side by side, made clips beside the
training clips nearest to them, and curves over checkpoints and along a long extension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.evaluate.card import FILE, Card, Comparison, numbers, write_card
from vidiff.metrics.drift import Looks, by_frame
from vidiff.report.chart import Series, figure, number
from vidiff.report.page import bullet_list, gallery, table
from vidiff.report.run import write_report
from vidiff.video.writer import grid, sheet, write_image, write_video

SHOWN = 8
"""Clips of each set that are shown."""


@dataclass(frozen=True)
class Shown:
    """Clips to look at.

    Args:
        real, made: the first SHOWN clips or fewer of each, `(b, 3, f, h, w)`.
        nearest: numbers `(b, k)` of the training clips that are nearest to those of `made`; None where none are known.
        training: reads a range of training clips.
        fps: frames a second.
    """

    real: Tensor
    made: Tensor
    nearest: Tensor | None
    training: Callable[[range], Tensor] | None
    fps: float


def write_scores(
    folder: Path, card: Card, shown: Shown, comparison: Comparison | None, further: Mapping[str, str]
) -> Path:
    """Writes card.json, scores.json, report.html and what it shows into a folder, and returns the page's path.

    Args:
        comparison: with another card, if one was named.
        further: sections besides: heading -> HTML.
    """
    write_card(folder / FILE, card)
    content: dict[str, Any] = {"mind": list(card.cautions)} if card.cautions else {}
    content |= {"scores": dict(card.scores), "left out": dict(card.left_out), "protocol": dict(card.protocol)}
    content |= {"made": dict(card.made)}
    if comparison is not None:
        content["comparison"] = asdict(comparison)
    (folder / "scores.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "environment.json").write_text(json.dumps(dict(card.measured), indent=1) + "\n")
    media = [folder / "real-left-made-right.mp4"]
    sides = [grid(x, columns=2) for x in (shown.real, shown.made)]
    height = max(side.shape[2] for side in sides)
    sides = [torch.nn.functional.pad(side, (0, 0, 0, height - side.shape[2]), value=-1) for side in sides]
    bar = torch.ones(3, shown.real.shape[2], height, 4)
    write_video(media[0], torch.cat([sides[0], bar, sides[1]], 3), fps=shown.fps)
    if shown.nearest is not None and shown.training is not None:
        rows = []
        for clip, nearest in zip(shown.made, shown.nearest.tolist(), strict=True):
            known = torch.cat([shown.training(range(n, n + 1)) for n in nearest])
            rows.append(torch.cat([sheet(x[:, :: max(1, x.shape[1] // 4)]) for x in (clip, *known)], dim=2))
        media.append(folder / "made-then-nearest-training-clips.png")
        write_image(media[1], torch.cat(rows, dim=1))
    sections = {"Mind": bullet_list(card.cautions), **further}
    return write_report(folder, f"Scores of {card.made['source']}", media, sections)


def checkpoint_curves(cards: Sequence[Card]) -> str:
    """HTML: each score over the steps of the cards, which are of one protocol; reference values as level lines."""
    steps = [float(card.made["checkpoint"]) for card in cards]
    charts = []
    for name in _of_made(cards[-1]):
        series = [Series("made", _points(steps, cards, name))]
        for kind in ("floor", "ceiling", "real"):
            points = _points(steps, cards, f"{kind} {name}")
            series += [Series(kind, points)] if points else []
        charts.append(figure(name, series))
    return gallery("charts", charts)


def checkpoint_table(cards: Sequence[Card]) -> str:
    """HTML: a row for each score, a column for each card; of a score with several numbers, the first."""
    rows = [
        ("step", *(f"{card.made['checkpoint']:,}" for card in cards)),
        ("weights", *(str(card.made["weights"]) for card in cards)),
    ]
    for name in _of_made(cards[-1]):
        rows.append((name, *(number(numbers(c.scores[name])[0]) if name in c.scores else "" for c in cards)))
    return table(rows)


TITLES = {
    "colour": "Colour, off the given frames' (of a range of 2)",
    "sharpness": "Sharpness of moving edges, 1 / pixel",
    "motion": "Change from frame to frame (of a range of 2)",
}


def drift_curves(sets: Mapping[str, Looks], given: int) -> str:
    """HTML: `by_frame` of each set, such as made and real clips."""
    along = {name: by_frame(looks, given) for name, looks in sets.items()}
    charts = []
    for part, heading in TITLES.items():
        series = [Series(name, list(enumerate(values[part]))) for name, values in along.items()]
        charts.append(figure(heading, [Series(s.name, [(float(n), v) for n, v in s.points if v == v]) for s in series]))
    return gallery("charts", charts)


def _of_made(card: Card) -> list[str]:
    """Names of the scores that tell of made clips, and not of real ones alone."""
    return [name for name in card.scores if not name.startswith(("floor ", "ceiling ", "real ", "sensitivity "))]


def _points(steps: Sequence[float], cards: Sequence[Card], name: str) -> list[tuple[float, float]]:
    return [
        (step, numbers(card.scores[name])[0]) for step, card in zip(steps, cards, strict=True) if name in card.scores
    ]
