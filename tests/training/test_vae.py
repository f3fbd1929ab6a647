"""Training an autoencoder with a discriminator and a perceptual distance, as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.engine import checkpoint
from vidiff.recipe.kinds import VAERun
from vidiff.recipe.load import load
from vidiff.report.log import read_metrics
from vidiff.training.prepare import prepare_codec
from vidiff.training.stages import train

VAE = """\
kind: vae
device: cpu
batch: 2
data: {root: data, layout: folders, size: 16, frames: 2, workers: 0}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}
loss: {perceptual: 1.0, perceptual_network: apart, adversarial: 0.5, adversarial_start: 2, shifted: 0.5,
       discriminator_width: 8, discriminator_levels: 2}
train: {steps: 6, precision: fp32, log_every: 1, checkpoint_every: 3, validate_every: 6, accumulate: 2,
        optim: {warmup: 0}}
"""


class Apart(nn.Module):
    """A stand-in for LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.conv(a).relu() - self.conv(b).relu()).square().mean([1, 2, 3], keepdim=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_shapes(tmp_path / "data", ShapesSpec(size=32, frames=4, train=1, test=1), progress=False)
    (tmp_path / "apart").mkdir()
    torch.jit.script(Apart()).save(str(tmp_path / "apart" / "apart.pt"))
    declared = {"name": "apart", "file": "apart.pt", "layout": "bchw"}
    (tmp_path / "apart" / "network.json").write_text(json.dumps(declared))
    (tmp_path / "vae.yaml").write_text(VAE)
    return tmp_path


def run(*changes: str) -> VAERun:
    config = load("vae.yaml", changes)
    assert isinstance(config, VAERun)
    train(config, VAE, Path())
    return config


def test_a_training_in_two_parts_is_bit_equal_and_its_codec_is_the_autoencoder_alone(place: Path) -> None:
    whole = run("name=whole")
    run("name=parts", "train.steps=3")
    parts = run("name=parts")
    one, two = (checkpoint.load(place / "runs" / name / "checkpoints" / "step-0000006") for name in ("whole", "parts"))
    for kind in ("model", "ema"):
        ours, theirs = getattr(one, kind), getattr(two, kind)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert int(one.model["adversary.calls"]) == 12  # six steps in two parts
    lines = [[x for x in read_metrics(c.folder / "metrics.jsonl") if "fooled" in x] for c in (whole, parts)]
    names = ("loss", "perceptual", "fooled", "discriminator", "adaptive", "grad_norm")
    assert [[x[name] for name in names] for x in lines[0]] == [[x[name] for name in names] for x in lines[1]]
    assert [x["discriminator"] > 0 for x in lines[0]] == [False, False, True, True, True, True]
    assert any("adversary.discriminator" in key for key in one.ema)
    codec = prepare_codec(whole, Path())
    assert {f"network.{key}" for key in codec.network.state_dict()} == {k for k in one.ema if k.startswith("network.")}
    assert torch.equal(codec.network.state_dict()["encoder.1.weight"], one.ema["network.encoder.1.weight"])


def test_the_distance_of_a_real_network_is_trained_on_and_needs_no_file(place: Path) -> None:
    """In the same way each time, in bfloat16 as well; its weights are no part of the run."""
    changes = ("loss.perceptual_network=efficientnet", "train.steps=2", "loss.adversarial=0")
    runs = [
        run(f"name={name}", *changes, f"train.precision={precision}")
        for name, precision in (("one", "fp32"), ("two", "fp32"), ("rounded", "bf16"))
    ]
    lines = [[x for x in read_metrics(c.folder / "metrics.jsonl") if "perceptual" in x] for c in runs]
    told = [[(x["loss"], x["perceptual"], x["grad_norm"]) for x in part] for part in lines]
    assert told[0] == told[1]
    assert told[2] == [pytest.approx(part, rel=0.1) for part in told[0]]
    assert all(x["perceptual"] > 0.1 for part in lines for x in part)
    assert all(key.startswith("network.") for key in checkpoint.load_weights(runs[0].folder))


def test_a_discriminator_sharpens_an_autoencoder_that_is_there(place: Path) -> None:
    plain = run("name=plain", "loss.adversarial=0", "loss.perceptual=0", "train.steps=2")
    with pytest.raises(ValueError, match=r"a discriminator cannot come or go on the way.*start=runs/plain"):
        run("name=plain", "loss.perceptual=0")
    run("name=sharp", "start=runs/plain", "train.steps=1", "train.optim.lr=1e-9", "train.ema=0")
    first = checkpoint.load_weights(plain.folder)
    sharp = checkpoint.load_weights(place / "runs" / "sharp")
    for key, value in first.items():
        torch.testing.assert_close(sharp[key], value, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="autoencoder of another shape"):
        run("name=other", "start=runs/plain", "vae.width=4")
    with pytest.raises(ValueError, match=r"trained with loss\.discriminator_width=8, not 4"):
        run("name=sharp", "loss.discriminator_width=4")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("loss.perceptual_network=''", "loss.perceptual needs loss.perceptual_network"),
        ("train.compile=true", "train.compile does not go with loss.adversarial"),
        ("loss.discriminator_levels=3", "data.size is 16; a discriminator of 3 levels needs 28"),
        ("loss.adversarial=-1", "loss.adversarial is -1"),
        ("data.frames=1", "loss.flicker is 0.5, but a single frame does not flicker: set data.frames"),
    ],
)
def test_settings_that_do_not_go_together_are_named(change: str, told: str, place: Path) -> None:
    with pytest.raises(ValueError, match=told):
        load("vae.yaml", ["name=x", "loss.flicker=0.5", change])


def test_a_network_that_is_not_there_is_named(place: Path) -> None:
    with pytest.raises(ValueError, match=r"no nowhere/network\.json"):
        run("name=x", "loss.perceptual_network=nowhere")
