"""The recipes for real video: they load, plan within what their comments say, and train two steps when made tiny."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vidiff.objective.vae import VAEObjective
from vidiff.plan.plan import GPUS, Planner
from vidiff.recipe.build import build_objective, build_vae_objective
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.recipe.load import load, load_codec_config

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = ("ucf", "ucf_uncond", "ucf_24gb")


def recipe(name: str, *changes: str) -> DiffusionRun:
    config = load(CONFIGS / f"{name}.yaml", changes)
    assert isinstance(config, DiffusionRun)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, "ucf_vae"])
def test_a_recipe_fits_and_takes_as_long_as_it_says(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    said = re.search(r"^# Planned: (\d+) x (\w+), ([\d.]+) GB each, ([\d.]+) hours", text, re.MULTILINE)
    assert said is not None
    count, device, memory, hours = int(said[1]), said[2], float(said[3]), float(said[4])
    plan = Planner(load(CONFIGS / f"{name}.yaml"), CONFIGS, GPUS[device], count).given()
    assert plan is not None and plan.fits
    assert plan.estimate.total / 2**30 == pytest.approx(memory, rel=0.05)
    assert plan.steps * plan.seconds / 3600 == pytest.approx(hours, rel=0.05)
    assert hours <= (16 if device == "h100" else 60)


def test_the_unconditional_one_is_of_the_published_task() -> None:
    config = recipe("ucf_uncond")
    assert (config.conditional, config.data.stride, config.data.frames, config.data.size) == (False, [1, 1], 16, 256)
    assert (config.data.fold, config.sampling.guidance) == (1, 1.0)
    tasks = config.loss.tasks
    assert [tasks.generate, *(getattr(tasks, name) for name in tasks.NAMES[1:])] == [1, 0, 0, 0, 0, 0, 0]
    one, other = (load_codec_config(each, CONFIGS) for each in (config, recipe("ucf")))
    assert one == other, "both are trained on the latents of one autoencoder"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_two_steps_when_made_tiny(name: str) -> None:
    small = ["data.size=64", "data.frames=4", "sampling.context=2", "unet.width=8", "unet.head_dim=8", "batch=2"]
    small += [f"codec.override.{key}" for key in ("vae.width=8", "data.size=64", "batch=2", "vae.blocks=1")]
    small += ["codec.override.loss.adversarial_start=1", "codec.override.loss.discriminator_width=8"]
    config = recipe(name, *small, "train.accumulate=1")
    vae = load_codec_config(config, CONFIGS)
    assert isinstance(vae, VAERun) and vae.vae.channels == 8 and vae.vae.factor == 8
    torch.manual_seed(0)
    coder = build_vae_objective(vae)
    config.resolve(vae.vae.channels, 101 if config.conditional else 0)
    model = build_objective(config)
    video = torch.rand(2, 3, 2, 64, 64) * 2 - 1
    told = {"label": torch.tensor([3, 100]), "stride": torch.tensor([1, 4])}
    latents = {"mean": torch.randn(2, 8, 4, 8, 8), "std": torch.full((2, 8, 4, 8, 8), 0.1)}
    latents |= {} if name == "ucf_uncond" else told
    for objective, batch in ((coder, {"video": video}), (model, latents)):
        optimizer = torch.optim.AdamW(objective.parameters(), vae.train.optim.lr)
        before = [weight.detach().clone() for weight in objective.parameters()]
        for _ in range(2):
            found = objective(batch)
            assert found["loss"].isfinite()
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
        assert sum(not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True)) > 20
        if isinstance(objective, VAEObjective):
            assert found["perceptual"] > 0 and found["discriminator"] > 0
