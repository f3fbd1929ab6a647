"""tools/plan.py, as a user runs it."""

from __future__ import annotations

import json
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["unet.width=32", "unet.blocks=[1,1]", "unet.head_dim=16", "batch=8", "data.frames=4", "sampling.context=1"]


@pytest.fixture
def plan() -> Callable[..., int]:
    main = runpy.run_path(str(ROOT / "tools" / "plan.py"))["main"]
    return lambda *arguments: main([str(ROOT / "configs" / "shapes.yaml"), *SMALL, *arguments])


def test_a_plan_and_its_numbers(plan: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert plan("--gpus", "2", "--gpu", "h100", "--price", "2.5", "--json", str(out)) == 0
    said, facts = capsys.readouterr().out, json.loads(out.read_text())
    assert facts["proposal"] is None
    given = facts["given"]
    assert (given["devices"], given["fits"], given["parallel"]) == (2, True, "ddp")
    assert f"{given['parameters']:,}" in said and f"{given['cost']:,.2f}" in said
    assert given["cost"] == pytest.approx(2.5 * 2 * given["hours"])


def test_what_fits_is_proposed(plan: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert plan("--json", str(out)) == 0
    total = json.loads(out.read_text())["given"]["memory_total"]
    capsys.readouterr()
    assert plan("--memory", str((total - 4e6) / 0.9 / 2**30), "--json", str(out)) == 0
    said, facts = capsys.readouterr().out, json.loads(out.read_text())
    assert not facts["given"]["fits"] and facts["proposal"]["fits"]
    assert f"add to the command: {shlex.join(facts['proposal']['changes'])}" in said
    assert "train.accumulate=" in said


def test_careless_use(plan: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing fits, or a number makes no sense: one line, and code 2."""
    assert plan("--memory", "0.5") == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: nothing fits into 90% of 0.5 GB: with ")
    assert plan("train.accumulat=2") == 2
    assert "accumulate" in capsys.readouterr().err
    for wrong in (["--gpus", "0"], ["--mfu", "30"], ["--gpu", "gtx"]):
        with pytest.raises(SystemExit) as ended:
            plan(*wrong)
        assert ended.value.code == 2
