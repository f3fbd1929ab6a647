"""A recipe's model with random weights, which take as long as any."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from vidiff.codec.codec import VAECodec
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.diffusion.condition import Condition
from vidiff.draw.window import Draw
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.plan.sketch import sketch
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load, load_codec_config
from vidiff.recipe.slots import build_sampler

KEYS = ActionSpace((Action("keys", "discrete", 4, ("NOOP", "FIRE", "RIGHT", "LEFT")),))


def world(config: Path, seed: int) -> Pipeline:
    """A recipe's model and autoencoder, told one of four keys for each frame."""
    run = sketch(load(config), config.parent, look=False).config
    assert isinstance(run, DiffusionRun)
    run.unet.actions, run.unet.labels = KEYS.width, 0
    torch.manual_seed(seed)
    codec = VAECodec(load_codec_config(run, config.parent).vae, run.codec.tile).eval()
    facts = Facts.of(run, (), 15.0, actions=KEYS)
    return Pipeline(TrainedModel(build_denoiser(run).eval(), codec, facts), run.sampling, "cpu")


def draws(
    args: argparse.Namespace, causal: bool = False, device: str | torch.device = "cpu"
) -> tuple[DiffusionRun, Draw, Tensor, Condition]:
    """The recipe, how its model draws with guidance, frames that are past, and what is asked for."""
    recipe = load(args.config, [f"unet.causal={str(causal).lower()}"])
    plan = sketch(recipe, args.config.parent, look=False)
    assert isinstance(plan.config, DiffusionRun)
    torch.manual_seed(args.seed)
    denoiser = build_denoiser(plan.config).eval().requires_grad_(False).to(device)
    mean = plan.batch(1)["mean"]
    sampling = plan.config.sampling
    draw = Draw(
        denoiser,
        build_sampler(sampling.sampler),
        args.steps,
        args.guidance,
        mean.shape[2],
        torch.Generator().manual_seed(args.seed),
        history=args.guidance,
        grid=sampling.grid,
    )
    past = torch.randn(mean.shape, generator=draw.generator).to(device)
    label = torch.zeros(1, dtype=torch.long, device=device) if plan.config.unet.labels else None
    return plan.config, draw, past, Condition(label)


def untrained(command: argparse.ArgumentParser) -> None:
    """The options of what such a model is measured at."""
    command.add_argument("--config", type=Path, default=Path("configs/shapes.yaml"), help="recipe of the model")
    command.add_argument("--steps", type=int, default=8, help="times at which the sampler asks the model")
    command.add_argument("--guidance", type=float, default=2.5, help="scale on label and history")
