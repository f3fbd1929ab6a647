"""What is known of a model besides its weights: kept by a training, and the same for who loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vidiff.codec.codec import Identity
from vidiff.data.buckets import Bucket
from vidiff.data.options import DataConfig
from vidiff.diffusion.cascade import LowresConfig
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun


def config(**changes: object) -> DiffusionRun:
    data = DataConfig("nowhere", size=16, frames=4, stride=[2, 6], images="pictures")
    found = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), **changes)
    found.unet = UNetConfig(width=4, multipliers=[1], blocks=[1], joint_attention=[], head_dim=4)
    return found


def test_what_is_kept_is_what_is_loaded(tmp_path: Path) -> None:
    of = config(lowres=LowresConfig(2), text={"name": "words", "dim": 8})
    of.resolve(3, 2, (8, 2))
    learned = {"vocabulary": ["cat", "dog"], "length": 1}
    detail = tuple(torch.tensor([0.1, 0.2, 0.3]).tolist())
    facts = Facts.of(of, ("a", "b"), 7.5, detail, learned)
    facts.save(tmp_path)
    told = json.loads((tmp_path / "data.json").read_text())
    assert told == {"labels": ["a", "b"], "fps": 7.5, "text": learned, "detail": list(detail)}
    assert Facts.load(tmp_path, of) == facts
    assert torch.equal(torch.tensor(facts.detail), torch.tensor([0.1, 0.2, 0.3])), "bit for bit"


def test_facts_follow_from_the_resolved_config() -> None:
    of = config(conditional=False)
    of.resolve(3, 2)
    facts = Facts.of(of, ("a", "b"), 7.5)
    assert facts.labels == () and of.unet.labels == 0, "what the model is not told is no label of it"
    assert facts.buckets == (Bucket(4, 16, 16), Bucket(1, 16, 16)) and (facts.frames, facts.size) == (4, 16)
    assert facts.strides == (2, 6) and facts.stride == 2 and of.unet.strided
    assert (of.unet.channels, of.unet.lowres_channels, of.unet.text_dim, of.unet.words) == (3, 0, 0, 0)


def test_a_model_is_told_labels_and_its_least_stride() -> None:
    of = config()
    of.resolve(3, 2)
    model = TrainedModel(build_denoiser(of), Identity(), Facts.of(of, ("a", "b"), 8.0))
    condition = model.condition(["b", 0], 2)
    assert condition.label.tolist() == [1, 0] and condition.stride.tolist() == [2, 2] and condition.text is None
    with pytest.raises(ValueError, match="no label 'c'; the nearest of 2 are"):
        model.condition("c", 1)
