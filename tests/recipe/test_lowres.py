"""Recipes of models that enlarge clips, trained on parts of frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.plan.sketch import sketch
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.recipe.slots import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lowres.crop=256", r"lowres\.crop is 256; give pixels up to data\.size, which is 128"),
        ("lowres.factor=0", r"only a model that enlarges clips \(lowres\.factor\) is trained on parts"),
        ("lowres.crop=-8", r"lowres\.crop is -8; give pixels up to"),
        ("lowres.crop=60", r"lowres\.crop is 60; .* give a multiple of 8"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(CONFIGS / "texture_sr128.yaml", [change])


def test_a_plan_is_of_the_parts_that_are_trained_on() -> None:
    found = load(CONFIGS / "texture_sr256.yaml")
    assert isinstance(found, DiffusionRun) and (found.data.size, found.crop) == (256, 64)
    batch = sketch(found, CONFIGS, look=False).batch(2)
    assert batch["lowres"].shape == batch["mean"].shape == (2, 3, found.data.frames, 64, 64)
