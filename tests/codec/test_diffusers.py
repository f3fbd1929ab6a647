"""diffusers' AutoencoderKL as a codec: in agreement with diffusers, in tiles, and under a whole training."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file, save_file

from vidiff.codec.codec import Codec
from vidiff.codec.diffusers import DiffusersCodec, read
from vidiff.codec.files import load_codec, save_codec
from vidiff.data.latents.cache import LatentCache
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.pipeline.pipeline import Pipeline
from vidiff.train import main
from vidiff.video.reader import read_video

PLAIN: dict[str, Any] = {"scaling_factor": 0.37, "shift_factor": 0.11}
EACH: dict[str, Any] = {
    "scaling_factor": 0.5,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.0, 2.0, 0.5, 3.0],
}


def tiny(width: int = 8, **config: Any) -> AutoencoderKL:
    """4x, with attention in the middle, as the autoencoders of Stable Diffusion have it."""
    network = AutoencoderKL(
        block_out_channels=(width, width, 2 * width),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        **config,
    )
    return network.eval().requires_grad_(False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    tiny(**PLAIN).save_pretrained(tmp_path / "kl")
    return tmp_path / "kl"


@pytest.mark.parametrize("config", [PLAIN, {"scaling_factor": 0.18215}, EACH])
def test_latents_and_pictures_are_those_of_diffusers(config: dict[str, Any]) -> None:
    network, video = tiny(**config), torch.rand(2, 3, 5, 24, 32) * 2 - 1
    codec = DiffusersCodec(network)
    assert (codec.channels, codec.factor, codec.temporal) == (4, 4, 1)
    found = codec.encode(video)
    shift = torch.tensor(config.get("latents_mean", config.get("shift_factor", 0.0))).view(-1, 1, 1)
    scale = torch.tensor(config.get("latents_std", 1.0)).view(-1, 1, 1) / config["scaling_factor"]
    for b in range(2):
        for f in range(5):
            latent = network.encode(video[b : b + 1, :, f]).latent_dist
            torch.testing.assert_close(found.mean[b, :, f], ((latent.mean - shift) / scale)[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(found.std[b, :, f], (latent.std / scale)[0], atol=1e-5, rtol=0)
            picture = network.decode(found.mean[b : b + 1, :, f] * scale + shift).sample.clamp(-1, 1)
            torch.testing.assert_close(codec.decode(found.mean)[b, :, f], picture[0], atol=1e-5, rtol=0)


def waves(height: int, width: int) -> torch.Tensor:
    """A picture with something to see everywhere, `(1, 3, 1, h, w)`."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phases = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    return (0.7 * torch.sin(x / 9 + phases) * torch.cos(y / 13 - phases) + 0.3 * torch.sin(x * y / 997))[None, :, None]


def jump(found: torch.Tensor, expected: torch.Tensor, every: int) -> float:
    """How much further the error of tiles changes where two of them meet than elsewhere, at most; `(1, c, 1, h, w)`."""
    error = (found - expected).double()
    across = (error[..., 1:] - error[..., :-1]).abs().mean((0, 1, 2, 3))  # between columns
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean((0, 1, 2, 4))
    seams = [torch.cat([x[every - 1 : -1 : every], x[-1:] * 0]).max() / x.mean() for x in (across, down)]
    return float(max(seams))


def test_where_tiles_meet_no_seam_shows() -> None:
    """Group norm sees one tile at a time, so tiles differ a little from the whole; but they pass over smoothly."""
    codec, plain = (DiffusersCodec(tiny(16), tile) for tile in (64, 0))
    plain.load_state_dict(codec.state_dict())
    picture = waves(192, 256)
    expected = plain.encode(picture)
    shown = plain.decode(expected.mean)
    sizes = {}
    for blend in (codec.blend, 0):
        codec.blend = blend
        z, again = codec.encode(picture), codec.decode(expected.mean)
        sizes[blend] = jump(z.mean, expected.mean, 16), jump(again, shown, 64)
    assert max(sizes[16]) < 1.4, sizes
    assert sizes[0][0] > 1.6 and sizes[0][1] > 4.0, sizes  # as it would be if they were cut off sharply


def test_tiles_are_nearer_to_the_whole_than_those_of_diffusers() -> None:
    network = tiny(16)
    codec, picture = DiffusersCodec(network, tile=64), waves(192, 256)
    expected = network.encode(picture[:, :, 0]).latent_dist.mean
    shown = network.decode(expected).sample
    own = codec.encode(picture).mean[:, :, 0] * codec.scale[:, None, None]
    again = codec.decode(expected.unsqueeze(2) / codec.scale.view(-1, 1, 1, 1))[:, :, 0]
    network.enable_tiling()
    network.tile_sample_min_size, network.tile_latent_min_size = 64, 16
    theirs = network.encode(picture[:, :, 0]).latent_dist.mean
    assert (own - expected).abs().mean() < (theirs - expected).abs().mean()
    assert (again - shown).abs().mean() < (network.decode(expected).sample - shown).abs().mean()


def test_a_run_holds_it_whole(saved: Path, tmp_path: Path) -> None:
    codec = DiffusersCodec(read(saved), tile=64)
    save_codec(tmp_path / "run", codec)
    assert json.loads((tmp_path / "run" / "codec.json").read_text()) == {"name": "diffusers"}
    shutil.rmtree(saved)
    found = load_codec(tmp_path / "run", tile=64)
    assert isinstance(found, DiffusersCodec) and found.tile == 64 and found.digest() == codec.digest()
    video = torch.rand(1, 3, 2, 16, 16) * 2 - 1
    assert torch.equal(found.encode(video).mean, codec.encode(video).mean)
    (tmp_path / "run" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="run is damaged: remove that folder, and start the training again"):
        load_codec(tmp_path / "run")


