"""What a training on latents begins from: its codec, its clips, and their latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vidiff.codec.codec import TILE, Codec, VAECodec
from vidiff.codec.diffusers import DiffusersCodec
from vidiff.data.index import Index
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import choose_device, processes
from vidiff.engine.publish import step_of
from vidiff.metrics.features import Features
from vidiff.pipeline.run import trained_precision
from vidiff.recipe.build import build_codec, build_trained_codec
from vidiff.recipe.kinds import LatentRun, RunConfig, VAERun
from vidiff.recipe.load import dump, load_codec_config, load_resolved
from vidiff.recipe.slots import ConfigError
from vidiff.training.indexes import make_indexes, make_pictures
from vidiff.training.kept import check_kept
from vidiff.training.latents import Caches, Latents
from vidiff.training.stage import changed_sight, flatten, run_stage
from vidiff.training.vae import VAEStage


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


def prepare_latents(config: LatentRun, folder: Path) -> Prepared:
    """Clips, codec and latents, made where they are not there.

    Args:
        folder: where the config file stands; paths in it are relative to that.
    """
    codec = plan_codec(config, folder)
    wanted = config.codec.ceiling.network  # loaded first: one that is missing is told before anything is trained
    network = Features.load(wanted) if wanted else None
    index, held_out = make_indexes(config)
    pictures = make_pictures(config, index)
    caches, data = open_caches(config, codec, folder), config.data
    check_kept(config, caches.codec, held_out, index, network)
    seen, unseen = caches.latents(index, data.split), caches.latents(held_out, data.test_split)
    shown = None if pictures is None else caches.latents(pictures, data.split, pictures=True)
    if not caches.codec.fixed:
        caches.codec.set_statistics(*seen.codec_moments)
    return Prepared(caches.codec, index, seen, held_out, unseen, pictures, shown)


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
            f"the autoencoder in {codec.folder} is not trained: run vidiff train {folder / config.codec.config}"
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
