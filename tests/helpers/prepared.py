"""Clips, codec and latents of a recipe, as a training on latents prepares them, without the training."""

from __future__ import annotations

from pathlib import Path

from vidiff.recipe.kinds import LatentRun
from vidiff.training.prepare import Prepared, find_clips, make_latents, open_caches


def prepare_latents(config: LatentRun, folder: Path) -> Prepared:
    found = find_clips(config, folder)
    return make_latents(config, found, open_caches(config, found.codec, folder))
