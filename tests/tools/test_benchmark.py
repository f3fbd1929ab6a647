"""`tools/benchmark.py` compares networks of equal size: the search that finds one."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from vidiff.nn.unet import UNet

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(TOOLS))  # it imports a file beside it
    return runpy.run_path(str(TOOLS / "benchmark.py"))


@pytest.mark.parametrize(
    ("size", "multipliers", "width"),
    [
        (10_592_788, [1, 2, 4], 68),  # video-diffusion-pytorch 0.7.0's Unet3D(dim=64), as `make bench` builds it
        (35_709_460, [1, 2, 4, 8], 66),  # the same with its default multipliers
        (156_200_000, [1, 2, 4], 264),  # nearest is 262, of which 2 is the only even divisor up to 64
    ],
)
def test_a_width_is_found_whose_network_can_be_built(
    benchmark: dict[str, Any], size: int, multipliers: list[int], width: int
) -> None:
    assert benchmark["matching_width"](size, multipliers) == width
    with torch.device("meta"):
        parameters = sum(p.numel() for p in UNet(benchmark["config"](width, multipliers)).parameters())
    assert parameters == pytest.approx(size, rel=benchmark["TOLERANCE"]) and benchmark["TOLERANCE"] <= 0.05


def test_where_no_width_fits_the_command_says_so(benchmark: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no width gives \[1, 2, 4\] levels 10 parameters: choose another --dim"):
        benchmark["matching_width"](10, [1, 2, 4])


def test_a_stream_is_timed_against_windows(benchmark: dict[str, Any], tmp_path: Path, capsys) -> None:
    """On a small network: every way has its row, and what is kept is as much at frame 2,000 as at frame 50."""
    shape = "{width: 8, multipliers: [1], blocks: [1], joint_attention: [], temporal_attention: [0], head_dim: 8}"
    config = tmp_path / "small.yaml"
    config.write_text(
        f"base: {TOOLS.parent / 'configs' / 'shapes.yaml'}\nname: small\nunet: {shape}\n"
        "data: {frames: 6}\nsampling: {context: 3}\n"
    )
    out = tmp_path / "found.json"
    arguments = ["stream", "--config", str(config), "--frames", "4", "--steps", "2", "--json", str(out)]
    assert benchmark["main"](arguments) == 0
    found = json.loads(out.read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == [
        *("clean, context 3", "stream, context 3, chunk 1", "stream, context 3, chunk 2"),
        *("clean, context 4", "stream, context 4, chunk 1", "stream, context 4, chunk 2"),
        *("clean, context 5", "stream, context 5, chunk 1"),
    ]
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert found["bytes"]["50"] == found["bytes"]["2000"] > 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
