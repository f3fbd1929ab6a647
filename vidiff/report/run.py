"""report.html: a run in one file that opens anywhere. Samples, curves, scores, settings, environment."""

from __future__ import annotations

import base64
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from vidiff.engine import log
from vidiff.report.chart import COLOURS, Series, line_chart, number
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json

LARGEST = 8 << 20
"""Bytes of the largest sample that is put into the page."""

_VIDEO = {".mp4": "video/mp4", ".webm": "video/webm"}
_IMAGE = {".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
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
    run: Path, title: str = "", media: Iterable[Path] | None = None, further: Mapping[str, str] | None = None
) -> Path:
    """Writes `run`/report.html from what the run's folder holds, and returns its path.

    run    a folder with metrics.jsonl and, where they exist, resolved.yaml or config.yaml, environment.json,
           scores.json and samples/
    media  videos (.mp4, .webm) and images (.gif, .png, .jpg, .webp) to show, the newest last; by default a selection
           from samples/
    further  sections above the scores: heading -> HTML; one without content is left out
    """
    run = Path(run)
    files = list((run / "samples").glob("*") if media is None else media)
    shown = [f for f in files if f.suffix.lower() in _VIDEO | _IMAGE]
    if media is not None and len(shown) < len(files):
        raise ValueError(f"a report shows {', '.join([*_VIDEO, *_IMAGE])}; other files are in {files}")
    lines = log.read_metrics(run / "metrics.jsonl")
    name = title or run.resolve().name
    sections = [
        _header(name, lines, training=not (run / "card.json").exists()),
        _samples(shown),
        *(_section(heading, content) for heading, content in (further or {}).items()),
        _section("Scores", _table(_json(run / "scores.json"))),
        _curves(lines),
        _section("Losses that stood out", _spikes(lines)),
        _section("Settings", _settings(run)),
        _section("Environment", _folded("environment.json", _table(_json(run / "environment.json")))),
    ]
    file = run / "report.html"
    write_whole(file, page(name, "\n".join(filter(None, sections))))
    return file


def page(title: str, body: str) -> str:
    """A whole HTML page in the style of all reports; `body` is HTML."""
    return _PAGE.format(title=escape(title), style=_STYLE, body=body)


def _header(name: str, lines: list[log.Line], training: bool) -> str:
    told = f"<header><h1>{escape(name)}</h1><p>as of {time.strftime('%Y-%m-%d %H:%M')}</p></header>"
    logged = [line for line in lines if "loss" in line]
    if not logged:
        return told + ("<p>No step has been logged yet.</p>" if training else "")
    last = logged[-1]
    tiles = {
        "steps": f"{last['step']:,}",
        "training time": log.duration(float(last["seconds"] or 0)),
        "loss": number(float(last["loss"] or "nan")),
        "clips per second": number(statistics.median(_values(logged, "clips_per_second") or [0.0])),
        "GB of memory": number(max(_values(logged, "memory_gb") or [0.0])),
    }
    if last.get("skipped"):
        tiles["steps skipped"] = f"{last['skipped']:,}"
    shown = (f"<div><b>{value}</b><span>{escape(label)}</span></div>" for label, value in tiles.items())
    return f'{told}<section class="tiles">{"".join(shown)}</section>'


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
    large = "".join(_figure(file, "controls") for file in by_step[newest])
    small = "".join(_figure(by_step[step][0]) for step in earlier)
    small = f'<div class="earlier">{small}</div>' if small else ""
    return _section("Samples", f'<div class="newest">{large}</div>{small}')


def _figure(file: Path, controls: str = "") -> str:
    kind = file.suffix.lower()
    step = _STEP.fullmatch(file.stem)
    label = escape(f"step {int(step[1]):,} {_words(step[2])}".strip() if step else file.stem)
    if file.stat().st_size > LARGEST:
        return f"<figure><p>{escape(str(file))} is too large for this page</p></figure>"
    data = base64.b64encode(file.read_bytes()).decode()
    if kind in _VIDEO:
        source = f"data:{_VIDEO[kind]};base64,{data}"
        shown = f'<video autoplay loop muted playsinline {controls} src="{source}"></video>'
    else:
        shown = f'<img alt="{label}" src="data:{_IMAGE[kind]};base64,{data}">'
    return f"<figure>{shown}<figcaption>{label}</figcaption></figure>"


def _curves(lines: list[log.Line]) -> str:
    """Charts of all metrics but the step and the clock; those that are alike share one."""
    names = [n for n in dict.fromkeys(n for line in lines for n in line) if n not in _NO_CURVE]
    groups: dict[str, list[str]] = {name: [] for name in _FIRST}
    for name in sorted(names, key=lambda n: n in _LAST):
        groups.setdefault(_chart_of(name), []).append(name)
    charts = []
    for group, members in groups.items():
        series = [Series(_label(n, group), points) for n in members if (points := _points(lines, n))]
        chart = line_chart(series, log="loss" in group or group in ("grad_norm", "lr"), smooth=group != "lr")
        if not chart:
            continue
        key = "".join(
            (f'<span><i class="s{place % COLOURS}"></i>{escape(one.name)} ' if len(series) > 1 else "<span>")
            + f"{number(one.points[-1][1])}</span>"
            for place, one in enumerate(series)
        )
        head, slash, by = group.partition("/")
        heading = _TITLES.get(head, _words(head).capitalize()) + (f" by {_words(by or 'part')}" if slash else "")
        charts.append(f'<figure class="chart"><figcaption><b>{heading}</b>{key}</figcaption>{chart}</figure>')
    return _section("Curves", f'<div class="charts">{"".join(charts)}</div>' if charts else "")


