"""Ways to continue a video beside each other: one table, as Markdown and on a page with curves and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidiff.report.chart import COLOURS, Series, figure, number
from vidiff.report.page import bullet_list, gallery, header, media, page, paragraph, section, table
from vidiff.store.plain import read_json

Result = Mapping[str, Any]
Columns = Mapping[str, tuple[Callable[[Result], str | None], str]]
"""Heading -> what stands there, given one way's result, None where it was not measured; and what that means."""

COLUMNS: Columns = {
    "right at the end": (
        lambda result: _share(result, "shapes", "right_last"),
        "clips whose last frame shows exactly one object, of the right colour and shape",
    ),
    "error, px": (
        lambda result: figure_of(result, "shapes", "error"),
        "mean distance of the object to where it really went, over the first eight new frames",
    ),
    "sharpness": (
        lambda result: figure_of(result, "drift", "sharpness"),
        "of moving edges in the last stretch of new frames, times that of the first",
    ),
    "contrast": (
        lambda result: figure_of(result, "drift", "contrast"),
        "standard deviation of the last stretch, times that of the first",
    ),
    "colour off": (
        lambda result: figure_of(result, "drift", "colour"),
        "how far the mean of each channel in the last stretch is from the first, of a range of 2",
    ),
    "motion": (
        lambda result: figure_of(result, "drift", "motion"),
        "change from frame to frame in the last stretch, times that of the first",
    ),
    "frozen": (
        lambda result: _share(result, "drift", "frozen"),
        "frames of the last stretch that hardly change",
    ),
    "seam": (
        lambda result: figure_of(result, "drift", "seam"),
        "change where a window begins, times that beside it",
    ),
    "s a frame": (
        lambda result: figure_of(result, "seconds"),
        "seconds for a new frame of one clip",
    ),
}
CURVES = {  # heading -> where its values are, one a stretch
    "Right in 7/8 of the frames": ("shapes", "kept"),
    "Sharpness": ("drift", "sharpness"),
    "Contrast": ("drift", "contrast"),
    "Colour off": ("drift", "colour"),
    "Motion": ("drift", "motion"),
    "Frozen frames": ("drift", "frozen"),
}


def rows_in(file: Path) -> list[dict[str, Any]]:
    """The rows of a comparison that a file keeps; none where it is not there. Raises ValueError for another file."""
    content = read_json(file) if file.is_file() else {"rows": []}
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{file} holds something else than rows of this comparison: give another file, with --json")
    return rows


def comparison_table(results: Sequence[Result], columns: Columns = COLUMNS, what: str = "strategy") -> list[list[str]]:
    """Rows of text, headings first; columns that no result has are left out. A way is a `what`."""
    texts = {heading: [of(result) for result in results] for heading, (of, _) in columns.items()}
    kept = {heading: column for heading, column in texts.items() if any(text is not None for text in column)}
    cells = [[text or "" for text in column] for column in kept.values()]
    return [[what, *kept], *([result["name"], *row] for result, *row in zip(results, *cells, strict=True))]


def markdown(results: Sequence[Result], columns: Columns = COLUMNS, what: str = "strategy") -> str:
    """The table, and below it what its columns are."""
    head, *rows = [[text.replace("|", r"\|") for text in row] for row in comparison_table(results, columns, what)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n" + "\n".join(f"- {heading}: {columns[heading][1]}" for heading in head[1:]) + "\n"


def comparison_page(
    title: str, note: str, results: Sequence[Result], pictures: Mapping[str, bytes], caption: str
) -> str:
    """One HTML file that needs no other.

    Args:
        note: what was done, in a sentence.
        results: of each way, with a `name`; the first six are drawn as curves.
        pictures: name of a way -> a PNG of frames side by side.
        caption: which frames those are.
    """
    head, *rows = comparison_table(results)
    strips = gallery("strips", (media(picture, ".png", name) for name, picture in pictures.items()))
    return page(
        title,
        header(title, note),
        section(
            "Figures",
            table(rows, head, "figures") + bullet_list({heading: COLUMNS[heading][1] for heading in head[1:]}),
        ),
        section("Along the new frames", gallery("charts", _charts(results[:COLOURS]))),
        section("Pictures", paragraph(caption) + strips),
    )


def _charts(results: Sequence[Result]) -> list[str]:
    charts = []
    for heading, (part, name) in CURVES.items():
        series = []
        for result in results:
            values, chunk = (result.get(part) or {}).get(name), result["drift"]["chunk"]
            points = [((index + 0.5) * chunk, v) for index, v in enumerate(values or []) if v is not None]
            if points:
                series.append(Series(result["name"], points))
        charts.append(figure(heading, series))
    return charts


def finite(content: Any) -> Any:
    """The same with None for every number that is not finite, so that it is JSON."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _last(result: Result, *keys: str) -> float | None:
    """A figure, or the last of a list of them."""
    value: Any = result
    for key in keys:
        value = (value or {}).get(key)
    return value[-1] if isinstance(value, list) else value


def figure_of(result: Result, *keys: str) -> str | None:
    value = _last(result, *keys)
    return None if value is None else number(value)


def _share(result: Result, *keys: str) -> str | None:
    value = _last(result, *keys)
    return None if value is None else f"{value:.0%}"
