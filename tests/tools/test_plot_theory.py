from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("matplotlib")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "plot_theory.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plot_theory", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["DDIM", "Heun", "DPM-Solver++(2M)", "UniPC-3, predictor", "UniPC-3"])
def test_w2_falls_at_the_sampler_s_order(name: str, tool: ModuleType) -> None:
    sampler, order = tool.SAMPLERS[name]
    steps = (200, 400)  # where UniPC-3 has reached its order
    coarse, fine = (tool.w2(sampler, count, count=40) for count in steps)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_it_writes_a_picture_and_refuses_too_few_steps(tool: ModuleType, tmp_path: Path, capsys) -> None:
    out = tmp_path / "w2.png"
    assert tool.main(["--out", str(out), "--most", "20"]) == 0 and out.read_bytes().startswith(b"\x89PNG")
    assert tool.main(["--most", "5"]) == 2
    assert "give 20 or more" in capsys.readouterr().err
