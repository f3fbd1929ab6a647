"""The doctor's page: one HTML file that opens anywhere, and the sheet of thumbnails in it."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch

from vidiff.data.doctor.examine import NOTES, PROBLEMS
from vidiff.data.doctor.record import Record
from vidiff.video.reader import to_float
from vidiff.video.writer import sheet, write_image

MOST = 2000  # rows of the table of all files; index.jsonl has every one


def write_sheet(file: Path, thumbnails: Iterable[np.ndarray]) -> Path:
    """A picture with a row for each file: its frames, uint8 `(f, h, w, 3)` each, side by side."""
    rows = [sheet(to_float(frames)) for frames in thumbnails]
    write_image(file, torch.cat(rows, dim=1))
    return file


def write_page(file: Path, root: Path, records: Sequence[Record], shown: Sequence[str], picture: Path | None) -> Path:
    """The page of a scan.

    Args:
        shown: paths of the files in the sheet, row by row.
        picture: the sheet, if any file could be shown.
    """
    broken = [record for record in records if not record.readable]
    kept = [record for record in records if record.readable]
    tiles = {
        "files": f"{len(records):,}",
        "readable": f"{len(kept):,}",
        "left out": f"{len(broken):,}",
        "hours": f"{sum(record.duration for record in kept) / 3600:.2f}",
        "frames": f"{sum(record.frames for record in kept):,}",
    }
    body = [
        f"<header><h1>{escape(root.resolve().name)}</h1><p>{escape(str(root.resolve()))}</p></header>",
        "<section class='tiles'>"
        + "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles.items())
        + "</section>",
        _problems(broken),
        _notes(kept),
        _kinds(kept),
        _thumbnails(shown, picture),
        _files(records),
    ]
    file.write_text(_PAGE.format(title=escape(root.resolve().name), body="\n".join(filter(None, body))))
    return file


def _problems(broken: Sequence[Record]) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in broken:
        groups[record.problem].append(record)
    parts = []
    for problem, records in sorted(groups.items(), key=lambda item: -len(item[1])):
        title, advice = PROBLEMS[problem]
        rows = "".join(f"<tr><td>{escape(r.path)}</td><td>{escape(r.reason)}</td></tr>" for r in records[:MOST])
        parts.append(
            f"<details><summary><b>{len(records)}</b> {escape(title)} <i>{escape(advice)}</i></summary>"
            f"<table>{rows}</table></details>"
        )
    return _section("Left out", "".join(parts) or "<p>Nothing: every file can be read.</p>")


def _notes(kept: Sequence[Record]) -> str:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in kept:
        for note in record.notes:
            kind, _, detail = note.partition(": ")
            groups[kind].append((record.path, detail))
    parts = []
    for kind, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
        told = "".join(f"<tr><td>{escape(path)}</td><td>{escape(detail)}</td></tr>" for path, detail in rows[:MOST])
        parts.append(
            f"<details><summary><b>{len(rows)}</b> {escape(kind)} <i>{escape(NOTES[kind])}</i></summary>"
            f"<table>{told}</table></details>"
        )
    return _section("Kept, but worth knowing", "".join(parts))


def _kinds(kept: Sequence[Record]) -> str:
    """How many files there are of each size, rate, codec and length."""
    columns: dict[str, Callable[[Record], str]] = {
        "size": lambda r: f"{r.width}x{r.height}",
        "frames a second": lambda r: f"{r.fps:g}",
        "codec": lambda r: " ".join(filter(None, [r.codec, r.pixel_format])),
        "frames": lambda r: f"{1 << (r.frames.bit_length() - 1)} to {(1 << r.frames.bit_length()) - 1}",
    }
    tables = []
    for title, kind in columns.items():
        counts = Counter(map(kind, kept)).most_common(12)
        rows = "".join(f"<tr><td>{escape(name)}</td><td class='n'>{count:,}</td></tr>" for name, count in counts)
        tables.append(f"<div><h3>{title}</h3><table>{rows}</table></div>")
    return _section("What there is", f"<div class='side'>{''.join(tables)}</div>") if kept else ""


def _thumbnails(shown: Sequence[str], picture: Path | None) -> str:
    if picture is None:
        return ""
    data = base64.b64encode(picture.read_bytes()).decode()
    names = "".join(f"<li>{escape(name)}</li>" for name in shown)
    figure = f"<img alt='rows of frames' src='data:image/png;base64,{data}'><ol>{names}</ol>"
    return _section("What a model sees", f"<figure>{figure}</figure>")


def _files(records: Sequence[Record]) -> str:
    heads = ("file", "", "frames", "a second", "size", "codec", "pixels", "turned", "key frames", "seconds")
    rows = []
    for r in records[:MOST]:
        spacing = f"{r.key_frames}, every {r.key_spacing}" if r.key_frames else ""
        state = r.reason if not r.readable else "; ".join(note.partition(":")[0] for note in r.notes)
        cells = [r.path, state]
        if r.readable:
            turned = f"{r.rotation}°" if r.rotation else ""
            size = f"{r.width}x{r.height}"
            cells += [str(r.frames), f"{r.fps:g}", size, r.codec, r.pixel_format, turned, spacing, f"{r.duration:.2f}"]
        told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr class='{'ok' if r.readable else 'bad'}'>{told}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    more = f"<p>The first {MOST:,} of {len(records):,}; index.jsonl has all.</p>" if len(records) > MOST else ""
    return _section(
        "Files",
        f"<details><summary>{len(rows)} rows</summary><table><tr>{head}</tr>{''.join(rows)}</table>{more}</details>",
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>" if content else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: what the doctor found</title>
<style>
:root {{ color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1f2328; --soft: #6b7280; --rule: #e5e5e0;
  --bad: #b42318 }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #15171a; --card: #1e2125; --ink: #e6e6e3; --soft: #9aa0a8;
  --rule: #32363c; --bad: #ff8f80 }} }}
body {{ margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums }}
h1 {{ margin: 0; font-size: 1.75rem }} h2 {{ margin: 2.25rem 0 .75rem; font-size: 1.1rem }}
h3 {{ margin: 0 0 .4rem; font-size: .9rem; color: var(--soft); font-weight: 400 }}
header p, .tiles span, summary i, th {{ color: var(--soft); font-style: normal; margin: 0 }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin-top: 1.25rem }}
.tiles div, details, figure, .side > div {{ background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; padding: .6rem 1rem; margin: 0 0 .5rem }}
.tiles b {{ display: block; font-size: 1.45rem; font-weight: 600 }}
.side {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .75rem }}
details {{ overflow-x: auto }} summary {{ cursor: pointer }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; margin-top: .4rem }}
th {{ text-align: left; font-weight: 400 }}
td, th {{ padding: .25rem .5rem; border-top: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere }}
.n {{ text-align: right }} .bad td:nth-child(2) {{ color: var(--bad) }}
img {{ max-width: 100%; image-rendering: pixelated }}
ol {{ color: var(--soft); font-size: .8rem; columns: 2 }}
</style></head>
<body>
{body}
</body></html>
"""
