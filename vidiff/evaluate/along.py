"""Curves of a scoring: scores over a run's checkpoints, and the looks of a long extension frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidiff.evaluate.card import Card, numbers
from vidiff.metrics.drift import Looks, after, drift
from vidiff.report.chart import Series, figure, number
from vidiff.report.page import group, table

STRETCH = 16
"""Frames of a stretch, of which the last is compared with the first."""


def checkpoint_curves(cards: Sequence[Card]) -> str:
    """HTML: each score over the steps of the cards, which are of one protocol; reference values as level lines."""
    steps = [float(card.made["checkpoint"]) for card in cards]
    charts = []
    for name in (name for name in cards[-1].scores if not name.startswith(("floor ", "ceiling ", "real ", "sensit"))):
        series = [Series("made", _points(steps, cards, name))]
        for kind in ("floor", "ceiling", "real"):
            points = _points(steps, cards, f"{kind} {name}")
            series += [Series(kind, points)] if points else []
        charts.append(figure(name, series))
    return group("charts", charts)


def checkpoint_table(cards: Sequence[Card]) -> str:
    """HTML: a row for each score, a column for each card; of a score with several numbers, the first."""
    rows = [
        ("step", *(f"{card.made['checkpoint']:,}" for card in cards)),
        ("weights", *(str(card.made["weights"]) for card in cards)),
    ]
    for name in (name for name in cards[-1].scores if not name.startswith(("floor ", "ceiling ", "real ", "sensit"))):
        rows.append((name, *(number(numbers(c.scores[name])[0]) if name in c.scores else "" for c in cards)))
    return table(rows)


def drift_scores(looks: Looks, given: int) -> dict[str, Any]:
    """The last stretch of the new frames against the first of them; see `drift`. What cannot be measured is left out.

    Raises:
        ValueError: fewer than two stretches of new frames.
    """
    new = looks.change.shape[1] - given
    if new < 2 * STRETCH:
        raise ValueError(f"{new} new frames: give at least {2 * STRETCH}, two stretches of {STRETCH}")
    found = drift(after(looks, given), STRETCH)
    last = {name: found[name][new // STRETCH - 1] for name in ("colour", "contrast", "sharpness", "motion", "frozen")}
    return {name: value for name, value in last.items() if value == value}  # not NaN


def by_frame(looks: Looks, given: int) -> dict[str, list[float]]:
    """Means over clips for each frame: `colour`, how far channels' means are off those of the given frames (root mean
    square, of a range of 2), `sharpness` and `motion`, as `Looks` has them; NaN where there is none.
    """
    off = looks.mean - looks.mean[:, :given].mean(1, keepdim=True)
    return {
        "colour": off.square().mean(2).sqrt().mean(0).tolist(),
        "sharpness": looks.sharpness.nanmean(0).tolist(),
        "motion": looks.change.nanmean(0).tolist(),
    }


TITLES = {
    "colour": "Colour, off the given frames' (of a range of 2)",
    "sharpness": "Sharpness of moving edges, 1 / pixel",
    "motion": "Change from frame to frame (of a range of 2)",
}


def drift_curves(sets: Mapping[str, Looks], given: int) -> str:
    """HTML: `by_frame` of each set, such as made and real clips."""
    seen = {name: by_frame(looks, given) for name, looks in sets.items()}
    charts = []
    for part, heading in TITLES.items():
        series = [Series(name, list(enumerate(values[part]))) for name, values in seen.items()]
        charts.append(figure(heading, [Series(s.name, [(float(n), v) for n, v in s.points if v == v]) for s in series]))
    return group("charts", charts)


def _points(steps: Sequence[float], cards: Sequence[Card], name: str) -> list[tuple[float, float]]:
    return [
        (step, numbers(card.scores[name])[0]) for step, card in zip(steps, cards, strict=True) if name in card.scores
    ]
