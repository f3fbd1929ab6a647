"""SIGTERM to the process group while latents are cached: it ends what never would, and nothing half made stays."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

CONFIG = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data:
  {root: data, layout: shapes, shapes: {size: 32, frames: 6, train: 2, test: 1}, size: 32, frames: 4, shard_mb: 0.01,
  workers: 1}
codec: {name: identity}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {context: 2}
train: {steps: 1, precision: fp32}
"""


@pytest.mark.parametrize("command", ["train", "encode"])
def test_while_latents_are_cached(runs, tmp_path: Path, command: str) -> None:
    commands = importlib.import_module("commands")
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    def start(most: int | None = None):
        process = runs.context.Process(target=commands.main, args=(command, ["tiny.yaml"], str(tmp_path), most))
        process.start()
        runs.started.append(process)
        return process

    def shards() -> list[Path]:
        return sorted(tmp_path.glob("runs/latents/*/latents-*.safetensors"))

    process = start(most=8)
    runs.wait(lambda: len(shards()) >= 2)
    before = {path: path.stat().st_mtime_ns for path in shards()}
    os.killpg(process.pid, signal.SIGTERM)
    assert runs.end(process) == 0, (tmp_path / "out.txt").read_text()
    said = (tmp_path / "out.txt").read_text()
    assert "the same command goes on from what is finished" in said
    assert "Error" not in said
    assert not list(tmp_path.glob("runs/latents/*/index.json"))
    runs.wait(lambda: not alive(process.pid))
    assert runs.end(start()) == 0, (tmp_path / "out.txt").read_text()
    assert len(list(tmp_path.glob("runs/latents/*/index.json"))) == 2
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what was finished is not made again"


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
