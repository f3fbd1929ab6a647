from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vidiff.cli.measure import surprise
from vidiff.codec.codec import Identity
from vidiff.data.buckets import Bucket
from vidiff.diffusion import likelihood
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.schedule import Cosine
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import SamplingConfig
from vidiff.video.reader import read_image
from vidiff.video.writer import write_video

pytest.importorskip("matplotlib")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a model that knows clips of four dark frames."""
    data = Mixture(torch.full((1, 3, 4, 16, 16), -0.5), torch.tensor([0.2]))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    model = TrainedModel(denoiser, Identity(), Facts((Bucket(4, 16, 16),)))
    pipeline = Pipeline(model, SamplingConfig(context=2), "cpu")
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda run, device: pipeline)
    return surprise


def test_the_frame_that_is_unlike_the_rest_is_named_and_plotted(tool: ModuleType, tmp_path: Path, capsys) -> None:
    video = torch.full((3, 9, 16, 24), -0.5)
    video[:, 6] = 0.8
    write_video(tmp_path / "clip.mp4", video, fps=8)
    out = tmp_path / "surprise.png"
    arguments = [str(tmp_path / "clip.mp4"), "--run", str(tmp_path), "--out", str(out), "--steps", "8"]
    assert tool.main(arguments) == 0
    said = capsys.readouterr().out
    assert "9 frames" in said and said.rstrip().endswith("most at frame 6")
    assert float(read_image(out).std()) > 0  # something is drawn


def test_a_user_s_mistake_is_one_line(tool: ModuleType, tmp_path: Path, capsys) -> None:
    assert tool.main([str(tmp_path / "none.mp4"), "--run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_model_is_told_all_that_it_is_always_told(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the least stride, where it was trained with several; and it sees frames of one of its own sizes."""
    model = Pipeline.from_pretrained(tmp_path, "cpu").model
    facts = replace(model.facts, buckets=(Bucket(4, 16, 24),), strides=(2, 4))
    pipeline = Pipeline(replace(model, facts=facts), SamplingConfig(context=2), "cpu")
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda run, device: pipeline)
    told = []

    def spy(denoiser: object, latents: Tensor, condition: Condition, *rest: object, **more: object) -> Tensor:
        told.append((latents.shape, condition.stride))
        return torch.zeros(1, latents.shape[2])

    monkeypatch.setattr(likelihood, "surprise", spy)
    write_video(tmp_path / "clip.mp4", torch.zeros(3, 9, 16, 24), fps=8)
    assert tool.main([str(tmp_path / "clip.mp4"), "--run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 0
    ((shape, stride),) = told
    assert shape == (1, 3, 5, 16, 24) and stride is not None and stride.flatten().tolist() == [2]
