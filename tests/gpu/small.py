"""Small runs of the recipes that come with vidiff, untrained."""

from __future__ import annotations

from pathlib import Path

from vidiff.codec.codec import Codec, VAECodec
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.text import TextEncoder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["unet.width=16", "unet.head_dim=8", "train.hang=0", "batch=4"]
LABELS = ("a", "b", "c")


def small(name: str, *changes: str) -> DiffusionRun:
    config = load(ROOT / "configs" / f"{name}.yaml", [*SMALL, *changes])
    assert isinstance(config, DiffusionRun)
    config.unet.blocks = [1] * len(config.unet.multipliers)
    config.unet.channels, config.unet.labels, config.unet.strided = 4, len(LABELS), True
    return config


def pipeline(
    config: DiffusionRun,
    codec: Codec | None = None,
    text: TextEncoder | None = None,
    classifier: TrainedClassifier | None = None,
    detail: tuple[float, ...] | None = None,
) -> Pipeline:
    codec = codec or VAECodec(VAEConfig(width=8, multipliers=[1, 1, 1], blocks=1)).eval().requires_grad_(False)
    denoiser = build_denoiser(config).eval().requires_grad_(False)
    facts = Facts.of(config, LABELS, 8.0, detail, text and text.facts(), precision="bf16")
    return Pipeline(TrainedModel(denoiser, codec, facts, text, classifier), config.sampling, "cuda:0")
