"""A line chart as inline SVG: no script, no dependency; colours come from the page's CSS."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 24
MOST_POINTS = 400
COLOURS = 6  # classes s0 to s5 of the page
FARTHEST = 1e150  # from 0, on an axis; on a logarithmic one, from 1


@dataclass(frozen=True)
class Series:
    """A named line through (step, value) points, in order of steps."""

    name: str
    points: list[tuple[float, float]]


def line_chart(series: list[Series], log: bool = False, smooth: bool = True) -> str:
    """The series over common axes, as SVG; "" where there is nothing to draw.

    Args:
        log: the y axis is logarithmic. Values not above 0 are left out then, and those that are not finite always.
        smooth: a line of many points is drawn smoothed and, unless it has much company, faintly as it is.
    """
    shown = [Series(s.name, [p for p in s.points if _drawable(p[1], log)]) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return ""
    steps = [x for s in shown for x, _ in s.points]
    values = [y for s in shown for _, y in s.points]
    x_axis = _Axis(min(steps), max(steps), False, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(*_widened(min(values), max(values), log), log, HEIGHT - BOTTOM, TOP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(shown[0].name)} over steps">']
    for value in y_axis.ticks(5):
        y = y_axis(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_axis.ticks(6):
        x = x_axis(value)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{number(value)}</text>')
    for index, line in enumerate(shown):
        colour, noisy = f"s{index % COLOURS}", smooth and len(line.points) > 40
        if noisy and len(shown) <= 2:
            parts.append(_path(_thinned(line.points), x_axis, y_axis, f"line faint {colour}"))
        drawn = _thinned(_smoothed(line.points, log)) if noisy else _thinned(line.points)
        parts.append(_path(drawn, x_axis, y_axis, f"line {colour}"))
        step, value = line.points[-1]
        tip = f"<title>{escape(line.name)} at step {number(step)}: {number(value)}</title>"
        x, y = x_axis(drawn[-1][0]), y_axis(drawn[-1][1])
        parts.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{tip}</circle>')
    return "".join([*parts, "</svg>"])


def figure(heading: str, series: list[Series], log: bool = False, smooth: bool = False, last: bool = False) -> str:
    """A chart under a heading, with the lines' names and colours; "" where there is nothing to draw.

    Args:
        last: also tell each line's last value, and leave out the name of one that is alone.
    """
    chart = line_chart(series, log=log, smooth=smooth)
    key = []
    for index, line in enumerate(series):
        alone = last and len(series) == 1
        name = "" if alone else f'<i class="s{index % COLOURS}"></i>{escape(line.name)}'
        key.append(f"<span>{name}{'' if alone or not last else ' '}{number(line.points[-1][1]) if last else ''}</span>")
    named = f"<figcaption><b>{escape(heading)}</b>{''.join(key)}</figcaption>"
    return f'<figure class="chart">{named}{chart}</figure>' if chart else ""


def number(value: float) -> str:
    """Three digits or so: 1234567 -> "1.23M", 0.00032 -> "3.2e-4", 12.5 -> "12.5"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    for least, size, unit in ((999.5e6, 1e9, "G"), (999.5e3, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.3g}{unit}"
    if abs(value) >= 1e-3:
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


class _Axis:
    """Places values between two pixels; with `log`, by their logarithm."""

    def __init__(self, low: float, high: float, log: bool, start: float, end: float) -> None:
        self.low, self.high, self.log = low, high, log
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((at - low) / (high - low) if high > low else 0.5)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round numbers inside the axis."""
        if self.high <= self.low:
            return [self.low]
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for within in ((1, 2, 5), (1, 3), (1,)):
                every = [digit * 10.0**power for power in powers for digit in within]
                inside = [v for v in every if self.low <= v <= self.high]
                if len(inside) <= most + 1:
                    break
            if len(inside) > most + 1:
                inside = inside[:: math.ceil(len(inside) / most)]
            if len(inside) >= 3:
                return inside
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        size *= next(m for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
        first = math.ceil(self.low / size)
        return [float(f"{n * size:.12g}") for n in range(first, math.floor(self.high / size + 1e-9) + 1)]


def _drawable(value: float, log: bool) -> bool:
    return abs(value) <= FARTHEST and (value >= 1 / FARTHEST or not log)  # and so no NaN


def _widened(low: float, high: float, log: bool) -> tuple[float, float]:
    """A little room above and below, and some height for a flat line."""
    if log:
        room = max((high / low) ** 0.04, 1.05)
        return low / room, high * room
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MOST_POINTS of them: the lowest and highest of each stretch, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        low, high = min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def _smoothed(points: list[tuple[float, float]], log: bool) -> list[tuple[float, float]]:
    """A mean (on a log axis, of logarithms) over a thirtieth of the points, centred so that it does not lag."""
    sums = list(itertools.accumulate((math.log(y) if log else y for _, y in points), initial=0.0))
    half = max(2, len(points) // 60)
    smooth = []
    for index, (step, _) in enumerate(points):
        first, end = max(0, index - half), min(len(points), index + half + 1)
        mean = (sums[end] - sums[first]) / (end - first)
        smooth.append((step, math.exp(mean) if log else mean))
    return smooth


def _path(points: list[tuple[float, float]], x_axis: _Axis, y_axis: _Axis, kind: str) -> str:
    corners = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{corners}"/>'
