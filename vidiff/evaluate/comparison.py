"""Ways to continue a video beside each other: one table, as Markdown and on a page with curves and pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from vidiff.report.chart import COLOURS, Series, figure, number
from vidiff.report.run import page

Result = Mapping[str, Any]

# heading -> what stands there, given one way's result; None where it was not measured
COLUMNS: dict[str, Callable[[Result], str | None]] = {
    "right at the end": lambda result: _share(result, "shapes", "right_last"),
    "error, px": lambda result: _figure(result, "shapes", "error"),
    "sharpness": lambda result: _figure(result, "drift", "sharpness"),
    "contrast": lambda result: _figure(result, "drift", "contrast"),
    "colour off": lambda result: _figure(result, "drift", "colour"),
    "motion": lambda result: _figure(result, "drift", "motion"),
    "frozen": lambda result: _share(result, "drift", "frozen"),
    "seam": lambda result: _figure(result, "drift", "seam"),
    "s a frame": lambda result: _figure(result, "seconds"),
}
MEANS = {
    "right at the end": "clips whose last frame shows exactly one object, of the right colour and shape",
    "error, px": "mean distance of the object to where it really went, over the first eight new frames",
    "sharpness": "of moving edges in the last stretch of new frames, times that of the first",
    "contrast": "standard deviation of the last stretch, times that of the first",
    "colour off": "how far the mean of each channel in the last stretch is from the first, of a range of 2",
    "motion": "change from frame to frame in the last stretch, times that of the first",
    "frozen": "frames of the last stretch that hardly change",
    "seam": "change where a window begins, times that beside it",
    "s a frame": "seconds for a new frame of one clip",
}
CURVES = {  # heading -> where its values are, one a stretch
    "Right in 7/8 of the frames": ("shapes", "kept"),
    "Sharpness": ("drift", "sharpness"),
    "Contrast": ("drift", "contrast"),
    "Colour off": ("drift", "colour"),
    "Motion": ("drift", "motion"),
    "Frozen frames": ("drift", "frozen"),
}


def table(results: Sequence[Result]) -> list[list[str]]:
    """Rows of text, headings first; columns that no result has are left out."""
    texts = {heading: [of(result) for result in results] for heading, of in COLUMNS.items()}
    kept = {heading: column for heading, column in texts.items() if any(text is not None for text in column)}
    rows = [["strategy", *kept]]
    for place, result in enumerate(results):
        rows.append([result["name"], *(column[place] or "" for column in kept.values())])
    return rows


def markdown(results: Sequence[Result]) -> str:
    """The table, and below it what its columns are."""
    head, *rows = [[text.replace("|", r"\|") for text in row] for row in table(results)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n" + "\n".join(f"- {heading}: {MEANS[heading]}" for heading in head[1:]) + "\n"


def write_page(title: str, told: str, results: Sequence[Result], pictures: Mapping[str, bytes], caption: str) -> str:
    """One HTML file that needs no other.

    Args:
        told: what was done, in a sentence.
        results: of each way, with a `name`; the first six are drawn as curves.
        pictures: name of a way -> a PNG of frames side by side.
        caption: which frames those are.
    """
    head, *rows = table(results)
    cells = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    means = "".join(f"<li><b>{escape(heading)}</b> {escape(MEANS[heading])}</li>" for heading in head[1:])
    shown = "".join(
        f'<figure><figcaption>{escape(name)}</figcaption><img alt="{escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"></figure>'
        for name, picture in pictures.items()
    )
    return page(
        title,
        f"<header><h1>{escape(title)}</h1><p>{escape(told)}</p></header>"
        f'<section class="figures"><h2>Figures</h2><div><table><tr>{cells}</tr>{lines}</table></div>'
        f"<ul>{means}</ul></section>"
        f'<section><h2>Along the new frames</h2><div class="charts">{_charts(results[:COLOURS])}</div></section>'
        f'<section class="strips"><h2>Pictures</h2><p>{escape(caption)}</p>{shown}</section>'
        f"<style>{_STYLE}</style>",
    )


def _charts(results: Sequence[Result]) -> str:
    charts = []
    for heading, (part, name) in CURVES.items():
        series = []
        for result in results:
            values, chunk = (result.get(part) or {}).get(name), result["drift"]["chunk"]
            points = [((place + 0.5) * chunk, v) for place, v in enumerate(values or []) if v is not None]
            if points:
                series.append(Series(result["name"], points))
        charts.append(figure(heading, series))
    return "".join(charts)


def finite(content: Any) -> Any:
    """The same with None for every number that is not finite, so that it is JSON."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _last(result: Result, *keys: str) -> float | None:
    """A figure, or the last of a list of them."""
    found: Any = result
    for key in keys:
        found = (found or {}).get(key)
    return found[-1] if isinstance(found, list) else found


def _figure(result: Result, *keys: str) -> str | None:
    found = _last(result, *keys)
    return None if found is None else number(found)


def _share(result: Result, *keys: str) -> str | None:
    found = _last(result, *keys)
    return None if found is None else f"{found:.0%}"


_STYLE = """
.figures div { overflow-x: auto }
.figures th { width: auto; white-space: normal; vertical-align: bottom }
.figures :is(th, td):not(:first-child) { text-align: right }
.figures td:first-child { white-space: nowrap }
.figures ul { color: var(--soft); font-size: .85rem; padding-left: 1.1rem }
.strips p { color: var(--soft); margin: 0 0 .75rem }
.strips figure { margin-bottom: .5rem; overflow: hidden }
.strips figcaption { padding: .3rem .75rem }
.strips img { max-height: none; image-rendering: pixelated }
"""