def _spikes(lines: list[log.Line], most: int = 20) -> str:
    """The last of the steps that training flagged, with their clips."""
    rows = "".join(
        f"<tr><th>step {line['step']:,}</th><td>{number(line['spike_loss'])}, {number(line['spike'])} deviations above "
        f"the median</td><td>{escape(', '.join(line['clips']))}</td></tr>"
        for line in [line for line in lines if "spike" in line][-most:]
    )
    return f"<table>{rows}</table>" if rows else ""


def _chart_of(name: str) -> str:
    """The chart of a metric: val/loss -> loss, loss/easy -> loss/, loss/t0 -> loss/t."""
    head, slash, part = name.removeprefix("val/").partition("/")
    return head + slash + (part.rstrip("0123456789") if part[-1:].isdigit() else "")


def _label(name: str, group: str) -> str:
    part = name.removeprefix("val/").removeprefix(group.partition("/")[0]).strip("/") or group
    return ("validation " if name.startswith("val/") else "") + part.replace("_", " ")


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _points(lines: list[log.Line], name: str) -> list[tuple[float, float]]:
    return [(float(line["step"]), float(v)) for line in lines if (v := line.get(name)) is not None]


def _values(lines: list[log.Line], name: str) -> list[float]:
    return [value for _, value in _points(lines, name)]


def _json(file: Path) -> Any:
    if not file.exists():
        return None
    try:
        return read_json(file)
    except ValueError as error:  # say so on the page; a report does not end a training
        return {"unreadable": str(error)}


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def _folded(name: str, content: str) -> str:
    return f"<details><summary>{escape(name)}</summary>{content}</details>" if content else ""


def _table(content: Any) -> str:
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in _flat(content or {}))
    return f"<table>{rows}</table>" if rows else ""


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested records as rows: {"a": {"b": 1}} -> [("a b", "1")]."""
    if isinstance(content, Mapping):
        return [row for k, v in content.items() for row in _flat(v, f"{prefix} {k}".strip())]
    if isinstance(content, list) and any(isinstance(v, Mapping | list) for v in content):
        return [row for n, v in enumerate(content, 1) for row in _flat(v, f"{prefix} {n}".strip())]
    if isinstance(content, list):
        return [(prefix, ", ".join(map(str, content)))]
    return [
        (
            prefix,
            number(content) if isinstance(content, float) else "none" if content is None else str(content),
        )
    ]


def _settings(run: Path) -> str:
    for name in ("resolved.yaml", "config.yaml"):
        if (run / name).exists():
            return _folded(name, f"<pre>{escape((run / name).read_text())}</pre>")
    return ""


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1f2328; --soft: #6b7280;
  --rule: #e5e5e0; --s0: #2f6fde; --s1: #d9730d; --s2: #2a9d6f; --s3: #b0459a;
  --s4: #0e8fa8; --s5: #8a7a10 }
@media (prefers-color-scheme: dark) { :root {
  --page: #15171a; --card: #1e2125; --ink: #e6e6e3; --soft: #9aa0a8; --rule: #32363c;
  --s0: #7aa8ff; --s1: #ffa657; --s2: #6fd3a7; --s3: #e08ad0;
  --s4: #67cfe3; --s5: #d6c65a } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.1rem }
header p, .tiles span, figcaption, th, summary { color: var(--soft) }
header p { margin: 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin-top: 1.25rem }
.tiles div, figure, table, details { background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px }
.tiles div { padding: .75rem 1rem }
.tiles b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25 }
.tiles span { font-size: .85rem }
figure { margin: 0 }
figcaption { font-size: .85rem }
.newest { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .75rem }
.earlier { display: grid; grid-template-columns: repeat(5, 1fr); gap: .75rem; margin-top: .75rem }
.newest figure, .earlier figure { overflow: hidden; align-self: start }
:is(video, img) { display: block; width: 100%; max-height: 34rem; object-fit: contain; background: #0001 }
.newest :is(figcaption, p), .earlier :is(figcaption, p) { padding: .4rem .75rem; margin: 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .75rem }
.chart { padding: .75rem .75rem .25rem }
.chart figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0 .25rem .35rem }
.chart figcaption b { color: var(--ink); font-weight: 600; margin-right: auto }
.chart i { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .4em;
  background: var(--color) }
.chart svg { display: block; width: 100%; height: auto }
.s0 { --color: var(--s0) } .s1 { --color: var(--s1) } .s2 { --color: var(--s2) } .s3 { --color: var(--s3) }
.s4 { --color: var(--s4) } .s5 { --color: var(--s5) }
.line { fill: none; stroke: var(--color); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.faint { stroke-width: 1; opacity: .35 }
.dot { fill: var(--color) }
.grid { stroke: var(--rule); stroke-width: 1 }
.tick { fill: var(--soft); font-size: 11px }
table { border-collapse: separate; border-spacing: 0; width: 100%; overflow: hidden; font-size: .9rem }
th { text-align: left; font-weight: 400; width: 18rem; white-space: nowrap }
th, td { padding: .35rem 1rem; border-top: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere }
tr:first-child > * { border-top: 0 }
details { padding: .6rem 1rem }
details table { border: 0; margin-top: .5rem }
summary { cursor: pointer }
pre { margin: .75rem 0 .25rem; overflow-x: auto; font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace }
@media (max-width: 40rem) {
  .earlier { grid-template-columns: 1fr 1fr }
  th { width: auto; white-space: normal }
}
"""
