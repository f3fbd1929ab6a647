"""What an earlier release wrote: its runs draw the same clips and go on, and its latents are not encoded again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import vidiff
from vidiff.report.log import read_metrics

ROOT = Path(__file__).parents[1]
RELEASES = sorted((ROOT / "tests" / "data").glob("release-*.tar.xz"))


@pytest.fixture(scope="module", params=RELEASES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the shapes set, the recipes tiny.yaml and vae.yaml, and all that training by them left in runs/."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(request.param) as file:
        file.extractall(folder, filter="data")
    return folder


def test_a_run_draws_the_same_clips(folder: Path) -> None:
    pipeline = vidiff.Pipeline.from_pretrained(folder / "runs" / "tiny", device="cpu")
    made = {"generated": pipeline.generate(label="blue_disc", seed=7)}
    made["extended"] = pipeline.extend(made["generated"], frames=9, context=3, seed=8)
    with np.load(folder / "expected.npz") as expected:
        for name, video in made.items():  # kept in half precision
            torch.testing.assert_close(video, torch.from_numpy(expected[name]).float(), atol=1e-3, rtol=0)


def test_a_training_goes_on_with_the_latents_that_are_there(folder: Path) -> None:
    runs = folder / "runs"
    latents = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (runs / "latents").rglob("*.*")}
    command = [sys.executable, "-m", "vidiff.train", "tiny.yaml", "train.steps=6"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["step"] for line in read_metrics(runs / "tiny" / "metrics.jsonl") if "loss" in line] == [*range(1, 7)]
    assert max(path.name for path in (runs / "tiny" / "checkpoints").glob("step-*")) == "step-0000006"
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (runs / "latents").rglob("*.*")}
    assert after == latents  # so the codec was not trained again either: another one has a cache of its own
