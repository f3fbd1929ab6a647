"""report.html: a run in one file that opens anywhere. Samples, curves, scores, settings, environment."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from vidiff.report.chart import Series, figure, number
from vidiff.report.log import Line, duration, read_metrics
from vidiff.report.page import (
    IMAGES,
    VIDEOS,
    folded,
    gallery,
    header,
    key_figures,
    media,
    page,
    paragraph,
    section,
    table,
)
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json

LARGEST = 8 << 20
"""Bytes of the largest sample that is put into the page."""

_STEP = re.compile(r"step-(\d+)-?(.*)")
_TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "clips_per_second": "Clips per second",
    "memory_gb": "Memory, GB",
    "data_wait": "Share of the time waiting for data",
}
_FIRST = ("loss", "grad_norm", "lr", "clips_per_second")
_NO_CURVE = ("step", "seconds", "skipped", "spike", "spike_loss", "clips")
_LAST = ("memory_gb", "data_wait")


def write_report(
    run: Path, title: str = "", samples: Iterable[Path] | None = None, further: Mapping[str, str] | None = None
) -> Path:
    """Writes `run`/report.html from what the run's folder holds, and returns its path.

    Args:
        run: a folder with metrics.jsonl and, where they exist, resolved.yaml or config.yaml, environment.json,
            scores.json, codec-kept.json with codec-worst.png, and samples/.
        samples: videos (.mp4, .webm) and images (.gif, .png, .jpg, .webp) to show, the newest last; by default a
            selection from samples/.
        further: sections above the scores: heading -> HTML; one without content is left out.

    Raises:
        ValueError: a file among `samples` that is neither.
    """
    run = Path(run)
    files = list((run / "samples").glob("*") if samples is None else samples)
    shown = [f for f in files if f.suffix.lower() in VIDEOS | IMAGES]
    if samples is not None and len(shown) < len(files):
        raise ValueError(f"a report shows {', '.join([*VIDEOS, *IMAGES])}; other files are in {files}")
    lines = read_metrics(run / "metrics.jsonl")
    name = title or run.resolve().name
    text = page(
        name,
        header(name, f"as of {time.strftime('%Y-%m-%d %H:%M')}"),
        _state(lines, training=not (run / "card.json").exists()),
        section("Samples", _samples(shown)),
        section("What the codec keeps", _kept(run)),
        *(section(heading, content) for heading, content in (further or {}).items()),
        section("Scores", table(_flat(_json(run / "scores.json")))),
        section("Curves", _curves(lines)),
        section("Losses that stood out", table(_spikes(lines))),
        section("Settings", _settings(run)),
        section("Environment", folded("environment.json", table(_flat(_json(run / "environment.json"))))),
    )
    file = run / "report.html"
    write_whole(file, text)
    return file


def _state(lines: list[Line], training: bool) -> str:
    """How far training has come."""
    logged = [line for line in lines if "loss" in line]
    if not logged:
        return paragraph("No step has been logged yet.") if training else ""
    last = logged[-1]
    figures = {
        "steps": f"{last['step']:,}",
        "training time": duration(float(last["seconds"] or 0)),
        "loss": number(float(last["loss"] or "nan")),
        "clips per second": number(statistics.median(_values(logged, "clips_per_second") or [0.0])),
        "GB of memory": number(max(_values(logged, "memory_gb") or [0.0])),
    }
    if last.get("skipped"):
        figures["steps skipped"] = f"{last['skipped']:,}"
    return key_figures(figures)


def _samples(files: Iterable[Path], most: int = 5) -> str:
    """The newest step's files large; of up to `most` earlier steps, evenly spaced, the first file small."""
    by_step: dict[int, list[Path]] = {}
    for file in sorted(files, key=lambda f: f.stem):
        step = _STEP.fullmatch(file.stem)
        by_step.setdefault(int(step[1]) if step else 0, []).append(file)
    if not by_step:
        return ""
    newest, *earlier = sorted(by_step, reverse=True)
    if len(earlier) > most:
        earlier = [earlier[round(n * (len(earlier) - 1) / (most - 1))] for n in range(most)]
    large = gallery("newest", (_sample(file, controls=True) for file in by_step[newest]))
    return large + gallery("earlier", (_sample(by_step[step][0]) for step in earlier))


