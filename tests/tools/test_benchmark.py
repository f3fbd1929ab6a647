"""`tools/benchmark.py` compares networks of equal size: the search that finds one."""

from __future__ import annotations

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
