"""Losses and gradients that are not finite, in all processes or in one, and losses that stand out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import moments_of

from vidiff.engine import checkpoint
from vidiff.report.log import read_metrics
from vidiff.report.run import write_report

pytestmark = pytest.mark.faults

STEP = 4
BAD = 8 * (STEP - 1) + 6  # a sample of step 4 that the second of two processes has


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("fault", [{"bad": [BAD]}, {"faults": {"poison": [BAD]}}], ids=["loss", "gradient"])
def test_not_finite(runs, tmp_path: Path, world: int, fault: dict[str, Any]) -> None:
    """Nothing moves in any process: weights, running means, average, moments. The step's samples are named."""
    states = []
    for steps in (STEP - 1, STEP):
        dump = str(tmp_path / f"{steps}-")
        runs.finish_ranks(tmp_path / str(steps), world, steps=steps, dump=dump, **fault)
        files = [f"{dump}{kind}{rank}" for kind in ("", "-ema") for rank in range(world)]
        states.append([torch.load(file, weights_only=True) for file in files])
    for before, after in zip(*states, strict=True):
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    before, after = (moments_of(checkpoint.newest(tmp_path / str(n) / "checkpoints")) for n in (STEP - 1, STEP))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    named = ", ".join(str(n) for n in range(8 * (STEP - 1), 8 * STEP))
    said = runs.said(tmp_path / str(STEP))
    assert f"step {STEP} skipped: its loss or gradients are not finite (samples {named})" in said


@pytest.mark.parametrize("world", [1, 2])
def test_a_loss_that_stands_out(tiny, runs, tmp_path: Path, world: int) -> None:
    """It is told with its clips, is on record and on the report, and the training takes it like any other."""
    step, options = 25, {"steps": 30, "noise": 0.0, "checkpoint_every": 0}
    loud = list(range(8 * (step - 1), 8 * step))
    runs.finish_ranks(tmp_path / "run", world, loud=loud, **options)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (flagged,) = [line for line in lines if "spike" in line]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses[step] > 100 * losses[step - 1]
    assert flagged["step"] == step
    assert flagged["spike_loss"] == losses[step]
    assert flagged["spike"] > 20
    assert flagged["clips"] == [str(n) for n in loud]
    assert f"step {step}: its loss, {losses[step]:.4g}, is " in runs.said(tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    assert f"<th>step {step}</th>" in page
    assert ", ".join(flagged["clips"]) in page
    runs.finish_ranks(tmp_path / "unwatched", world, loud=loud, spike=0.0, **options)
    kept = [checkpoint.load_weights(tmp_path / name) for name in ("run", "unwatched")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert not [line for line in read_metrics(tmp_path / "unwatched" / "metrics.jsonl") if "spike" in line]


def test_resumed_in_between_it_stands_out_as_much(tiny, tmp_path: Path) -> None:
    """What the losses were before is part of a checkpoint."""
    loud = list(range(8 * 24, 8 * 25))
    found = []
    for name, stops in (("whole", [26]), ("parts", [10, 24, 26])):
        for steps in stops:
            tiny.train(tmp_path / name, steps=steps, noise=0.0, loud=loud, checkpoint_every=0)
        found.append([line for line in read_metrics(tmp_path / name / "metrics.jsonl") if "spike" in line])
    assert found[0] == found[1] != []
