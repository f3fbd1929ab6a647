"""A model of random weights that is told actions, and clips that it may begin with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pipelines import VAE, config, denoiser
from videos import smooth

from vidiff.codec.codec import VAECodec
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.play.controls import Controls
from vidiff.play.openings import Openings
from vidiff.play.server import Room
from vidiff.play.session import Session
from vidiff.video.writer import write_video

KEYS = ActionSpace((Action("keys", "discrete", 3, ("NOOP", "LEFT", "RIGHT")),))


def build(space: ActionSpace = KEYS, causal: bool = True) -> Pipeline:
    """Of 8 x 8 pixels, 8 frames a second; each frame looks back on two."""
    of = config(2, 6)
    of.unet.causal, of.unet.actions = causal, space.width
    of.sampling.steps, of.sampling.guidance = 1, 1.0
    of.sampling.strategy = {"name": "stream" if causal else "clean"}
    facts = Facts.of(of, ("cat", "dog"), 8.0, actions=space)
    return Pipeline(TrainedModel(denoiser(of), VAECodec(VAE), facts), of.sampling, "cpu")


@pytest.fixture(scope="session")
def make_pipe() -> Callable[..., Pipeline]:
    return build


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    return build()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two classes, held out, with what was done in the first."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("train/dog/0", "test/cat/0", "test/dog/0"):
        write_video(folder / f"{name}.mp4", smooth(5, 8, 8))
    (folder / "actions.json").write_text(json.dumps({"actions": KEYS.facts()}))
    np.save(folder / "test" / "cat" / "0.actions.npy", np.array([-1, 1, 2, 1, 0]))
    return folder


@pytest.fixture
def openings(pipe: Pipeline, data: Path) -> Openings:
    options = config(2, 6).data
    options.root = str(data)
    return Openings(data, options, data, pipe.facts, pipe.reach())


@pytest.fixture
def session(pipe: Pipeline, openings: Openings, tmp_path: Path) -> Session:
    return Session(pipe, openings, None, tmp_path)


@pytest.fixture
def room(pipe: Pipeline, openings: Openings, tmp_path: Path) -> Callable[..., Room]:
    """Makes a room with so many seats taken."""
    told = {"name": "tiny", "fps": 8.0, "scale": 4, "clips": openings.names, "beside": None, "seed": 0}

    def made(token: str | None = None, pages: int = 0) -> Room:
        return Room(lambda: Session(pipe, openings, None, tmp_path), Controls(KEYS), told, token, pages)

    return made
