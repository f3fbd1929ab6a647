"""What each choice of a recipe costs: a training step with one thing changed, by turns with the recipe as it is."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vidiff.engine.compile import compile_blocks
from vidiff.engine.optim import build_optimizer, clip_gradients
from vidiff.engine.precision import Precision, autocast
from vidiff.plan.sketch import sketch
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load

from .timing import CPU, in_turns, ratio, spread

BASE = "as the recipe has it"
LOWEST = "unet.spatial_attention=[{0}]", "unet.temporal_attention={1}", "unet.joint_attention=[]"


def variants(levels: int, compiled: bool) -> dict[str, list[str]]:
    """Changes to the recipe by what they do; "precision" and "compiled" are no keys of the network."""
    every = list(range(levels))
    apart = [change.format(levels - 1, every) for change in LOWEST]
    found = {
        BASE: [],
        "in bf16": ["train.precision=bf16"],
        "AdamW in place of Muon": ["train.optim.name=adamw"],
        "attention by the plain formula": ["unet.attention_backend=plain"],
        "space and time apart at the lowest level": apart,
        "no attention above the lowest level": ["unet.temporal_attention=[]"],
        "instance norm (AdaIN)": ["unet.modulation=adain"],
        "two spatial convolutions a block": ["unet.spatial_convs=2"],
        "causal in time": ["unet.causal=true"],
        "frames that begin from known ones": ["unet.previous=true"],
        "activations computed again": [f"unet.checkpoint={every}"],
    }
    return found | {"blocks compiled": ["train.compile=true"]} if compiled else found


def step_of(config: Path, changes: list[str], batch: int, seed: int) -> Callable[[], object]:
    """A training step of the recipe with changes: loss, gradients clipped, optimizer."""
    plan = sketch(load(config, changes), config.parent, look=False)
    assert isinstance(plan.config, DiffusionRun)
    options = plan.config.train
    torch.manual_seed(seed)
    objective = plan.build()
    given = {name: torch.randn_like(x) if x.is_floating_point() else x for name, x in plan.batch(batch).items()}
    precision: Precision = "bf16" if options.precision == "bf16" else "fp32"
    if options.compile:
        compile_blocks(objective)
    optimizer, weights = build_optimizer(options.optim, objective), [*objective.parameters()]

    def step() -> None:
        with autocast(CPU, precision):
            loss = objective(given)["loss"]
        loss.backward()
        clip_gradients(weights, options.optim.clip)
        with autocast(CPU, precision):  # as the engine has it: Muon multiplies in it
            optimizer.step()
        optimizer.zero_grad()

    return step


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Times every variant by turns."""
    torch.set_num_threads(args.threads)
    recipe = load(args.config, [])
    assert isinstance(recipe, DiffusionRun)
    chosen = variants(len(recipe.unet.multipliers), args.compile)
    works = {name: step_of(args.config, changes, args.batch, args.seed) for name, changes in chosen.items()}
    seconds = in_turns(works, args.rounds)
    rows = [
        {
            "name": name,
            "changes": chosen[name],
            "seconds": statistics.median(column),
            "ratio": ratio(column, seconds[BASE]),
        }
        for name, column in seconds.items()
    ]
    print(f"{args.config}, a training step of {args.batch} clips, {args.threads} threads, fp32 unless said")
    for row in rows:
        print(f"{row['name']:<42}{1000 * row['seconds']:>8.0f} ms, {spread(row['ratio'])} times", flush=True)
    return {"config": str(args.config), "batch": args.batch, "rows": rows}


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=Path("configs/shapes.yaml"), help="recipe of the model")
    command.add_argument("--batch", type=int, default=8, help="clips of a step")
    command.add_argument("--compile", action="store_true", help="also with compiled blocks, which takes minutes")
