"""What a training on latents begins from: its codec, its clips, and their latents."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from vidiff.codec.codec import TILE, Codec, Identity, VAECodec
from vidiff.codec.diffusers import DiffusersCodec, Facts
from vidiff.data.index import Index
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import choose_device, processes
from vidiff.engine.publish import step_of
from vidiff.metrics.features import Features
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.run import trained_precision
from vidiff.recipe.build import build_codec, build_trained_codec
from vidiff.recipe.kinds import LatentRun, RunConfig, VAERun
from vidiff.recipe.load import dump, load_codec_config, load_resolved
from vidiff.recipe.slots import ConfigError
from vidiff.training.datasets import refuse_short
from vidiff.training.indexes import control_of, make_indexes, make_pictures
from vidiff.training.kept import check_ceiling, check_kept
from vidiff.training.latents import Caches, Latents
from vidiff.training.stage import (
    Stage,
    changed_sight,
    flatten,
    refuse_another_model,
    refuse_other_latents,
    run_stage,
)
from vidiff.training.vae import VAEStage

Latent = TypeVar("Latent", bound=LatentRun)


@dataclass(frozen=True)
class Prepared:
    """What a training on latents begins from.

    Attributes:
        index, seen: the clips to train on, and their latents.
        held_out, unseen: those that are held out.
        pictures, shown: pictures to train on besides, if any.
    """

    codec: Codec
    index: Index
    seen: Latents
    held_out: Index
    unseen: Latents
    pictures: Index | None
    shown: Latents | None

    @property
    def indexes(self) -> list[Index]:
        """Of what is trained on."""
        return [self.index, *([] if self.pictures is None else [self.pictures])]


@dataclass(frozen=True)
class Found:
    """What a training on latents finds before anything is trained.

    Attributes:
        codec: as `plan_codec` has it.
        network: by which the codec's ceiling is told; None for none.
        index, held_out: the clips to train on, and those that are held out.
        pictures: to train on besides, if any.
    """

    codec: VAERun | Codec
    network: Features | None
    index: Index
    held_out: Index
    pictures: Index | None

    @property
    def shape(self) -> VAEConfig | Facts | Codec:
        """What has the channels of the codec's latents, and how many frames are in each."""
        return self.codec.shape if isinstance(self.codec, VAERun) else self.codec


def find_clips(config: LatentRun, folder: Path) -> Found:
    """The clips of a training, and what is to make latents of them.

    Args:
        folder: where the config file stands; paths in it are relative to that.

    Raises:
        ValueError: as `plan_codec` and `make_indexes`; clips that are all too short, or have nothing beside them that
            goes with them; a network of the ceiling that is not there, or takes no such clips.
    """
    codec = plan_codec(config, folder)
    wanted = config.codec.ceiling.network
    network = Features.load(wanted) if wanted else None
    index, held_out = make_indexes(config)
    pictures = make_pictures(config, index)
    for clips in (index, held_out):
        refuse_short(config, clips)
        if config.data.control and isinstance(codec, VAERun) and not is_trained(codec):
            control_of(config, clips)
    if network is not None and not isinstance(codec, Identity):
        check_ceiling(config, (held_out, index), network)
    return Found(codec, network, index, held_out, pictures)


def make_latents(config: LatentRun, found: Found, caches: Caches) -> Prepared:
    """The latents of what was found, encoded where they are not cached."""
    index, held_out, pictures, data = found.index, found.held_out, found.pictures, config.data
    check_kept(config, caches.codec, held_out, index, found.network)
    seen, unseen = caches.latents(index, data.split), caches.latents(held_out, data.test_split)
    shown = None if pictures is None else caches.latents(pictures, data.split, pictures=True)
    if not caches.codec.fixed:
        caches.codec.set_statistics(*seen.codec_moments)
    return Prepared(caches.codec, index, seen, held_out, unseen, pictures, shown)


class LatentStage(Stage[Latent]):
    """A training on latents, whose codec may have to be trained first.

    Attributes:
        found, prepared: what it begins from, before its codec is there and afterwards.
    """

    found: Found
    prepared: Prepared

    def check(self) -> None:
        super().check()
        if self.config.codec.name != "vae":
            return
        codec = plan_codec(self.config, self.folder)
        if isinstance(codec, VAERun) and not (self.config.codec.run or is_trained(codec)):
            VAEStage(codec, self.folder).check()

    def prepare(self) -> None:
        self.found = find_clips(self.config, self.folder)
        self.learn()
        refuse_another_model(self.config)
        self.rehearse()
        caches = open_caches(self.config, self.found.codec, self.folder)
        self.check_codec(caches.codec)
        self.prepared = make_latents(self.config, self.found, caches)

    def learn(self) -> None:
        """Take from the clips what the model is told of them, and what of its shape follows. Raises ValueError."""
        raise NotImplementedError

    def rehearse(self) -> None:
        """Build without weights what will be built with them. Raises ValueError where that is not to be."""

    def check_codec(self, codec: Codec) -> None:
        """Raises ValueError for a codec, now that it is trained, of which other weights know nothing."""
        refuse_other_latents(self.config, codec)


