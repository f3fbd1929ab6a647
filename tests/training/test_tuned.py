"""Training goes on with autoencoders of diffusers, here small random ones: they stay diffusers' own, and are codecs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.codec.test_diffusers_kinds import SMALL, clip, small
from vidiff.codec.codec import Codec
from vidiff.codec.diffusers import DiffusersCodec, Tuned, names_one, read
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.engine.checkpoint import load_part
from vidiff.evaluate.codec import open_codec
from vidiff.nn.causal import Stream
from vidiff.objective.vae import VAELoss, VAEObjective
from vidiff.pipeline.pipeline import Pipeline
from vidiff.plan.estimate import estimate
from vidiff.plan.sketch import sketch
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.share.export import export
from vidiff.train import main
from vidiff.training.prepare import open_caches, plan_codec

VAE = """\
kind: vae
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 2, workers: 0}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 2, sample_every: 2, ema: 0.5,
        optim: {lr: 1.0e-3, warmup: 0}}
"""
DIFFUSION = """\
kind: diffusion
name: model
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 2, workers: 0}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 1, context: 1, count: 2}
train: {steps: 1, precision: fp32, log_every: 1, validate_every: 1, sample_every: 0}
"""


def kl() -> Any:
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.4,
        shift_factor=0.1,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clips, and an autoencoder of each of two classes that has been trained on them for two steps."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_shapes("data", ShapesSpec(size=32, frames=4, train=1, test=1), progress=False)
        kl().save_pretrained("theirs/kl")
        small("tiny").save_pretrained("theirs/tiny")
        Path("theirs/kl/README.md").write_text("---\nlibrary_name: diffusers\nlicense: openrail++\n---\n# A page\n")
        Path("vae.yaml").write_text(VAE)
        Path("model.yaml").write_text(DIFFUSION)
        yield folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def same(one: Codec, other: Codec) -> bool:
    """But for rounding: where its weights lie in memory decides on some CPUs in which order a convolution adds."""
    video = torch.rand(1, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = one.encode(video)
    pairs = [(z.mean, other.encode(video).mean), (one.decode(z.mean), other.decode(z.mean))]
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "loss", "told"),
    [
        ("kl", "shifted: 0.5", "theirs/kl, whose licence is openrail++"),
        ("tiny", "kl: 0", "theirs/tiny, beside which no licence is told"),
    ],
)
def test_one_is_trained_and_is_a_codec_of_a_run_and_of_diffusers(
    name: str, loss: str, told: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(f"{name}.yaml").write_text(f"{VAE}name: {name}\nstart: theirs/{name}\nloss: {{{loss}}}\n")
    assert main([f"{name}.yaml", "train.steps=1"]) == 0
    assert told in "".join(capfd.readouterr())
    shutil.move(f"theirs/{name}", f"elsewhere-{name}")  # from here on the run has all that it needs
    assert main([f"{name}.yaml"]) == 0
    assert "going on from step 1 of 2" in "".join(capfd.readouterr())
    first, run = read(f"elsewhere-{name}"), Path("runs") / name
    codec = open_codec(run)
    assert isinstance(codec, DiffusersCodec) and not same(codec, DiffusersCodec(first))
    assert all(torch.equal(getattr(codec, key), getattr(DiffusersCodec(first), key)) for key in ("shift", "scale"))

    # diffusers reads it as its own, with the weights of the last checkpoint
    kind = getattr(diffusers, type(first).__name__)
    again = kind.from_pretrained(run / "codec", low_cpu_mem_usage=False).eval()
    weights = load_part(run, "network")
    assert all(torch.equal(value, weights[f"network.{key}"]) for key, value in again.state_dict().items())
    assert same(codec, DiffusersCodec(again))

    # models take it in three ways that mean the same; one is trained, and shared
    ways = {
        "path": f"codec={{name: diffusers, path: {run / 'codec'}}}",
        "config": f"codec.config={name}.yaml",
        "run": f"codec.run={run}",
    }
    for way, key in ways.items():
        config = load("model.yaml", [f"name={name}-{way}", key, "codec.least=0"])
        assert isinstance(config, DiffusionRun)
        assert same(open_caches(config, plan_codec(config, place), place).codec, codec)
    assert main(["model.yaml", f"name={name}-run", ways["run"], "codec.least=0"]) == 0
    export(Path(f"runs/{name}-run"), Path(f"shared-{name}"), "ada/shapes")
    assert "runs" not in Path(f"shared-{name}/codec/config.json").read_text(), "no path of this machine"
    shared = Pipeline.from_pretrained(f"shared-{name}", "cpu")
    assert same(shared.codec, codec) and bool(shared.generate(frames=2).isfinite().all())
    shutil.move(f"elsewhere-{name}", f"theirs/{name}")


@pytest.mark.parametrize("kind", SMALL)
def test_each_class_can_be_trained(kind: str) -> None:
    """What it makes with gradients is what it makes as a codec, and every weight is moved."""
    network, video = small(kind), clip(kind)
    codec = DiffusersCodec(network)
    z, expected = codec.encode(video), codec.decode(codec.encode(video).mean)
    tuned = Tuned(network)
    tuned.eval()
    frames = video.transpose(1, 2).flatten(0, 1)
    mean, _ = tuned.encode(frames, Stream(2))
    raw = z.mean.transpose(1, 2).flatten(0, 1) * codec.scale[:, None, None] + codec.shift[:, None, None]
    torch.testing.assert_close(mean, raw, atol=1e-5, rtol=0)
    decoded = tuned.decode(mean, Stream(2)).unflatten(0, (2, -1)).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(decoded, expected, atol=5e-5, rtol=0)  # two clips at once, and not one
    objective = VAEObjective(tuned, VAELoss(kl=1e-6 if tuned.noisy else 0.0, adversarial=0.5, discriminator_width=4))
    found = objective({"video": video})
    found["loss"].backward()
    assert bool(found["loss"].isfinite()) and ("kl" in found) == tuned.noisy
    still = [name for name, weight in tuned.named_parameters() if weight.grad is None]
    idle = kind == "temporal decoder"  # its decoder has an attention that a network of one layer does not use
    assert all(idle and "decoder.mid_block.attentions" in name for name in still)


def test_the_plan_knows_it(place: Path) -> None:
    """Of an autoencoder that is trained, and of a model on its latents, by its config alone."""
    of = sketch(load("vae.yaml", ["name=x", "start=theirs/kl"]), place)
    weights = sum(p.numel() for p in kl().parameters())
    assert estimate(of, "fp32").parameters == weights
    of = sketch(load("model.yaml", ["codec.config=vae.yaml", "codec.override={name: x, start: theirs/kl}"]), place)
    assert of.codec == weights and of.batch(1)["mean"].shape == (1, 4, 2, 16, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["start=theirs/tiny"], "loss.kl is 0.0001, but latents of theirs/tiny have no noise: set loss.kl=0"),
        (["start=theirs/kl", "vae.width=8"], "start=theirs/kl brings its own shape, so nothing of vae is read"),
        (["start=theirs/kl", "data.size=33"], "data.size is 33; the autoencoder shrinks by 2: it must divide"),
        (["start=nobody/nothing", "name=x"], "nobody/nothing cannot be used as an autoencoder"),
    ],
)
def test_what_does_not_go_together_is_told(changes: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_config(place: str, **where: str) -> None:
        raise OSError("no network")

    if "nobody" in said:
        monkeypatch.setattr(diffusers.AutoencoderKL, "load_config", load_config)
    with pytest.raises(ValueError) as caught:
        load("vae.yaml", ["name=x", *changes])
    assert said in str(caught.value)


def test_a_run_is_no_name_on_the_hub(place: Path) -> None:
    assert names_one("theirs/kl") and names_one("owner/name") and names_one("owner/name/vae")
    assert not names_one("runs/kl") and not names_one("theirs/none") and not names_one("data")
    kept = Path("runs/kl/codec/codec.json")
    assert not kept.is_file() or json.loads(kept.read_text()) == {"name": "diffusers"}