def test_its_digest_names_all_that_latents_depend_on() -> None:
    network = tiny(**PLAIN)
    codecs = [DiffusersCodec(network), DiffusersCodec(network, tile=64), DiffusersCodec(tiny(**PLAIN))]
    other = tiny(**{**PLAIN, "scaling_factor": 0.38})
    other.load_state_dict(network.state_dict())
    digests = [codec.digest() for codec in (*codecs, DiffusersCodec(other))]
    assert len(set(digests)) == 4 and digests[0] == DiffusersCodec(network).digest()


def spoil(folder: Path, how: str) -> None:
    """Make a folder one that cannot be used."""
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    if how == "no config":
        config.unlink()
    elif how == "a pipeline":
        (folder / "vae").mkdir()
        config.rename(folder / "vae" / "config.json")
    elif how == "no weights":
        weights.unlink()
    elif how == "damaged":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == "no json":
        config.write_text("{")
    elif how == "a layer less":
        state = load_file(weights)
        state.pop("decoder.conv_in.bias")
        save_file(state, weights)
    elif how == "other layers":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [8, 8, 24]}))
    elif how == "another class":
        shutil.rmtree(folder)
        VQModel(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)
    elif how == "grey":
        shutil.rmtree(folder)
        tiny(in_channels=1, out_channels=1).save_pretrained(folder)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "holds no config.json"),
        ("a pipeline", "kl/vae"),
        ("no weights", "no file named diffusion_pytorch_model.safetensors"),
        ("damaged", "cannot be used as an autoencoder"),
        ("no json", "cannot be used as an autoencoder"),
        ("a layer less", "its weights lack decoder.conv_in.bias"),
        ("other layers", "size mismatch"),
        ("another class", "it is of class VQModel, and known are AutoencoderKL, AutoencoderTiny,"),
        ("grey", "it takes frames of 1 channels, and a video has 3"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(saved: Path, how: str, said: str) -> None:
    spoil(saved, how)
    with pytest.raises(ValueError) as caught:
        read(saved)
    assert said in str(caught.value) and str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_on_the_hub_may_say_in_which_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_config(place: str, **where: str) -> None:
        raise OSError(f"asked for {place} and {where}\nTry again.")

    monkeypatch.setattr(AutoencoderKL, "load_config", load_config)
    for path, asked in (("a/b", "a/b and {}"), ("a/b/vae", "a/b and {'subfolder': 'vae'}")):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert f"{path} cannot be used as an autoencoder (asked for {asked} Try again)" in str(caught.value)
    for path in ("kl", "./a/b", "/a/b", "../a/b", "a/b/../c"):
        with pytest.raises(ValueError, match="there is no folder"):
            read(path)


def test_without_the_package_it_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'vidiff\[diffusers\]', or train an autoencoder"):
        read(saved)


CONFIG = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 4, workers: 0}
codec: {name: diffusers, path: kl, least: 0}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 2, context: 2, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 2, sample_every: 2}
"""


def test_a_model_is_trained_on_its_latents(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    def refused(*changes: str) -> str:
        assert main(["tiny.yaml", *changes]) == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    assert "codec.path: there is no folder elsewhere" in refused("codec.path=elsewhere")
    assert "the codec shrinks by 4" in refused("data.size=36")
    assert not (tmp_path / "data").exists()  # refused before any data is touched
    make_shapes("data", ShapesSpec(size=32, frames=6, train=1, test=2), progress=False)

    assert main(["tiny.yaml", "train.steps=1"]) == 0
    assert main(["tiny.yaml"]) == 0
    assert "going on from step 1 of 2" in "".join(capfd.readouterr())
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False).eval()
    shutil.rmtree(saved)  # the run needs it no more
    pipeline = Pipeline.from_pretrained("runs/tiny", device="cpu")
    codec: Codec = pipeline.codec
    torch.testing.assert_close(codec.scale, torch.full((4,), 1 / 0.37))
    torch.testing.assert_close(codec.shift, torch.full((4,), 0.11))
    made = pipeline.generate(frames=4, label=0, seed=1)
    assert made.shape == (1, 3, 4, 32, 32) and bool(made.isfinite().all())
    longer = pipeline.extend(made, frames=6)
    assert torch.equal(longer[:, :, :4], made)

    # what was learned from are the latents that diffusers' own models see, whatever the clips
    caches = [LatentCache(path.parent) for path in (tmp_path / "runs" / "latents").glob("*/index.json")]
    clips = sorted((tmp_path / "data" / "test").rglob("*.mp4"))
    (cache,) = (each for each in caches if len(each) == len(clips))
    frames = read_video(clips[0]).transpose(0, 1)
    with torch.no_grad():
        expected = (network.encode(frames).latent_dist.mean - 0.11) * 0.37  # f c h w
    torch.testing.assert_close(cache.read(0, 0, 6)[0].transpose(0, 1), expected, atol=2e-3, rtol=2e-3)  # float16


def test_a_codec_with_other_weights_makes_another_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    make_shapes("data", ShapesSpec(size=32, frames=6, train=1, test=1), progress=False)
    assert main(["tiny.yaml", "train.steps=1"]) == 0
    tiny(**PLAIN).save_pretrained(saved)
    assert main(["tiny.yaml"]) == 2
    assert "tiny was trained with another codec" in capfd.readouterr().err