def encode(config: RunConfig, folder: Path, splits: Sequence[str], part: tuple[int, int] = (0, 1)) -> list[str]:
    """Cache the latents that a model will be trained on, or a part of them. The codec must have been trained.

    Args:
        folder: where the config file stands; paths in it are relative to that.
        part: (i, n), to encode the shards i, i + n, ... alone; others encode the rest, at any time, on any machine
            that shares the folder.

    Returns:
        a line on each cache.

    Raises:
        ValueError: as a training does; a config of another kind, or a codec that is not trained.
    """
    if not isinstance(config, LatentRun):
        raise ValueError(
            f"a run of kind {config.kind} has no latents: give the config of a model that is trained on them"
        )
    codec = plan_codec(config, folder)
    if not (isinstance(codec, Codec) or config.codec.run or is_trained(codec)):
        raise ValueError(
            f"the autoencoder in {codec.folder} is not trained: run vidiff train "
            f"{shlex.quote(str(folder / config.codec.config))}"
        )
    lines = []
    with processes(config.device):
        caches = open_caches(config, codec, folder)
        index, held_out = make_indexes(config)
        pictures = make_pictures(config, index)
        indexes = [(config.data.split, index, False), (config.data.test_split, held_out, False)]
        indexes += [] if pictures is None else [(config.data.split, pictures, True)]
        for split, clips, are_pictures in indexes:
            for kind, plan in caches.plans(clips, split, are_pictures).items() if split in splits else ():
                complete = caches.encode(plan, part)
                cache = plan.folder(caches.folder)
                count = len(list(cache.glob("latents-*.safetensors")))
                state = "complete" if complete else "the others are still to come"
                what = "pictures" if are_pictures else split
                lines.append(f"{what} ({kind}): {count} of {len(plan.shards())} shards in {cache}, {state}")
    return lines


def plan_codec(config: LatentRun, folder: Path) -> VAERun | Codec:
    """The config that trains a model's codec, or has trained it, or a codec that needs no training.

    Raises:
        ConfigError: as `load_codec_config` and `build_codec`, before any data is touched; an autoencoder of that name
            that is another; a `codec.run` that has no checkpoint.
    """
    if config.codec.name != "vae":
        return build_codec(config)
    vae = load_codec_config(config, folder)
    if config.codec.run and newest(vae.folder / "checkpoints") is None:
        raise ConfigError(f"codec.run is {config.codec.run}, which has no checkpoint yet: train it first")
    began = (config.folder / "checkpoints" / "latest").is_file()  # and so has a codec, which is compared with this one
    if not (config.codec.run or began):
        refuse_another_codec(vae)
    return vae


def refuse_another_codec(vae: VAERun) -> None:
    """Raises ConfigError if there is an autoencoder of this name, but trained on other data, or by another config."""
    folder = vae.folder
    if not ((folder / "checkpoints" / "latest").is_file() and (folder / "resolved.yaml").is_file()):
        return
    before = load_resolved(folder / "resolved.yaml")
    if not isinstance(before, VAERun):
        raise ConfigError(f"{folder} is a run of kind {before.kind}: name the autoencoder by codec.override.name=...")
    phrases = changed_sight(before, vae)
    if (before.others or vae.others) and before.start != vae.start:
        phrases.append(f"start={before.start}, not {vae.start}")
    for part in ("vae", "loss"):
        one, other = (flatten({part: asdict(getattr(config, part))}) for config in (before, vae))
        phrases += [f"{key}={one[key]}, not {other[key]}" for key in one if one[key] != other[key]]
    if phrases:
        more = f", and {len(phrases) - 3} more" if len(phrases) > 3 else ""
        raise ConfigError(
            f"there is an autoencoder {folder} already, trained with {'; '.join(phrases[:3])}{more}: take it all the "
            f"same by codec.run={folder}, or have another trained by codec.override.name=..."
        )


def open_caches(config: LatentRun, codec: VAERun | Codec, folder: Path) -> Caches:
    """The caches of latents of a codec as `plan_codec` has it, which is trained first if need be."""
    if isinstance(codec, Codec):
        return Caches(config, codec, "fp32")
    trained = prepare_codec(codec, folder, config.codec.tile, train=not config.codec.run)
    return Caches(config, trained, trained_precision(codec.folder, choose_device(config.device)))


def is_trained(vae: VAERun) -> bool:
    """Whether an autoencoder has reached its last step."""
    checkpoint = newest(vae.folder / "checkpoints") if vae.folder.is_dir() else None
    return checkpoint is not None and step_of(checkpoint) >= vae.train.steps


def prepare_codec(vae: VAERun, folder: Path, tile: int = TILE, train: bool = True) -> VAECodec | DiffusersCodec:
    """The autoencoder, trained first if it has not reached its last step and `train` says so."""
    if train and not is_trained(vae):
        run_stage(VAEStage(vae, folder), dump(vae))
    checkpoint = newest(vae.folder / "checkpoints")
    assert checkpoint is not None
    return build_trained_codec(vae, load_part(checkpoint, "network"), tile)  # and not what helped to train it
