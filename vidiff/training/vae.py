"""Training an autoencoder: on clips and pictures as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from vidiff.codec.diffusers import Tuned, keep_config, read
from vidiff.codec.files import load_into, save_codec
from vidiff.data.clips import Joint, Samples
from vidiff.data.index import Index
from vidiff.engine.checkpoint import load_part, newest
from vidiff.nn.causal import Stream
from vidiff.nn.vae import VAE
from vidiff.objective.vae import VAEObjective
from vidiff.pipeline.hub import licence_told
from vidiff.pipeline.run import read_run
from vidiff.recipe.build import build_trained_codec, build_vae_objective
from vidiff.recipe.kinds import VAERun
from vidiff.training.datasets import clip_dataset, first_batches
from vidiff.training.indexes import keep_split, make_indexes, make_pictures
from vidiff.training.stage import Stage, refuse_another_model
from vidiff.video.writer import write_video

TESTED, SHOWN = 16, 8  # held-out clips to validate on, and to show


class VAEStage(Stage[VAERun]):
    """Training an autoencoder."""

    objective: VAEObjective

    def check(self) -> None:
        super().check()
        if not self.config.others:
            find_vae(self.config)

    def prepare(self) -> None:
        refuse_another_model(self.config)
        self.index, self.held_out = make_indexes(self.config)
        self.pictures = make_pictures(self.config, self.index)

    def keep(self) -> None:
        config = self.config
        keep_split(config.folder, self.held_out)
        if config.others:
            kept = config.folder / "codec"
            (kept / "codec.json").unlink(missing_ok=True)  # what it is not, until it is trained
            if config.others != str(kept):
                tqdm.write(f"{config.name}: begins with {licence_told(config.start)}")
                keep_config(config.others, kept)

    def build(self) -> None:
        self.objective = build_vae_objective(self.config)
        start_vae(self.config, self.objective.network)
        self.test = first_batches(self.config, clip_dataset(self.config, self.held_out), TESTED)[0]["video"]

    def dataset(self) -> Samples:
        clips = clip_dataset(self.config, self.index, changed=True)
        if self.pictures is None:
            return clips
        pictures = clip_dataset(self.config, self.pictures, changed=True, pictures=True)
        return Joint(clips, pictures, self.config.data.images_share)

    def indexes(self) -> list[Index]:
        return [self.index, *([] if self.pictures is None else [self.pictures])]

    def validate(self, step: int) -> dict[str, float]:
        scores = self.objective(self.here({"video": self.test}))
        return {f"val/{key}": float(value) for key, value in scores.items()}

    def sample(self, step: int) -> None:
        """Clips, and beside each what is left of it."""
        clips = self.here({"video": self.test[:SHOWN]})["video"]
        frames = clips.transpose(1, 2).flatten(0, 1)  # (b f) 3 h w
        mean, _ = self.objective.network.encode(frames, Stream(len(clips)))
        decoded = self.objective.network.decode(mean, Stream(len(clips))).clamp(-1, 1)
        pairs = torch.cat([frames, decoded], dim=-1).cpu().unflatten(0, (-1, clips.shape[2])).transpose(1, 2)
        write_video(self.sample_path(step), pairs, fps=2)

    def finish(self) -> None:
        """An autoencoder of diffusers lies in the run as one, for `codec.path` and for diffusers itself."""
        config = self.config
        if config.others:
            save_codec(config.folder / "codec", build_trained_codec(config, load_part(config.folder, "network")))


def start_vae(config: VAERun, network: VAE | Tuned) -> None:
    """Give an autoencoder the weights of the run, or of the autoencoder of diffusers, that is `config.start`; of the
    run's, without its discriminator. One of diffusers that goes on from a checkpoint needs them no more.

    Raises:
        ValueError: no such run or autoencoder, or one of another shape.
    """
    if isinstance(network, Tuned):
        if newest(config.folder / "checkpoints") is None:
            load_into(network.network, read(config.start).state_dict(), Path(config.start))
        return
    source = find_vae(config)
    if source is not None:
        network.load_state_dict(load_part(source, "network"))


def find_vae(config: VAERun) -> Path | None:
    """The run whose autoencoder one of our own begins with; None where there is no such start.

    Raises:
        ValueError: no such run, or one of another shape.
    """
    if not config.start:
        return None
    source = Path(config.start)
    before = replace(read_run(source, VAERun), runs=str(source.parent), name=source.name)  # wherever it is now
    if before.others:
        raise ValueError(f"start={source} has trained an autoencoder of diffusers: give start={before.others}")
    shape = before.vae
    if shape != config.vae:
        raise ValueError(f"start={source} has an autoencoder of another shape, {shape}: set vae as it is there")
    return source
