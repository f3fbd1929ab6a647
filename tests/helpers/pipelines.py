"""Pipelines of random weights, since nothing that is asked of them depends on what was learned."""

from __future__ import annotations

import torch

from vidiff.codec.codec import VAECodec
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DataConfig, DiffusionRun, SamplingConfig

LABELS = ("cat", "dog", "horse")
VAE = VAEConfig(channels=3, width=4, multipliers=[1], patch=2)


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


def clip(frames: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, frames, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