def _kept(run: Path) -> str:
    """What the codec keeps of held-out clips, and the clip of which it keeps the least."""
    known = _json(run / "codec-kept.json").items()
    kept = {k: v for k, v in known if k not in ("codec", "held_out") and (k, v) != ("ceiling", None)}
    if not kept:
        return ""
    names = {
        "psnr": "PSNR, dB",
        "detail": "detail",
        "moving": "what moves",
        "share": "share of the pixels that move",
        "clips": "held-out clips",
    }
    classes = {f"what moves: {name}": share for name, share in (kept.pop("classes", None) or {}).items()}
    rows = {names.get(name, name): value for name, value in kept.items()} | classes
    worst = run / "codec-worst.png"
    caption = "the clip of whose motion it keeps the least: as it is, as it comes back, and 4 times the error"
    picture = gallery("worst", [media(worst.read_bytes(), ".png", caption)]) if worst.is_file() else ""
    return table(_flat(rows)) + picture


def _sample(file: Path, controls: bool = False) -> str:
    if file.stat().st_size > LARGEST:
        return f"<figure>{paragraph(f'{file} is too large for this page')}</figure>"
    step = _STEP.fullmatch(file.stem)
    caption = f"step {int(step[1]):,} {_words(step[2])}".strip() if step else file.stem
    return media(file.read_bytes(), file.suffix.lower(), caption, controls=controls)


def _curves(lines: list[Line]) -> str:
    """Charts of all metrics but the step and the clock; those that are alike share one."""
    names = [n for n in dict.fromkeys(n for line in lines for n in line) if n not in _NO_CURVE]
    charts: dict[str, list[str]] = {name: [] for name in _FIRST}
    for name in sorted(names, key=lambda n: n in _LAST):
        charts.setdefault(_chart_of(name), []).append(name)
    figures = []
    for chart, members in charts.items():
        series = [Series(_label(n, chart), points) for n in members if (points := _points(lines, n))]
        head, slash, by = chart.partition("/")
        heading = _TITLES.get(head, _words(head).capitalize()) + (f" by {_words(by or 'part')}" if slash else "")
        log_scale = "loss" in chart or chart in ("grad_norm", "lr")
        figures.append(figure(heading, series, log_scale, smooth=chart != "lr", last=True))
    return gallery("charts", figures)


def _spikes(lines: list[Line], most: int = 20) -> list[tuple[str, str, str]]:
    """Rows of the last steps that training flagged, with their clips."""
    return [
        (
            f"step {line['step']:,}",
            f"{number(line['spike_loss'])}, {number(line['spike'])} deviations above the median",
            ", ".join(line["clips"]),
        )
        for line in [line for line in lines if "spike" in line][-most:]
    ]


def _chart_of(name: str) -> str:
    """The chart of a metric: val/loss -> loss, loss/easy -> loss/, loss/t0 -> loss/t."""
    head, slash, part = name.removeprefix("val/").partition("/")
    return head + slash + (part.rstrip("0123456789") if part[-1:].isdigit() else "")


def _label(name: str, chart: str) -> str:
    part = name.removeprefix("val/").removeprefix(chart.partition("/")[0]).strip("/") or chart
    return ("validation " if name.startswith("val/") else "") + _words(part)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _points(lines: list[Line], name: str) -> list[tuple[float, float]]:
    return [(float(line["step"]), float(v)) for line in lines if (v := line.get(name)) is not None]


def _values(lines: list[Line], name: str) -> list[float]:
    return [value for _, value in _points(lines, name)]


def _json(file: Path) -> Any:
    if not file.exists():
        return {}
    try:
        return read_json(file) or {}
    except ValueError as error:  # say so on the page; a report does not end a training
        return {"unreadable": str(error)}


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as rows: {"a": {"b": 1}} -> [("a b", "1")]; none of nothing."""
    if isinstance(content, Mapping):
        return [row for k, v in content.items() for row in _flat(v, f"{prefix} {k}".strip())]
    if isinstance(content, list) and any(isinstance(v, Mapping | list) for v in content):
        return [row for n, v in enumerate(content, 1) for row in _flat(v, f"{prefix} {n}".strip())]
    if isinstance(content, list):
        return [(prefix, ", ".join(map(str, content)))]
    return [(prefix, number(content) if isinstance(content, float) else "none" if content is None else str(content))]


def _settings(run: Path) -> str:
    for name in ("resolved.yaml", "config.yaml"):
        if (run / name).exists():
            return folded(name, f"<pre>{escape((run / name).read_text())}</pre>")
    return ""
