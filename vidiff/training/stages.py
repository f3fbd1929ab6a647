"""The kinds of training, by the name that a config has for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidiff.recipe.kinds import RunConfig
from vidiff.training.classifier import ClassifierStage
from vidiff.training.diffusion import DiffusionStage
from vidiff.training.stage import Stage, run_stage
from vidiff.training.student import StudentStage
from vidiff.training.vae import VAEStage

STAGES: dict[str, type[Stage[Any]]] = {
    "vae": VAEStage,
    "diffusion": DiffusionStage,
    "classifier": ClassifierStage,
    "student": StudentStage,
}


def train(config: RunConfig, given: str, folder: Path) -> None:
    """Bring a run of any kind to its last step. Arguments and errors are those of `Stage` and `run_stage`."""
    run_stage(STAGES[config.kind](config, folder), given)
