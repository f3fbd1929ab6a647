"""A page on how truly a world obeys: figures, curves by frame, and the world above the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from vidiff.evaluate.follow.score import OTHER, SHUFFLED, TRUE, Following
from vidiff.evaluate.follow.signs import signs
from vidiff.report.chart import Series, figure, number
from vidiff.report.page import bullet_list, gallery, header, media, page, paragraph, section, table
from vidiff.store.files import write_whole
from vidiff.video.writer import FASTEST_OF, sheet, write_image, write_video

SHOWN = 4  # starts in the picture
PLAYED = 2  # and in the animation
GAP = 4  # white pixels between them
LARGER = 2
SLOWER = 2  # times than they are, since one looks at actions, world and environment at once

MEANS = {
    TRUE: "the actions that were done in the real clip, which tells what follows",
    OTHER: "others, drawn anew; the environment is brought to the same moment and does them too",
    SHUFFLED: "the model is told those of another clip, and compared with what follows in this one",
    "repeated": "the last given frame, shown again and again in place of what a model makes",
}


def write_page(json_file: Path, found: Following) -> list[Path]:
    """Writes a page, its picture and its animation beside the file of the scores, and returns their paths."""
    picture, played, html = (json_file.with_suffix(suffix) for suffix in (".png", ".gif", ".html"))
    write_image(picture, strips(found))
    write_video(played, animation(found), min(found.fps / SLOWER, FASTEST_OF[".gif"]))
    names = [name for name in MEANS if name in found.trials]
    scores = found.scores
    measures = [key for key, value in scores[TRUE].items() if not isinstance(value, list)]
    rows = [(key.replace("_", " "), *(_text(scores[name][key]) for name in names)) for key in measures]
    parts = {key: scores[key] for key in ("inverse", "turning") if key in scores}
    title = "How truly it obeys"
    protocol = scores.get("protocol_follow", {})
    note = ", ".join(f"{key} {protocol[key]}" for key in ("environment", "starts", "given", "new") if key in protocol)
    text = page(
        title,
        header(title, note),
        section("Figures", table(rows, ["", *names], "figures") + bullet_list(MEANS)),
        *(
            section(key.capitalize(), table([(k.replace("_", " "), _text(v)) for k, v in part.items()], (), "figures"))
            for key, part in parts.items()
        ),
        section("By frame", gallery("charts", _charts(found))),
        section(
            "Pictures",
            paragraph(_caption(found))
            + gallery("strips", [media(path.read_bytes(), path.suffix, "") for path in (played, picture)]),
        ),
        section("Left out", bullet_list(scores.get("left_out", {}))),
    )
    write_whole(html, text)
    return [html, picture, played]


def strips(found: Following) -> Tensor:
    """For a few starts, the world above what really follows, under the true actions and, if there are any, others:
    `(3, rows * h, frames * w)`."""
    rows = []
    for which in _spread(len(found.given), SHOWN):
        for name in (TRUE, OTHER):
            if name in found.trials:
                trial = found.trials[name]
                pair = [torch.cat([found.given[which], x[which]], 1) for x in (trial.made, trial.truth)]
                rows.append(pad(torch.cat([sheet(x) for x in pair], 1), (0, 0, 0, GAP), value=1.0))
        rows[-1] = pad(rows[-1], (0, 0, 0, 2 * GAP), value=1.0)
    return interpolate(torch.cat(rows, 1)[None], scale_factor=LARGER, mode="nearest")[0]


def animation(found: Following) -> Tensor:
    """For two starts, the world above what really follows, and between them what both are told; under the true actions
    and, if there are any, others, side by side: `(3, f, h, w)`. Nothing is lit while frames are given."""
    groups = []
    for which in _spread(len(found.given), PLAYED):
        columns = []
        for name in (TRUE, OTHER):
            if name not in found.trials:
                continue
            trial, given = found.trials[name], found.given[which]
            world, real = (_larger(torch.cat([given, x[which]], 1)) for x in (trial.made, trial.truth))
            told = [None] * given.shape[1] + [*trial.told[which]]
            between = torch.stack([signs(found.space, row, world.shape[-1]) for row in told], 1)
            columns.append(pad(torch.cat([world, between, real], 2), (0, GAP), value=-1.0))
        groups.append(pad(torch.cat(columns, 3), (0, GAP), value=-1.0))
    return torch.cat(groups, 3)[..., : -2 * GAP]


def _spread(count: int, most: int) -> list[int]:
    """Numbers below `count`, as many and as far apart as can be."""
    shown = min(most, count)
    return [place * count // shown for place in range(shown)]


def _larger(video: Tensor) -> Tensor:
    """`(3, f, h, w)`, each pixel as a square."""
    return interpolate(video.transpose(0, 1), scale_factor=LARGER, mode="nearest").transpose(0, 1)


def _caption(found: Following) -> str:
    given = found.given.shape[2]
    pairs = "the true actions, then others" if OTHER in found.trials else "the true actions"
    return (
        f"Of each start, under {pairs}: the model above what really follows. The first {given} frames are given. What "
        f"plays is {SLOWER} times slower than it is, with what both are told between them."
    )


def _charts(found: Following) -> list[str]:
    charts = []
    for key in [key for key, value in found.scores[TRUE].items() if isinstance(value, list)]:
        if key.endswith("_repeated"):
            continue
        lines = {name: found.scores[name][key] for name in MEANS if name in found.trials}
        lines["repeated"] = found.scores[TRUE][f"{key}_repeated"]
        series = [Series(name, _points(values)) for name, values in lines.items() if any(v is not None for v in values)]
        charts.append(figure(key.replace("_", " "), series))
    return charts


def _points(values: list[float | None]) -> list[tuple[float, float]]:
    return [(frame + 1.0, value) for frame, value in enumerate(values) if value is not None]


def _text(value: Any) -> str:
    return "" if value is None else number(value) if isinstance(value, float) else str(value)
