"""Training an autoencoder: on clips and pictures as they are."""

from __future__ import annotations

from pathlib import Path

import torch

from vidiff.data.clips import Joint, Samples
from vidiff.data.index import Index
from vidiff.engine.checkpoint import load_part
from vidiff.nn.causal import Stream
from vidiff.nn.vae import VAE
from vidiff.objective.vae import VAEObjective
from vidiff.pipeline.run import read_run
from vidiff.recipe.build import build_vae_objective
from vidiff.recipe.kinds import VAERun
from vidiff.training.datasets import clip_dataset, first_batches
from vidiff.training.indexes import keep_split, make_indexes, make_pictures
from vidiff.training.stage import Stage, refuse_another_model
from vidiff.video.writer import write_video

TESTED, SHOWN = 16, 8  # held-out clips to validate on, and to show


class VAEStage(Stage[VAERun]):
    """Training an autoencoder."""

    objective: VAEObjective

    def prepare(self) -> None:
        refuse_another_model(self.config)
        self.index, self.held_out = make_indexes(self.config)
        self.pictures = make_pictures(self.config, self.index)

    def keep(self) -> None:
        keep_split(self.config.folder, self.held_out)

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


def start_vae(config: VAERun, network: VAE) -> None:
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
