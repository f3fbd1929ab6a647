"""From a checked config to the parts that it describes, untrained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from vidiff.codec.codec import TILE, Identity, VAECodec
from vidiff.codec.diffusers import DiffusersCodec, Tuned, blank, read
from vidiff.codec.files import load_into
from vidiff.diffusion.denoise import Denoiser
from vidiff.metrics.features import Features
from vidiff.nn.classifier import Classifier
from vidiff.nn.unet import UNet
from vidiff.nn.vae import VAE
from vidiff.objective.bound import BoundObjective
from vidiff.objective.classifier import ClassifierObjective
from vidiff.objective.consistency import ConsistencyObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.objective.distill import Guided, Progressive, StudentObjective, Teacher, teacher_of
from vidiff.objective.flow import Reflow
from vidiff.objective.matching import Matching
from vidiff.objective.vae import VAEObjective
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, LatentRun, StudentRun, VAERun
from vidiff.recipe.slots import ConfigError, build_schedule


def build_codec(config: LatentRun) -> Identity | DiffusersCodec:
    """A codec that needs no training. Raises ConfigError where it cannot be loaded, or does not fit the frames."""
    if config.codec.name == "identity":
        return Identity()
    try:
        codec = DiffusersCodec(read(config.codec.path), config.codec.tile)
    except ValueError as error:
        raise ConfigError(f"codec.path: {error}") from None
    if codec.temporal > 1:
        config.check_temporal(codec)
    config.check_size(codec.factor)
    return codec


def build_denoiser(config: DiffusionRun, empty: bool = False) -> Denoiser:
    """The denoiser, untrained.

    Args:
        empty: the network's weights have a shape and no content, for what asks for no more; it is made in no time.
    """
    with torch.device("meta") if empty else nullcontext():
        network = UNet(config.unet, spread=config.loss.spread > 0)
    return Denoiser(network, build_schedule(config.schedule), config.prediction, config.unet.variance)


def build_objective(config: DiffusionRun, denoiser: Denoiser | None = None) -> DiffusionObjective | BoundObjective:
    """The denoiser, untrained if it is not given, and what it is trained for."""
    denoiser = denoiser or build_denoiser(config)
    if config.objective == "bound":
        return BoundObjective(denoiser, lowres_noise=config.lowres.noise)
    return DiffusionObjective(denoiser, config.loss, config.lowres.noise)


def build_student(config: StudentRun, denoiser: Denoiser | None = None, told: bool = False) -> StudentObjective:
    """A student, and what it is trained for. Its teacher is what the denoiser is now, of which nothing changes.

    Args:
        denoiser: with the teacher's weights; untrained, if not given.
        told: the teacher is a student itself.
    """
    denoiser = denoiser or build_denoiser(config)
    teacher: Teacher | None = None
    if config.objective != "consistency_training":
        teacher = teacher_of(denoiser, told, config.loss.history, config.sampling.times)
    times = config.sampling.grid(denoiser.schedule, config.draws)
    kinds: dict[str, type[StudentObjective]] = {
        "distribution_matching": Matching,
        "guidance": Guided,
        "progressive": Progressive,
        "reflow": Reflow,
    }
    kind = kinds.get(config.objective, ConsistencyObjective)
    return kind(denoiser, config.loss, teacher, times, config.lowres.noise)


def build_vae(config: VAERun) -> VAE | Tuned:
    """The autoencoder, untrained. Raises ValueError for one of diffusers that cannot be used."""
    return Tuned(blank(config.others)) if config.others else VAE(config.vae)


def build_vae_objective(config: VAERun) -> VAEObjective:
    """The autoencoder, untrained, and what it is trained for. Raises ValueError for a network that cannot be loaded."""
    network = build_vae(config)
    similar = Features.load(config.loss.perceptual_network) if config.loss.perceptual else None
    return VAEObjective(network, config.loss, similar, config.train.accumulate)


def build_trained_codec(config: VAERun, weights: Mapping[str, Tensor], tile: int = TILE) -> VAECodec | DiffusersCodec:
    """The codec that a training of an autoencoder makes.

    Args:
        weights: of its network, as a checkpoint has them.
        tile: as of `vidiff.codec.codec.Codec`.

    Raises:
        ValueError: weights of another shape.
    """
    if config.others:
        tuned = Tuned(blank(config.others))
        load_into(tuned, weights, config.folder)
        codec: VAECodec | DiffusersCodec = DiffusersCodec(tuned.network, tile)
    else:
        codec = VAECodec(config.vae, tile)
        load_into(codec.network, weights, config.folder)
    return codec.eval().requires_grad_(False)


def build_classifier(config: ClassifierRun) -> ClassifierObjective:
    """The classifier, untrained, and what it is trained for."""
    return ClassifierObjective(Classifier(config.classifier), build_schedule(config.schedule), config.loss)
