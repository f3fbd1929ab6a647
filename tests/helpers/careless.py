"""What careless commands are tried on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from vidiff.cli import module_of
from vidiff.cli.options import Parser
from vidiff.codec.codec import Identity
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.nn.unet import UNetConfig
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.video.writer import write_video


def fill(place: Path) -> None:
    """A folder with a run of random weights, a clip, and a file that is none."""
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=2)
    data = DataConfig("data", size=8, frames=4)
    sampling = SamplingConfig({"name": "ddim"}, steps=1, context=2)
    config = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    run = place / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(dump(config))
    (run / "data.json").write_text(json.dumps({"labels": ["cat", "dog"], "fps": 8.0}))
    save_codec(run / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    checkpoint.save(run / "checkpoints", 1, weights, weights, {})
    write_video(place / "clip.mp4", torch.rand(3, 5, 8, 8) * 2 - 1)
    (place / "notes.txt").write_text("not a film")
    (place / "folder").mkdir()
    (place / "folder" / "notes.txt").write_text("not a film")


def parsers(command: str) -> list[Parser]:
    """That of a command, and those of its tasks."""
    caught: list[Parser] = []

    def catch(self: Parser, *_: object, **__: object) -> argparse.Namespace:
        caught.append(self)
        raise LookupError

    with pytest.MonkeyPatch.context() as patch:
        for way in ("parse_args", "parse_intermixed_args"):
            patch.setattr(Parser, way, catch)
        with pytest.raises(LookupError):
            module_of(command).parse([])
    for action in caught[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [*caught, *action.choices.values()]
    return caught
