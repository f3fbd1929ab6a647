"""Training a classifier of noised latents, after the codec and on the caches of the model that it is to guide."""

from __future__ import annotations

import json

import torch

from vidiff.codec.files import save_codec
from vidiff.data.clips import Samples
from vidiff.data.index import Index
from vidiff.objective.classifier import ClassifierObjective
from vidiff.pipeline.classifier import FILE
from vidiff.recipe.build import build_classifier
from vidiff.recipe.kinds import ClassifierRun
from vidiff.store.files import write_whole
from vidiff.training.datasets import first_batches, latent_dataset
from vidiff.training.indexes import keep_split
from vidiff.training.prepare import LatentStage

TESTED = 96  # held-out clips to validate on


class ClassifierStage(LatentStage[ClassifierRun]):
    """Training a classifier."""

    samples = False
    objective: ClassifierObjective

    def learn(self) -> None:
        labels = self.found.index.labels
        if len(labels) < 2:
            raise ValueError(
                f"the clips in {self.config.data.root} have {len(labels)} labels; a classifier tells 2 or more apart: "
                "give each class a folder of its own, and leave out data.layout=flat"
            )
        self.config.resolve(self.found.shape.channels, len(labels))

    def keep(self) -> None:
        save_codec(self.config.folder / "codec", self.prepared.codec)
        write_whole(self.config.folder / FILE, json.dumps({"labels": self.prepared.index.labels}))
        keep_split(self.config.folder, self.prepared.held_out)

    def build(self) -> None:
        prepared = self.prepared
        self.objective = build_classifier(self.config)
        held_out = latent_dataset(self.config, prepared.held_out, prepared.unseen, prepared.seen)
        self.test = first_batches(self.config, held_out, TESTED)[0]

    def dataset(self) -> Samples:
        seen = self.prepared.seen
        return latent_dataset(self.config, self.prepared.index, seen, seen, changed=True)

    def indexes(self) -> list[Index]:
        return self.prepared.indexes

    def validate(self, step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and times each time, so that numbers compare
        scores = self.objective(self.here(self.test))
        return {f"val/{key}": float(value) for key, value in scores.items()}
