from __future__ import annotations

import base64
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vidiff.report.chart import FARTHEST, Series, line_chart, number
from vidiff.report.log import append_metrics
from vidiff.report.run import write_report

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


class Outline(HTMLParser):
    """Checks that tags close in order, and notes what a page holds."""

    void = frozenset({"meta", "img", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.void or self.open.pop() == tag


def make_run(run: Path) -> None:
    (run / "samples").mkdir(parents=True)
    for step in range(1, 501):
        loss = math.nan if step == 250 else 10 / step
        append_metrics(
            run / "metrics.jsonl",
            {"step": step, "seconds": step * 2.0, "loss": loss, "grad_norm": 1.0, "lr": 1e-3, "clips_per_second": 20.0}
            | {"memory_gb": 1.5, "skipped": 1},
        )
    append_metrics(run / "metrics.jsonl", {"step": 500, "val/loss": 0.04})
    (run / "scores.json").write_text(json.dumps({"oracle": {"right": 0.93, "labels": ["a", "b"]}}))
    (run / "resolved.yaml").write_text("name: <script>alert(1)</script>\n")


def test_a_report_stands_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    for step in range(100, 1000, 100):
        (run / "samples" / f"step-{step:07d}.png").write_bytes(PNG)
    (run / "samples" / "step-0000900-extended.mp4").write_bytes(b"not shown here")
    text = write_report(run, "a <b> & c").read_text()
    outline = Outline(text)
    assert all(source.startswith("data:") for source in outline.sources)
    assert "<script>" not in text
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    assert base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", text)[0]) == PNG
    captions = re.findall(r"<figcaption>([^<]+)</figcaption>", text)
    assert captions == [f"step {s}" for s in ("900", "900 extended", "800", "600", "400", "300", "100")]
    assert outline.tags.count("video") == 1
    assert outline.tags.count("svg") == 5
    assert "<b>16:40</b><span>training time</span>" in text
    assert re.search(r"<b>500</b><span>steps</span>.*<b>0.02</b><span>loss</span>", text)
    assert "<tr><th>oracle right</th><td>0.93</td></tr><tr><th>oracle labels</th><td>a, b</td></tr>" in text
    assert "validation loss 0.04" in text


def test_an_empty_run_and_a_broken_score(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("{")
    text = write_report(tmp_path).read_text()
    Outline(text)
    assert "No step has been logged yet" in text
    assert "unreadable" in text


def test_metrics_that_are_alike_share_a_chart(tmp_path: Path) -> None:
    for step in (1, 2):
        line = {
            "step": step,
            "seconds": 1.0,
            "loss": 2.0,
            "skipped": 0,
            "data_wait": 0.1,
            "memory_gb": 1,
            "depth_mm": 3,
        }
        parts = {"loss/t0": 0.5, "loss/t11": 0.6, "loss/first": 0.7, "loss/random": 0.8, "val/loss": 0.9, "val/fvd": 9}
        append_metrics(tmp_path / "metrics.jsonl", line | parts)
    text = write_report(tmp_path).read_text()
    charts = re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figcaption>", text)
    assert [(title, re.sub("(<.*?>)+", "|", key)) for title, key in charts] == [
        ("Loss", "|loss 2|validation loss 0.9|"),
        ("Depth mm", "|3|"),
        ("Loss by t", "|t0 0.5|t11 0.6|"),
        ("Loss by part", "|first 0.7|random 0.8|"),
        ("Fvd", "|9|"),
        ("Share of the time waiting for data", "|0.1|"),
        ("Memory, GB", "|1|"),
    ]


def test_given_media(tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(PNG)
    text = write_report(tmp_path, samples=[tmp_path / "grid.png"]).read_text()
    assert "<figcaption>grid</figcaption>" in text
    with pytest.raises(ValueError, match=r"notes.txt"):
        write_report(tmp_path, samples=[tmp_path / "notes.txt"])


def places(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]+)"', svg)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]


def test_a_log_axis_makes_a_geometric_series_straight() -> None:
    (line,) = places(line_chart([Series("loss", [(n, 2.0**-n) for n in range(10)])], log=True))
    rises = {round(b[1] - a[1], 0) for a, b in itertools.pairwise(line)}
    assert len(rises) == 1
    assert rises.pop() > 0  # smaller is lower on the page


def test_thinning_keeps_the_peak_and_points_that_cannot_be_drawn_are_left_out() -> None:
    points = [(float(n), 1000.0 if n == 12_345 else 1.0) for n in range(20_000)]
    points[7] = (7.0, math.inf)
    faint, smooth = places(line_chart([Series("x", points)]))
    assert len(faint) <= 420
    assert len(smooth) <= 420
    assert min(y for _, y in faint) < 25
    assert line_chart([Series("x", [(1, 0.0), (2, -1.0)])], log=True) == ""
    assert "polyline" in line_chart([Series("x", [(1, 0.0), (2, 0.0)])])


def test_numbers() -> None:
    values = (0, 1234567, 12345, 1500, 12.5, 0.0123456, 3.2e-4, -2.0, math.nan)
    assert [number(v) for v in values] == ["0", "1.23M", "12.3k", "1,500", "12.5", "0.0123", "3.2e-4", "-2", "nan"]
    rounded = (999.4, 999.7, -999.7, 9999.7, 999_400.0, 999_700.0, 999.7e6, 0.00099999)
    assert [number(v) for v in rounded] == ["999", "1,000", "-1,000", "10,000", "999k", "1M", "1G", "1e-3"]


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [1e-12, 1e-12],
        [0.0, 1e-12, 3e-15],
        [1e-300, 1e300],
        [5e-324, 1e-323],
        [-1.7e308, 1.7e308],
        [float("nan"), float("inf"), -float("inf")],
        [1e-9, 1.0000001e-9, 1e12],
    ],
    ids=str,
)
def test_any_number_can_be_drawn_or_is_left_out(values: list[float], log: bool) -> None:
    drawn = line_chart([Series("lr", list(enumerate(values)))], log=log)
    if any(abs(value) <= FARTHEST and (not log or value >= 1 / FARTHEST) for value in values):
        assert drawn.startswith("<svg") and "nan" not in drawn and "inf" not in drawn
        assert re.findall(r'class="grid" x1="\d+" x2="\d+" y1="([\d.]+)"', drawn), "lines of the axis, within it"
    else:
        assert drawn == ""
