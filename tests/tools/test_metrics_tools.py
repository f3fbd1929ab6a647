"""tools/make_network.py and tools/sensitivity.py, from files to a page."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.metrics.features import Features

TOOLS = Path(__file__).parents[2] / "tools"


def call(name: str, *arguments: str) -> int:
    return int(runpy.run_path(str(TOOLS / f"{name}.py"))["main"](list(arguments)))


@pytest.mark.slow
def test_a_network_is_trained_and_what_it_sees_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network of next to no training on a set of few clips: the page tells of it as it does of a good one."""
    make_shapes(tmp_path / "data", ShapesSpec(frames=16, train=3, test=1), progress=False)
    network, page = tmp_path / "motion", tmp_path / "docs" / "metrics.md"
    motion = ("motion", "--data", str(tmp_path / "data"), "--frames", "4", "--steps", "20", "--out", str(network))
    assert call("make_network", *motion) == 0
    assert "kinds_right" in capsys.readouterr().out
    features = Features.load(network)
    about = json.loads((network / "training.json").read_text())
    assert set(about) == {"labels_right", "kinds_right", "clips", "seed"}
    assert features.declaration.arguments["labels"] == 12
    real = ("--real", str(tmp_path / "data"), "--frames", "4", "--out", str(page))
    assert call("sensitivity", *real, "--network", str(network)) == 0
    text = page.read_text()
    assert f"`frechet_video[motion]`, 24 clips against 24; SHA-256 `{features.sha256}`" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "(" in line]
    assert [row.split()[1] for row in rows] == ["noise", "blur", "shuffled", "frozen", "reversed", "missing"]
    capsys.readouterr()
    assert call("make_network", "motion", "--out", str(network)) == 2
    assert "error: motion is trained on clips: name them with --data" in capsys.readouterr().err
    assert call("sensitivity", *real, "--network", str(network), "--clips", "3", "4") == 2
    assert "error: 2 numbers of clips for 1 networks" in capsys.readouterr().err
    assert call("sensitivity", *real, "--network", str(network), "--clips", "2") == 2
    assert "2 clips of 4 frames; 4 are needed" in capsys.readouterr().err


def test_a_device_that_is_none_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--real", str(tmp_path), "--network", "efficientnet", "--out", str(tmp_path / "page.md"))
    assert call("sensitivity", *given, "--device", "gpu") == 2
    assert capsys.readouterr().err == "error: no such device: 'gpu'; give auto, cpu, cuda or cuda:0\n"
