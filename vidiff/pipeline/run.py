"""A trained run's folder: which runs there are, their configs, and the precision of their training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

import torch

from vidiff.engine.precision import Precision, gpu_precision
from vidiff.recipe.common import SHARED, RunConfig
from vidiff.recipe.kinds import KINDS, DiffusionRun
from vidiff.recipe.load import load_resolved
from vidiff.recipe.slots import ConfigError
from vidiff.report.log import device_name
from vidiff.store.plain import read_json

Kind = TypeVar("Kind", bound=RunConfig)


def read_config(run: Path) -> DiffusionRun:
    """The resolved config of a diffusion run. Raises ValueError if the folder is none."""
    return read_run(run, DiffusionRun)


def read_run(run: Path, kind: type[Kind]) -> Kind:
    """The resolved config of a run of the kind that is wanted. Raises ValueError if the folder is none."""
    path = run / "resolved.yaml"
    if not path.is_file():
        raise ValueError(f"{run} is not a trained run (it has no resolved.yaml); train one with `vidiff train CONFIG`")
    config = load_resolved(path)
    if not isinstance(config, kind):
        wanted = next(name for name, config_kind in KINDS.items() if config_kind is kind)
        raise ConfigError(f"{run} is a run of kind {config.kind}; one of kind {wanted} is needed")
    return config


def trained_precision(run: Path, device: torch.device) -> Precision:
    """That of the training, where it ran on hardware as here; else bf16 or fp16 on a GPU and fp32 on a CPU."""
    try:
        record = read_json(run / "environment.json")
        if record["device"] == device_name(device):
            return record["precision"]
    except (OSError, ValueError, LookupError):  # a run that was copied without it, or of another version
        pass
    return gpu_precision() if device.type == "cuda" else "fp32"


def runs_of(run: Path, config: RunConfig) -> Path:
    """The folder of runs that a run lies in, and shares its index with: above all parts of its name."""
    parts = Path(config.name).parts
    named = 0 < len(parts) <= len(run.parents) and run.parts[-len(parts) :] == parts  # else it was copied, or moved
    return run.parents[len(parts) - 1] if named else run.parent


def find_runs(runs: Path) -> Iterator[Path]:
    """Every folder in `runs` that has checkpoints, however deep, since a run may be named a/b."""
    seen = set[str]()
    for here, folders, _ in os.walk(runs, followlinks=True):
        real = os.path.realpath(here)
        if "checkpoints" in folders and real not in seen:
            yield Path(here)
        left_out = folders if real in seen else ["checkpoints", "samples", *(SHARED if Path(here) == runs else ())]
        folders[:] = sorted(set(folders) - set(left_out))
        seen.add(real)


def latest_run(runs: str | Path = "runs", enlarges: bool = False) -> Path:
    """The diffusion run that was trained last. Raises ValueError, saying what to do, if there is none.

    Args:
        enlarges: the last of those that enlarge clips, and not of those that make them.
    """
    trained = []
    for run in find_runs(Path(runs)):
        path = run / "checkpoints" / "latest"
        if not (path.is_file() and (run / "data.json").is_file() and (run / "resolved.yaml").is_file()):
            continue
        if ("detail" in read_json(run / "data.json")) == enlarges:
            trained.append((path.stat().st_mtime, run))
    if not trained:
        what, recipe = ("that enlarges clips ", "shapes_sr") if enlarges else ("", "shapes")
        raise ValueError(f"no trained run {what}in {runs}/: train one first, for instance by vidiff train {recipe}")
    return max(trained)[1]


def drawn_in(precision: str, device: torch.device) -> Precision:
    """That of samples on the way of a training in `precision`: on a GPU its own, in which they take a part of the time;
    on a CPU fp32, whatever a trial has found faster for the training."""
    if device.type != "cuda":
        return "fp32"
    return gpu_precision() if precision == "auto" else cast(Precision, precision)
