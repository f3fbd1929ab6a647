"""From a messy folder to a trained model, by the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from messy import WAYS, write_broken, write_clip, write_uncommon
from videos import numbered

from vidiff.data.video import read_video, write_video
from vidiff.engine.log import read_metrics

ROOT = Path(__file__).parents[2]
VAE = """\
kind: vae
name: tiny_vae
device: cpu
batch: 2
data: {root: data, size: 32, frames: 2, workers: 1, max_broken: 0}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 2, precision: fp32, log_every: 1, validate_every: 2, sample_every: 2}
"""
DIFFUSION = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {root: data, size: 32, frames: 6, workers: 1, max_broken: 0}
codec: {config: vae.yaml}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 2, context: 3, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2, sample_every: 2}
"""


def run(place: Path, *command: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.faults
def test_a_messy_folder_is_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    whole = write_clip(data / "a" / "whole.mp4").read_bytes()
    for number in range(28):
        write_clip(data / "ab"[number % 2] / f"{number:02d}.mp4", number)
    write_uncommon(data / "b")
    write_video(data / "b" / "moving.gif", numbered(9))
    write_video(f"{data}/a/pictures/", numbered(9))
    broken = [way for way in WAYS if way != "hang"]
    for way in broken:
        write_broken(data / "a" / f"{way.replace(' ', '-')}.mp4", way, whole)
    for name in ("vae", "tiny"):
        (tmp_path / f"{name}.yaml").write_text({"vae": VAE, "tiny": DIFFUSION}[name])

    refused = run(tmp_path, "-m", "vidiff.train", "tiny.yaml", code=2)
    assert "cannot be read, more than data.max_broken=0.0 allows" in refused
    said = run(tmp_path, str(ROOT / "tools" / "doctor.py"), "data")
    assert f"{28 + 1 + 5 + 2 + len(broken)} files: {28 + 1 + 5 + 2} readable" in said
    said = run(tmp_path, "-m", "vidiff.train", "tiny.yaml")
    held_out = {way for way in broken if f"left out a/{way.replace(' ', '-')}.mp4: " not in said}
    assert not held_out
    assert "are left out by runs/index/quarantine.txt" in said
    assert read_metrics(tmp_path / "runs" / "tiny" / "metrics.jsonl")[-1]["step"] == 2
    assert read_video(tmp_path / "runs" / "tiny" / "samples" / "step-0000002.mp4").isfinite().all()
