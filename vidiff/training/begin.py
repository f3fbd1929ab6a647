"""Weights of an earlier run, with which a training begins."""

from __future__ import annotations

from pathlib import Path

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, same_codec
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_part, newest
from vidiff.nn.vae import VAE
from vidiff.pipeline.run import read_config, read_run
from vidiff.recipe.kinds import DiffusionRun, VAERun


def begin(config: DiffusionRun, codec: Codec, denoiser: Denoiser) -> None:
    """Give a denoiser the weights of the run `config.start`, as far as it has them.

    Raises:
        ValueError: no such run, one with another codec, or with weights that do not fit.
    """
    if not config.start:
        return
    source = Path(config.start)
    checkpoint = newest(source / "checkpoints") if read_config(source) else None
    if checkpoint is None:
        raise ValueError(f"start={source} has no checkpoint yet: train it first")
    if not same_codec(load_codec(source / "codec"), codec):
        raise ValueError(
            f"start={source} was trained on the latents of another codec, so its weights mean other things"
        )
    try:
        found = denoiser.load_state_dict(load_part(checkpoint, "denoiser"), strict=False)
    except RuntimeError as error:
        raise ValueError(f"start={source} has another network: {str(error).splitlines()[-1].strip()}") from None
    if found.unexpected_keys:
        raise ValueError(f"start={source} has weights that this model lacks, such as {found.unexpected_keys[0]}")


def begin_vae(config: VAERun, network: VAE) -> None:
    """Give an autoencoder the weights of the run `config.start`, its discriminator apart.

    Raises:
        ValueError: no such run, or one of another shape.
    """
    if not config.start:
        return
    source = Path(config.start)
    shape = read_run(source, VAERun).vae
    if shape != config.vae:
        raise ValueError(f"start={source} has an autoencoder of another shape, {shape}: set vae as it is there")
    network.load_state_dict(load_part(source, "network"))
