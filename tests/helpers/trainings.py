"""A small training by the commands, as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
codec: {config: vae.yaml, least: 0}
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
