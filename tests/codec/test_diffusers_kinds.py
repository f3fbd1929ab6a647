"""Every class of diffusers' autoencoders that can be a codec: as diffusers has it, in tiles, and in a training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    AutoencoderTiny,
)
from torch import Tensor

from vidiff.cli.make.encode import main as encode
from vidiff.codec.diffusers import KINDS, DiffusersCodec, read
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.pipeline.pipeline import Pipeline
from vidiff.train import main

MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 3.0]


def tiny() -> Any:
    three = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    wide = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    return AutoencoderTiny(latent_channels=4, scaling_factor=0.8, shift_factor=0.1, **three, **wide)


def dc() -> Any:
    parts: dict[str, Any] = {"attention_head_dim": 4, "latent_channels": 4, "scaling_factor": 0.41407}
    for side in ("encoder", "decoder"):
        parts |= {
            f"{side}_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            f"{side}_block_out_channels": (8, 8, 8),
            f"{side}_layers_per_block": (1, 1, 1),
            f"{side}_qkv_multiscales": ((), (), (5,)),
        }
    return AutoencoderDC(**parts)


def temporal_decoder() -> Any:
    down = ("DownEncoderBlock2D",) * 2
    return AutoencoderKLTemporalDecoder(block_out_channels=(32, 32), down_block_types=down, latent_channels=4)


def cogvideox() -> Any:
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, scaling_factor=0.7
    )


def ltx(**changes: Any) -> Any:
    wide, layers = (8, 8, 8, 8), (1, 1, 1, 1, 1)
    network = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=wide,
        decoder_block_out_channels=wide,
        layers_per_block=layers,
        decoder_layers_per_block=layers,
        patch_size=1,
        scaling_factor=0.5,
        **changes,
    )
    network.latents_mean.copy_(torch.tensor(MEAN))
    network.latents_std.copy_(torch.tensor(STD))
    return network


def wan(**changes: Any) -> Any:
    shape = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True]}
    return AutoencoderKLWan(**{**shape, "latents_mean": MEAN, "latents_std": STD, **changes})


def wan_of_patches() -> Any:
    """As Wan 2.2 has it: frames come in patches of 2."""
    return wan(dim_mult=[1, 1, 1], patch_size=2, in_channels=12, out_channels=12, is_residual=True)


# what makes a small one; factor, temporal, unit; and the mean and std by which latents are scaled
SMALL: dict[str, tuple[Callable[[], Any], tuple[int, int, int], Any, Any]] = {
    "tiny": (tiny, (4, 1, 1), 0.1, 1 / 0.8),
    "dc": (dc, (4, 1, 1), 0.0, 1 / 0.41407),
    "temporal decoder": (temporal_decoder, (2, 1, 1), 0.0, 1 / 0.18215),
    "cogvideox": (cogvideox, (8, 4, 8), 0.0, 1 / 0.7),
    "ltx": (ltx, (8, 8, 8), MEAN, [2 * x for x in STD]),
    "ltx, told of noise": (lambda: ltx(timestep_conditioning=True), (8, 8, 8), MEAN, [2 * x for x in STD]),
    "wan": (wan, (4, 4, 4), MEAN, STD),
    "wan of patches": (wan_of_patches, (8, 4, 4), MEAN, STD),
}
OF_FRAMES = ("tiny", "dc", "temporal decoder")


def small(kind: str) -> Any:
    torch.manual_seed(1)
    network = SMALL[kind][0]().eval().requires_grad_(False)
    assert type(network).__name__ in KINDS
    return network


def clip(kind: str, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Tensor:
    """Two clips of some units, `(2, 3, f, h, w)` in [-1, 1]."""
    frames = 1 + (16 if kind == "cogvideox" else 2 * SMALL[kind][1][2])
    return torch.rand(2, 3, frames, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def theirs(network: Any, kind: str, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and std `(c, f, h, w)` of the raw latents of `(3, f, h, w)`, and the frames that come back."""
    if kind == "tiny":
        latents = torch.cat([network.encode(frame[None]).latents for frame in video.transpose(0, 1)])
        mean, std = latents, torch.zeros_like(latents)
    elif kind == "dc":
        latents = torch.cat([network.encode(frame[None]).latent for frame in video.transpose(0, 1)])
        mean, std = latents, torch.zeros_like(latents)
    elif kind == "temporal decoder":
        found = [network.encode(frame[None]).latent_dist for frame in video.transpose(0, 1)]
        mean, std = (torch.cat([getattr(each, name) for each in found]) for name in ("mean", "std"))
        made = network.decode(mean, num_frames=len(mean)).sample
        return mean.transpose(0, 1), std.transpose(0, 1), made.transpose(0, 1).clamp(-1, 1)
    else:
        found = network.encode(video[None]).latent_dist
        told = {"temb": torch.zeros(1)} if kind == "ltx, told of noise" else {}
        return found.mean[0], found.std[0], network.decode(found.mean, **told).sample[0].clamp(-1, 1)
    made = torch.cat([network.decode(z[None]).sample for z in mean])
    return mean.transpose(0, 1), std.transpose(0, 1), made.transpose(0, 1).clamp(-1, 1)


