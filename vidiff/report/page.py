"""A self-contained HTML page: one stylesheet, and the parts that all pages are put together from.

Arguments called `content`, and what the functions return, are HTML; all other text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
IMAGES = {".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


def page(title: str, *content: str) -> str:
    """A whole page that needs no other file; parts without content are left out."""
    body = "\n".join(filter(None, content))
    return _PAGE.format(title=escape(title), style=STYLE, body=body)


def header(title: str, note: str = "") -> str:
    """The page's heading, and beside it a line about it."""
    return f"<header><h1>{escape(title)}</h1>{paragraph(note)}</header>"


def paragraph(text: str) -> str:
    """A paragraph; "" without text."""
    return f"<p>{escape(text)}</p>" if text else ""


def key_figures(values: Mapping[str, str]) -> str:
    """The few figures to see first, large, by what they are."""
    shown = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values.items())
    return f'<section class="tiles">{"".join(shown)}</section>'


def section(heading: str, content: str) -> str:
    """Content under a heading; "" without content."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def folded(summary: str, content: str, count: int | None = None, note: str = "") -> str:
    """Content behind a line that opens it, with a count before the line and a note after it; "" without content."""
    number = f"<b>{count}</b> " if count is not None else ""
    line = f"{number}{escape(summary)}" + (f" <i>{escape(note)}</i>" if note else "")
    return f"<details><summary>{line}</summary>{content}</details>" if content else ""


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), kind: str = "", marks: Sequence[str] = ()) -> str:
    """Rows of text, each with its name first; "" without rows.

    Args:
        rows: of cells.
        head: the columns' names.
        kind: "figures" for numbers, aligned on the right; "list" for long texts in small print; "" for other values.
        marks: for each row "bad", to be seen at once, or "".
    """
    body = "".join(
        f"<tr{f' class={mark!r}' if mark else ''}><th>{escape(name)}</th>{_cells(cells)}</tr>"
        for (name, *cells), mark in zip(rows, marks or [""] * len(rows), strict=True)
    )
    above = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in head)}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="{kind}">{above}<tbody>{body}</tbody></table></div>' if body else ""


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in cells)


def bullet_list(texts: Iterable[str] | Mapping[str, str]) -> str:
    """A list of texts, or of terms in bold with what they mean; "" without any."""
    pairs = texts.items() if isinstance(texts, Mapping) else (("", text) for text in texts)
    lines = "".join(f"<li>{f'<b>{escape(term)}</b> ' if term else ''}{escape(text)}</li>" for term, text in pairs)
    return f"<ul>{lines}</ul>" if lines else ""


def numbered_list(texts: Iterable[str]) -> str:
    """A list of texts with their numbers from 1 on; "" without any."""
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ol>{lines}</ol>" if lines else ""


def columns(content: Mapping[str, str]) -> str:
    """Small parts side by side, each under its heading."""
    return f'<div class="side">{"".join(f"<div><h3>{escape(k)}</h3>{v}</div>" for k, v in content.items())}</div>'


def gallery(kind: str, content: Iterable[str]) -> str:
    """Figures that are laid out together; "" where there is none.

    Args:
        kind: "charts"; "newest" and "earlier" for samples; "strips" for wide pictures, "strips sheet" for small ones.
    """
    figures = "".join(content)
    return f'<div class="{kind}">{figures}</div>' if figures else ""


def media(data: bytes, suffix: str, caption: str, content: str = "", controls: bool = False) -> str:
    """A figure of a video or picture, with the file's bytes in the page.

    Args:
        suffix: of the file's name, one of VIDEOS and IMAGES.
        content: what stands below the caption.
        controls: whether a video can be stopped.
    """
    encoded, label = base64.b64encode(data).decode(), escape(caption)
    if suffix in VIDEOS:
        attributes = "autoplay loop muted playsinline" + " controls" * controls
        shown = f'<video {attributes} src="data:{VIDEOS[suffix]};base64,{encoded}"></video>'
    else:
        shown = f'<img alt="{label}" src="data:{IMAGES[suffix]};base64,{encoded}">'
    return f"<figure>{shown}<figcaption>{label}</figcaption>{content}</figure>"


def scale(value: float, low: float, high: float) -> str:
    """A share with its interval on a line from 0 to 1, as SVG."""
    start, end, at = (10 + 380 * share for share in (low, high, value))
    return (
        '<svg class="scale" viewBox="0 0 400 40" role="img" aria-label="the rate and its interval, from 0 to 100 %">'
        '<line class="grid" x1="10" x2="390" y1="20" y2="20"/><line class="grid" x1="200" x2="200" y1="8" y2="32"/>'
        f'<line class="span s0" x1="{start:.1f}" x2="{end:.1f}" y1="20" y2="20"/>'
        f'<circle class="dot s0" cx="{at:.1f}" cy="20" r="6"/></svg>'
    )


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

STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1f2328; --soft: #6b7280;
  --rule: #e5e5e0; --s0: #2f6fde; --s1: #d9730d; --s2: #2a9d6f; --s3: #b0459a;
  --s4: #0e8fa8; --s5: #8a7a10; --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root {
  --page: #15171a; --card: #1e2125; --ink: #e6e6e3; --soft: #9aa0a8; --rule: #32363c;
  --s0: #7aa8ff; --s1: #ffa657; --s2: #6fd3a7; --s3: #e08ad0;
  --s4: #67cfe3; --s5: #d6c65a; --bad: #ff8f80 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.1rem }
header p, .tiles span, figcaption, th, summary, section p, ul, ol, h3 { color: var(--soft) }
header p { margin: 0 }
section > p { margin: 0 0 .75rem }
section > ul { font-size: .85rem; padding-left: 1.1rem }
h3 { margin: 0; font-size: .9rem; font-weight: 400 }
summary:has(i) { color: var(--ink) }
summary i { color: var(--soft); font-style: normal }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin-top: 1.25rem }
.tiles div, figure, details, .side > div { background: var(--card); border: 1px solid var(--rule);
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
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .75rem }
.side > div { padding: .6rem 1rem }
.side :is(th, td) { padding: .25rem 0 }
.strips figure { overflow: hidden }
.strips figure + figure { margin-top: .5rem }
.strips img { max-height: none; image-rendering: pixelated }
.sheet img { width: auto; max-width: 100% }
.strips :is(figcaption, ol) { font-size: .8rem; margin: 0; padding: .4rem .75rem }
.strips ol { columns: 2; padding-left: 2.5rem }
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
.scale { display: block; width: 100%; max-width: 40rem }
.span { stroke: var(--color); stroke-width: 6; stroke-linecap: round; opacity: .5 }
.tick { fill: var(--soft); font-size: 11px }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 10px }
.wide + .wide, .charts + .wide, details + details, .newest + .earlier { margin-top: .75rem }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem }
th { text-align: left; font-weight: 400; width: 18rem; white-space: nowrap }
th, td { padding: .35rem 1rem; border-top: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere }
:is(thead, tbody:first-child) tr:first-child > * { border-top: 0 }
.figures thead th { width: auto; white-space: normal; vertical-align: bottom }
.figures :is(th, td):not(:first-child) { text-align: right }
.figures tbody th { width: auto; color: var(--ink) }
.list { font-size: .85rem }
.list :is(th, td) { padding: .25rem .5rem; width: auto; white-space: normal }
.list tbody th { color: var(--ink) }
.bad td:first-of-type { color: var(--bad) }
details { padding: .6rem 1rem }
details .wide, .side .wide { border: 0; border-radius: 0; margin-top: .4rem }
summary { cursor: pointer }
pre { margin: .75rem 0 .25rem; overflow-x: auto; font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace }
@media (max-width: 40rem) {
  .earlier { grid-template-columns: 1fr 1fr }
  th { width: auto; white-space: normal }
}
"""
"""The stylesheet of every page."""
