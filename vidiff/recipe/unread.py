"""Options that another choice leaves unread, or that name what there is not: whoever sets one is told, before anything
is made."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from vidiff.objective.diffusion import DiffusionLoss
from vidiff.objective.distill import StudentLoss
from vidiff.recipe.kinds import DiffusionRun, RunConfig, StudentRun
from vidiff.recipe.slots import ConfigError

READ_BY = {  # options of a student's loss, and the objectives that read them
    "steps": ("consistency", "consistency_training", "progressive", "reflow"),
    "order": ("progressive",),
    "pace": ("distribution_matching",),
    "segments": ("consistency", "consistency_training"),
}


def refuse_unread(config: RunConfig) -> None:
    """Refuse what is set and nothing reads, or what reads what there is not; what objective=bound leaves unread of a
    recipe is only told.

    Whoever is about to train calls this: a run of an earlier version, which is only read, may have such options.

    Raises:
        ConfigError: for an option of the loss that this objective does not read; the message names the one that does.
            For a best checkpoint by a score that the validation does not give, or of which the least is not the best.
    """
    best = config.train.keep_best
    if best and best not in config.scores:
        raise ConfigError(
            f"train.keep_best is {best}, but the least is kept of what the validation gives, here of "
            f"{' or '.join(config.scores)}: name one of these, or leave it out"
        )
    if not config.data.root.strip():
        raise ConfigError("data.root is empty: give the folder of your videos, a list of them, or . for this folder")
    if isinstance(config, DiffusionRun) and not isinstance(config, StudentRun) and config.unet.guided:
        raise ConfigError("unet.guided is true, but only a student is told the scale of guidance: leave it out")
    usual = DiffusionLoss().rollout_time
    if isinstance(config, DiffusionRun) and not config.loss.rollout and config.loss.rollout_time != usual:
        raise ConfigError(
            f"loss.rollout_time is {config.loss.rollout_time}, but loss.rollout=0 shows no frame as the model makes "
            "it: leave it out, or set loss.rollout"
        )
    if isinstance(config, StudentRun):
        _refuse_unread_by_student(config)
    elif isinstance(config, DiffusionRun) and config.objective == "bound":
        odd = list(_changed(config.loss, DiffusionLoss(), "loss."))
        if odd:  # as a rule set by the recipe that this one is based on
            warnings.warn(
                f"objective=bound is the variational bound as it is, and reads no {', '.join(odd)}", stacklevel=2
            )


def _refuse_unread_by_student(config: StudentRun) -> None:
    for name, readers in READ_BY.items():
        value, usual = getattr(config.loss, name), getattr(StudentLoss(), name)
        if value != usual and config.objective not in readers:
            raise ConfigError(
                f"loss.{name} is {value}, which objective={' or '.join(readers)} reads, but objective is "
                f"{config.objective}: leave it out, or set loss.{name}={usual}"
            )
    if not config.loss.told and not config.loss.history:
        raise ConfigError(
            "loss.history is false, but with loss.guidance=[1,1] no guidance is distilled: leave it out, or set "
            "loss.history=true"
        )


def _changed(one: Any, usual: Any, before: str) -> Iterator[str]:
    """The keys of options that are not their defaults."""
    for field in fields(one):
        value, default = getattr(one, field.name), getattr(usual, field.name)
        if is_dataclass(value):
            yield from _changed(value, default, f"{before}{field.name}.")
        elif value != default:
            yield f"{before}{field.name}"
