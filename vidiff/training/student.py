"""Training a student of few steps: as a diffusion model, but of a teacher, which is a trained run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vidiff.codec.codec import Codec
from vidiff.objective.distill import StudentObjective
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.run import read_config
from vidiff.recipe.build import build_denoiser, build_student
from vidiff.recipe.kinds import StudentRun, VAERun
from vidiff.training.diffusion import DiffusionStage
from vidiff.training.stage import FREE
from vidiff.training.start import start_denoiser

ASKS_ANYWHERE = ("distribution_matching", "guidance")  # objectives whose teacher is asked for a mean at any time
ASKED_ANYWHERE = ("guidance", "reflow")  # those whose students can be


class StudentStage(DiffusionStage):
    """Training a student. Beside the loss it is told how far its draws are from those of its teacher."""

    config: StudentRun
    objective: StudentObjective
    exact: Any = None  # the teacher's draws of the clips that are validated on

    def make(self, codec: VAERun | Codec, empty: bool = False) -> StudentObjective:
        config = self.config
        told = refuse_another_shape(config, self.facts)
        denoiser = build_denoiser(config, empty)
        start_denoiser(config, codec, self.facts, denoiser)
        return build_student(config, denoiser, told)

    def validate(self, step: int) -> dict[str, float]:
        scores = super().validate(step)
        if self.objective.teacher is None:
            return scores
        torch.manual_seed(0)
        gaps, self.exact = self.objective.gaps(self.here(self.tests[0]), self.exact)
        return scores | {f"val/{name}": value for name, value in gaps.items()}


def refuse_another_shape(config: StudentRun, facts: Facts) -> bool:
    """Raises ValueError unless the run `config.start` has the network of the student, which is to be a copy, and knows
    the same classes and words. Returns whether it is a student itself, that is told a scale."""
    source = Path(config.start)
    before = read_config(source)
    one, other = asdict(before.unet), asdict(config.unet)
    free = {"guided", *(key.removeprefix("unet.") for key in FREE)}
    for key in other:
        if key not in free and one[key] != other[key]:
            raise ValueError(
                f"start={source} has unet.{key}={one[key]}, not {other[key]}, but a student begins as a copy of its "
                f"teacher: set it as it is there, or have the config begin with base: and the teacher's"
            )
    if before.prediction != config.prediction:
        raise ValueError(f"start={source} has prediction={before.prediction}, not {config.prediction}: set it so")
    known = Facts.load(source, before)
    if known.labels != facts.labels:
        raise ValueError(f"start={source} knows the classes {known.labels}, not {facts.labels}: give it the same data")
    if isinstance(before, StudentRun) and before.objective not in ASKED_ANYWHERE and config.objective in ASKS_ANYWHERE:
        raise ValueError(
            f"start={source} is a student by {before.objective}, which says where a draw ends, and objective="
            f"{config.objective} asks its teacher what a clip is at every time: name the teacher of that one, start="
            f"{before.start}, or a student by guidance"
        )
    if isinstance(before, StudentRun) and before.scales is not None:
        low, high = before.scales
        if config.scales is None or not low <= config.scales[0] <= config.scales[1] <= high:
            raise ValueError(
                f"start={source} is a student of scales {low:g} to {high:g}: set loss.guidance within them, not "
                f"{config.loss.guidance}"
            )
        if before.sampling.interval != config.sampling.interval:
            raise ValueError(
                f"start={source} is a student of guidance in the interval {before.sampling.interval}, not "
                f"{config.sampling.interval}: set sampling.interval so"
            )
        return True
    return False