@pytest.mark.parametrize("kind", SMALL)
def test_latents_and_videos_are_those_of_diffusers_in_chunks_too(kind: str, tmp_path: Path) -> None:
    network, video = small(kind), clip(kind)
    network.save_pretrained(tmp_path / "saved")
    codec = DiffusersCodec(read(tmp_path / "saved"))
    _, facts, mean, std = SMALL[kind]
    assert (codec.factor, codec.temporal, codec.unit, codec.channels) == (*facts, 4)
    shift, scale = (torch.as_tensor(x).expand(4).view(4, 1, 1, 1) for x in (mean, std))
    for chunk in (16, 2):  # a chunk of 2 frames holds neither a clip nor a whole number of them
        codec.chunk = chunk
        found = codec.encode(video)
        for b in range(2):
            raw_mean, raw_std, made = theirs(network, kind, video[b])
            torch.testing.assert_close(found.mean[b], (raw_mean - shift) / scale, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.std[b], raw_std / scale, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(codec.decode(found.mean)[b], made, atol=1e-5, rtol=0)
            assert made.shape == video[b].shape and float(made.std()) > 0.01


def these(*quick: str) -> list[Any]:
    """All kinds, of which the others are slow."""
    return [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in SMALL]


@pytest.mark.parametrize("kind", these("tiny", "dc", "wan"))
def test_tiles_are_what_diffusers_makes_of_them(kind: str) -> None:
    """Where no neighbour is mixed in, a tile is what the network makes of what it reads; and as the whole, but for what
    reaches over a whole frame: attention, and group norm."""
    height, width, side = (64, 192, 64) if "ltx" in kind else (64, 96, 32)  # what LTX sees reaches further
    network, video = small(kind), clip(kind, size=(height, width))[:1, :, : 1 + SMALL[kind][1][2]]
    codec, plain = DiffusersCodec(network), DiffusersCodec(network, tile=0)
    codec.tile, factor = side, codec.factor  # smaller than a config may have it, as is all here
    whole, found = plain.encode(video), codec.encode(video)
    shown, made = plain.decode(whole.mean), codec.decode(whole.mean)
    alone = 0
    for tile in codec._tiles(height // factor, width // factor):
        own, ends = plain.encode(tile.read(video, factor)).mean, (tile.rows, tile.columns)
        picture = plain.decode(tile.read(whole.mean, 1))
        inside = [slice(cut.first + cut.rise, cut.last - cut.fall) for cut in ends]
        pixels = [slice(cut.start * factor, cut.stop * factor) for cut in inside]
        within = [slice(part.start - cut.start, part.stop - cut.start) for part, cut in zip(inside, ends, strict=True)]
        rows, columns = (slice(cut.start * factor, cut.stop * factor) for cut in within)
        alone += found.mean[..., inside[0], inside[1]].numel()
        ours, theirs = found.mean[..., inside[0], inside[1]], own[..., within[0], within[1]]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made[..., pixels[0], pixels[1]], picture[..., rows, columns], atol=1e-5, rtol=0)
        if kind in ("tiny", "ltx", "ltx, told of noise"):  # convolutions alone
            torch.testing.assert_close(ours, whole.mean[..., inside[0], inside[1]], atol=1e-5, rtol=1e-5)
            expected = shown[..., pixels[0], pixels[1]]
            torch.testing.assert_close(made[..., pixels[0], pixels[1]], expected, atol=1e-5, rtol=0)
    assert alone > 0
    assert float((found.mean - whole.mean).abs().mean()) < 0.1 * float(whole.mean.std())
    assert float((made - shown).abs().mean()) < 0.1 * float(shown.std())


@pytest.mark.parametrize(
    ("kind", "frames", "said"),
    [
        (
            "wan",
            16,
            "is 16; the autoencoder makes one latent of the first frame and one of every 4 after it: give 13 or 17",
        ),
        (
            "ltx",
            8,
            "is 8; the autoencoder makes one latent of the first frame and one of every 8 after it: give 1 or 9",
        ),
        ("cogvideox", 13, "one of every 4 after it, 2 at a time: give 9 or 17"),
    ],
)
def test_a_clip_that_makes_no_whole_latents_is_refused_with_lengths_that_do(kind: str, frames: int, said: str) -> None:
    codec = DiffusersCodec(small(kind))
    with pytest.raises(ValueError) as caught:
        codec.encode(torch.zeros(1, 3, frames, 32, 32))
    assert said in str(caught.value)
    assert codec.latents_of(frames) == codec.encode(torch.zeros(1, 3, -(-frames // 8) * 8 + 1, 32, 32)).mean.shape[2]
    if kind == "cogvideox":
        with pytest.raises(ValueError, match=r"a clip has 2 latents; the codec decodes 1 \+ 2 n"):
            codec.decode(torch.zeros(1, 4, 2, 4, 4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ltx(decoder_inject_noise=(True,) * 5), "its decoder adds noise of its own"),
        (lambda: wan(temperal_downsample=[True, False]), "only 4 frames a latent are known"),
        (lambda: wan(in_channels=12, out_channels=12), "it takes frames of 12 channels, and a video has 3"),
    ],
)
def test_what_cannot_be_a_codec_is_refused(make: Callable[[], Any], said: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "saved")
    assert said in str(caught.value) and "saved cannot be used as an autoencoder" in str(caught.value)


CONFIG = """\
kind: diffusion
name: small
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: FRAMES, workers: 0}
codec: {name: diffusers, path: saved, least: 0}  # random weights keep nothing
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, steps: 2, context: 1, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2, sample_every: 2}
"""


@pytest.mark.parametrize("kind", these("tiny", "wan"))
def test_a_model_is_trained_on_its_latents(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small(kind).save_pretrained(tmp_path / "saved")
    unit = SMALL[kind][1][2]
    frames = 1 + max(unit, 2)
    (tmp_path / "small.yaml").write_text(CONFIG.replace("FRAMES", str(frames)))
    if unit > 1:
        assert main(["small.yaml", f"data.frames={frames + 1}"]) == 2
        assert f"data.frames is {frames + 1}" in capfd.readouterr().err and not (tmp_path / "data").exists()
        assert main(["small.yaml", "data.stride=[1,2]"]) == 2
        assert "which does not go with codec.path, whose latents hold" in capfd.readouterr().err
    make_shapes("data", ShapesSpec(size=32, frames=frames, train=1, test=1), progress=False)
    assert encode(["small.yaml"]) == 0
    assert capfd.readouterr().out.count("complete") == 2
    assert main(["small.yaml"]) == 0
    shutil.rmtree(tmp_path / "saved")  # the run needs it no more
    pipeline = Pipeline.from_pretrained("runs/small", device="cpu")
    assert type(pipeline.codec) is DiffusersCodec and pipeline.codec.unit == unit
    made = pipeline.generate(frames=frames, label=0, seed=1)
    assert made.shape == (1, 3, frames, 32, 32) and bool(made.isfinite().all())
    if unit > 1:  # as strategy=stream asks of it
        with pytest.raises(ValueError, match="which decodes whole clips: choose another strategy"):
            pipeline.codec.decoder()
    longer = pipeline.extend(made, frames=frames + 3)
    assert longer.shape[2] == frames + 3 and torch.equal(longer[:, :, :frames], made)


def test_every_class_that_is_known_is_tested() -> None:
    assert {type(SMALL[kind][0]()) for kind in SMALL} | {AutoencoderKL} == {
        AutoencoderKL,
        AutoencoderTiny,
        AutoencoderDC,
        AutoencoderKLTemporalDecoder,
        AutoencoderKLCogVideoX,
        AutoencoderKLLTXVideo,
        AutoencoderKLWan,
    }
    assert len(KINDS) == 7
