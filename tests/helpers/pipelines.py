"""Pipelines and runs of random weights, since nothing that is asked of them depends on what was learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from vidiff.codec.codec import Identity, VAECodec
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.diffusion.cascade import LowresConfig
from vidiff.engine import checkpoint
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump

LABELS = ("cat", "dog", "horse")
VAE = VAEConfig(channels=3, width=4, multipliers=[1], patch=2)
DETAIL = (0.25, 0.5, 0.125)  # of what enlarges: the size of what small clips lack
# the least recipe that enlarges
ENLARGING = """\
kind: diffusion
name: sr
device: cpu
batch: 2
data: {root: data, layout: shapes, shapes: {size: 32, train: 1, test: 1, frames: 12}, size: 32, frames: 4, workers: 0}
lowres: {factor: 2, noise: 0.2}
codec: {name: identity}
conditional: false
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8, patch: 2}
loss: {tasks: {generate: 0.5, first: 0.5, random: 0}}
sampling: {sampler: {name: ddim}, steps: 2, context: 2, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2, sample_every: 2}
"""


def config(labels: int = 3, frames: int = 6, stride: int = 1) -> DiffusionRun:
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=labels, strided=stride > 1)
    data = DataConfig("nowhere", size=8, frames=frames, stride=[1, stride])
    sampling = SamplingConfig({"name": "ddim"}, steps=2, guidance=1.5, context=2)
    return DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)


def denoiser(of: DiffusionRun, seed: int = 0):
    torch.manual_seed(0)
    made = build_denoiser(of)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def build(labels: tuple[str, ...] = LABELS, frames: int = 6, codec=None) -> Pipeline:
    of = config(len(labels), frames)
    return Pipeline(TrainedModel(denoiser(of), codec or VAECodec(VAE), Facts.of(of, labels, 8.0)), of.sampling, "cpu")


def enlarging(size: int = 16, factor: int = 2, level: float = 0.1, labels: int = 0, patch: int = 1) -> DiffusionRun:
    """Of clips to `size`; with factor=0, one that makes clips."""
    lowres = 3 if factor else 0
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, lowres_channels=lowres, labels=labels, patch=patch)
    parts = {
        "data": DataConfig("nowhere", size=size, frames=4),
        "codec": CodecConfig("identity"),
        "unet": unet,
        "sampling": SamplingConfig({"name": "ddim"}, steps=2, context=2),
        "lowres": LowresConfig(factor, noise=0.3, level=level),
    }
    return DiffusionRun("diffusion", "tiny", conditional=labels > 0, **parts)


def save(folder: Path, of: DiffusionRun, seed: int = 0, labels: Sequence[str] = (), fps: float = 8.0) -> Path:
    """A run's folder, as a training leaves it."""
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(dump(of))
    detail = {"detail": DETAIL} if of.lowres.factor else {}
    (folder / "data.json").write_text(json.dumps({"labels": [*labels], "fps": fps, **detail}))
    save_codec(folder / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in denoiser(of, seed).state_dict().items()}
    checkpoint.save(folder / "checkpoints", 1, weights, weights, {})
    return folder


def clip(frames: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
