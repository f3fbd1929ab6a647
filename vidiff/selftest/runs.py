"""Checks of training: a step against its plan, a run that goes on, and one of two processes."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidiff.engine.feed import Batch
from vidiff.engine.loop import fit
from vidiff.engine.parallel import choose_device
from vidiff.engine.precision import gpu_precision
from vidiff.engine.publish import name_of
from vidiff.engine.record import memory_used
from vidiff.plan.estimate import GB
from vidiff.plan.plan import Deployment, Planner
from vidiff.plan.shape import this_machine
from vidiff.recipe.load import find_config, load
from vidiff.report.log import read_metrics
from vidiff.selftest.check import Fails, Place, Seen, Skipped
from vidiff.selftest.parts import content
from vidiff.store.files import sha256
from vidiff.training import stages

NARROW = [  # networks of which a step takes no time; all else is as in the recipe shapes
    *("batch=4", "data.shapes={train: 1, test: 1, frames: 40}", "unet.width=16", "unet.head_dim=16"),
    *("unet.blocks=[1,1]", "sampling.steps=2", "codec.least=0", "codec.override.batch=4", "codec.override.vae.width=8"),
    *("codec.override.name=codec", "codec.override.data.workers=0", "codec.override.train.steps=6"),
    *("codec.override.train.sample_every=0", "codec.override.train.validate_every=0"),
    *("train.log_every=1", "train.validate_every=0", "train.sample_every=0"),
]
STEPS, HALF = 6, 3
CHANGED = ["batch=8", "train.compile=false", "train.validate_every=0", "train.sample_every=0", "train.log_every=1"]


def training(place: Place) -> Seen:
    """Clips a second and memory of a step, by the engine on a batch of noise, and what the planner says of them.

    On a GPU it is the recipe ucf with eight clips, changed until it fits; on a CPU the recipe shapes. Blocks are not
    compiled, which is a check of its own.
    """
    device = choose_device(place.device)
    source = find_config("ucf" if device.type == "cuda" else "shapes")
    steps = 4 if place.quick else 12
    precision = gpu_precision() if device.type == "cuda" else "auto"
    changes = [*CHANGED, f"device={place.device}", f"train.steps={steps}", f"train.precision={precision}"]
    changes += ["batch=2", "unet.width=32", "unet.head_dim=16"] if place.quick else []
    plan = planned(source, changes, device)
    config = plan.config
    config.train.precision = plan.precision
    objective, batch = plan_parts(plan)

    def batches(start: int) -> Iterator[Batch]:
        while True:
            yield batch()

    run = place.folder / "runs" / "noise"
    fit(objective, batches, config.batch, config.train, run, device=device)
    lines = read_metrics(run / "metrics.jsonl")
    rates = [line["clips_per_second"] for line in lines[steps // 3 :]]  # the first ones warm up
    measured, predicted = statistics.median(rates), config.batch / plan.seconds
    held = memory_used(device)
    numbers = {
        "recipe": source.stem,
        "changes": plan.changes,
        "plan": plan.facts(),
        "clips_per_second": measured,
        "clips_per_second_planned": predicted,
        "memory": held,
        "losses": [line["loss"] for line in lines],
    }
    line = f"{measured:.3g} clips/s of {source.stem} in {plan.precision}, {predicted:.3g} planned; "
    return Seen(f"{line}{held / GB:.2f} GB, {plan.estimate.total / GB:.2f} planned", numbers)


def planned(source: Path, changes: list[str], device: torch.device) -> Deployment:
    """A recipe on a device of this machine, as it is or as it fits."""
    planner = planner_of(source, changes, device)
    given = planner.given()
    return given if given is not None and given.fits else planner.proposal()


def planner_of(source: Path, changes: list[str], device: torch.device) -> Planner:
    return Planner(load(source, changes), source.parent, this_machine(device).device, 1)


def plan_parts(plan: Deployment) -> tuple[torch.nn.Module, Any]:
    """The objective of a plan, with its first weights, and what makes a part of a batch."""
    from vidiff.plan.sketch import sketch

    torch.manual_seed(0)
    of = replace(sketch(plan.config, Path("."), look=False), config=plan.config)
    part = plan.config.batch // plan.config.train.accumulate
    return of.build(), lambda: content(of.batch(part))


def resume(place: Place) -> Seen:
    """Whether a run that goes on from a checkpoint ends with the bits of one that was never stopped.

    On a CPU it must; on a GPU it need not without `train.deterministic`, and that is told.
    """
    return goes_on(place, "resumed", must=choose_device(place.device).type == "cpu")


def deterministic(place: Place) -> Seen:
    """The same with `train.deterministic`, with which it must anywhere."""
    return goes_on(place, "deterministic", "train.deterministic=true", must=True)


def goes_on(place: Place, name: str, *changes: str, must: bool) -> Seen:
    run = train(place, name, *changes)
    end = run / "checkpoints" / name_of(STEPS)
    before = hashes(end)
    shutil.rmtree(end)  # so that the run goes on from the one before
    train(place, name, *changes)
    apart = sorted(file for file, digest in hashes(end).items() if digest != before.get(file))
    numbers = {"files": len(before), "apart": apart}
    if not apart:
        return Seen(f"the same bits after {HALF} of {STEPS} steps were taken again", numbers)
    seen = Seen(f"other bits after {HALF} of {STEPS} steps were taken again: {', '.join(apart)}", numbers)
    if must:
        raise Fails(seen)
    return replace(seen, line=f"{seen.line}; train.deterministic=true is there for the same")


def hashes(checkpoint: Path) -> dict[str, str]:
    """Of weights, averages and moments; and not of clocks, which a checkpoint holds as well."""
    files = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("training/*.distcp")]
    return {file.name: sha256(file) for file in files}


def two_processes(place: Place) -> Seen:
    """Whether two processes train together: over gloo on a CPU, over NCCL where there are two GPUs."""
    device = choose_device(place.device)
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        raise Skipped("there is one GPU, and two processes want one each")
    train(place, "resumed")  # so that clips, codec and latents are there, where no check before has made them
    words = [f"{key}" for key in settings(place, "together")]
    kind = "cuda" if device.type == "cuda" else "cpu"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "vidiff.train", str(find_config("shapes")), *words, f"device={kind}"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    lines = read_metrics(place.folder / "runs" / "together" / "metrics.jsonl")
    if done.returncode or not lines or lines[-1]["step"] != STEPS:
        raise Fails(Seen(f"two processes ended with code {done.returncode} after {len(lines)} steps of {STEPS}"))
    losses = [line["loss"] for line in lines]
    over = "NCCL" if kind == "cuda" else "gloo"
    return Seen(f"{STEPS} steps over {over}, loss {losses[-1]:.3g}", {"losses": losses, "over": over})


def train(place: Place, name: str, *changes: str) -> Path:
    """A run of the recipe shapes with narrow networks: what `vidiff train` does, to its end. Returns its folder."""
    source = find_config("shapes")
    config = load(source, settings(place, name, *changes))
    stages.train(config, source.read_text(encoding="utf-8"), source.parent)
    return config.folder


def settings(place: Place, name: str, *changes: str) -> list[str]:
    """Of such a run, as changes to the recipe."""
    folder = place.folder.absolute()
    where = [f"name={name}", f"runs={folder / 'runs'}", f"data.root={folder / 'clips'}", f"device={place.device}"]
    return [*NARROW, *where, f"train.steps={STEPS}", f"train.checkpoint_every={HALF}", *changes]
