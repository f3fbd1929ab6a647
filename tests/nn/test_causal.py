"""The autoencoder of clips: causal, and the same piece by piece as whole."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import Tensor

from vidiff.codec.codec import VAECodec
from vidiff.nn.causal import CausalBlock, Lengthen, Shorten, Stream
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective


def shape(temporal: int) -> VAEConfig:
    return VAEConfig(channels=3, width=8, multipliers=[1, 2], blocks=1, patch=2, temporal=temporal)


def small(temporal: int, **options: int) -> VAECodec:
    codec = VAECodec(shape(temporal), **options)
    codec.set_statistics(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]))
    return codec


def random(*sizes: int) -> Tensor:
    return torch.rand(*sizes) * 2 - 1


@pytest.mark.parametrize("temporal", [2, 4, 8])
@pytest.mark.parametrize("chunk", [1, 4, 5, 9])
def test_a_clip_in_pieces_is_the_clip(temporal: int, chunk: int) -> None:
    codec, whole = small(temporal), small(temporal)
    whole.load_state_dict(codec.state_dict())
    codec.chunk, whole.chunk = chunk, 1000
    video = random(2, 3, 25, 8, 12)
    found, expected = codec.encode(video), whole.encode(video)
    assert expected.mean.shape == (2, 3, 1 + 24 // temporal, 2, 3)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.std, expected.std, atol=1e-6, rtol=1e-5)
    decoded = whole.decode(expected.mean)
    assert decoded.shape == video.shape
    torch.testing.assert_close(codec.decode(expected.mean), decoded, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("temporal", [2, 4])
def test_nothing_looks_ahead(temporal: int) -> None:
    """Latent i is of frames up to temporal * i, and of the last `temporal` of them for sure; so are decoded frames."""
    network, frames = VAE(shape(temporal)), random(1 + 4 * temporal, 3, 8, 8)
    latents, _ = network.encode(frames)
    decoded = network.decode(latents)
    for frame in range(len(frames)):
        changed = frames.clone()
        changed[frame] *= -1
        moved = (network.encode(changed)[0] != latents).flatten(1).any(1)
        first = -(-frame // temporal)
        assert not moved[:first].any() and moved[first]
    for latent in range(len(latents)):
        changed = latents.clone()
        changed[latent] += 1
        moved = (network.decode(changed) != decoded).flatten(1).any(1)
        first = max(0, temporal * (latent - 1) + 1)
        assert not moved[:first].any() and moved[first : temporal * latent + 1].all()


def test_the_first_frame_is_a_picture() -> None:
    codec = small(4)
    video = random(1, 3, 9, 8, 8)
    alone = codec.encode(video[:, :, :1]).mean
    torch.testing.assert_close(codec.encode(video).mean[:, :, :1], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decode(codec.encode(video).mean)[:, :, :1], codec.decode(alone), atol=1e-6, rtol=0)


def test_clips_side_by_side_do_not_mix() -> None:
    network, clips = VAE(shape(2)), random(3, 5, 3, 8, 8)
    together, _ = network.encode(clips.flatten(0, 1), Stream(3))
    apart = [network.encode(clip)[0] for clip in clips]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        network.decode(together, Stream(3)), torch.cat([network.decode(z) for z in apart]), atol=1e-6, rtol=1e-5
    )


def test_the_layers_are_the_convolutions_that_they_stand_for() -> None:
    """Conv3d over frames of which the first is repeated before the clip."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 3, 4)  # b c f h w
    flat = rearrange(x, "b c f h w -> (b f) c h w").contiguous(memory_format=torch.channels_last)
    padded = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
    layer = Shorten(6)
    expected = torch.nn.functional.conv3d(padded, layer.conv.weight[..., None], layer.conv.bias, stride=(2, 1, 1))
    torch.testing.assert_close(rearrange(layer(flat, Stream(2)), "(b f) c h w -> b c f h w", b=2), expected)
    block = CausalBlock(6)
    h = torch.nn.functional.silu(torch.nn.functional.layer_norm(padded.movedim(1, -1), (6,))).movedim(-1, 1)
    expected = x + torch.nn.functional.conv3d(h, block.conv.weight[..., None], block.conv.bias)
    found = rearrange(block(flat, Stream(2)), "(b f) c h w -> b c f h w", b=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    longer = Lengthen(6)
    found = rearrange(longer(flat, Stream(2)), "(b f) c h w -> b f c h w", b=2)
    assert found.shape[1] == 9
    for frame in range(9):  # of which the first is the second half of its latent frame
        half = longer.split(x[:, :, (frame + 1) // 2])[:, 6 * ((frame + 1) % 2) :][:, :6]
        torch.testing.assert_close(found[:, frame], half, atol=1e-6, rtol=1e-5)


def test_tiles_leave_no_trace_in_time_either() -> None:
    codec, whole = small(2, tile=32), small(2, tile=0)
    whole.load_state_dict(codec.state_dict())
    codec.chunk, video = 4, random(1, 3, 7, 64, 96)
    z = whole.encode(video).mean
    torch.testing.assert_close(codec.encode(video).mean, z, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decode(z), whole.decode(z), atol=2e-6, rtol=1e-5)


def test_what_a_stream_keeps_does_not_grow() -> None:
    network, sizes = VAE(shape(4)), []
    for frames in (5, 21):
        stream = Stream()
        network.encode(random(frames, 3, 8, 8), stream)
        network.encode(random(8, 3, 8, 8), stream)
        sizes.append([kept.untyped_storage().nbytes() for kept in stream._kept.values()])
    assert sizes[0] == sizes[1] and sizes[0]


@pytest.mark.parametrize("shifted", [0.0, 0.5])
def test_it_is_trained_on_clips(shifted: float) -> None:
    """On squares that move, until it tells frames apart that share a latent."""
    torch.manual_seed(0)
    objective = VAEObjective(VAE(shape(2)), VAELoss(kl=1e-6, shifted=shifted))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3)

    def squares() -> Tensor:
        video = torch.full((4, 3, 5, 16, 16), -0.8)
        for clip, (top, left) in enumerate(torch.randint(0, 6, (4, 2)).tolist()):
            for frame in range(5):
                video[clip, :, frame, top + frame : top + frame + 5, left + frame : left + frame + 5] = 0.8
        return video

    first = objective({"video": squares()})
    for _ in range(100):
        found = objective({"video": squares()})
        found["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(found["psnr"]) > float(first["psnr"]) + 8, (first, found)
    assert ("psnr_shifted" in found) == bool(shifted)
    assert not shifted or float(found["psnr_shifted"]) > float(first["psnr_shifted"]) + 8
    video = squares()
    network = objective.network
    with torch.no_grad():
        made = network.decode(network.encode(video.transpose(1, 2).flatten(0, 1), Stream(4))[0], Stream(4))
    made = rearrange(made, "(b f) c h w -> b c f h w", b=4)
    own, next_one = ((made[:, :, 1::2] - video[:, :, begin::2]).square().mean() for begin in (1, 2))
    assert own < next_one / 2, (own, next_one)


def test_frames_that_make_no_whole_latents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a clip's number of frames is 4; .*: give 3 or 5"):
        small(2).encode(random(1, 3, 4, 8, 8))
    with pytest.raises(ValueError, match=r"data\.frames is 16; .*: give 13 or 17"):
        shape(4).check_frames(16, "data.frames")
    shape(4).check_frames(17, "data.frames")
    with pytest.raises(ValueError, match=r"vae\.temporal is 3; choose 1, 2, 4, 8"):
        VAEConfig(temporal=3).validate()


def test_without_a_temporal_factor_it_is_the_autoencoder_of_frames_that_it_was() -> None:
    """Its weights have the names that they had, and its layers are called one after the other."""
    network, frames = VAE(shape(1)), random(3, 3, 8, 8)
    kinds = [type(layer).__name__ for layer in network.encoder]
    assert kinds == ["PixelUnshuffle", "Conv2d", "Block", "Downsample", "Block", "Conv2d"]
    kinds = [type(layer).__name__ for layer in network.decoder]
    assert kinds == ["Conv2d", "Block", "Upsample", "Block", "Conv2d", "PixelShuffle"]
    mean, _ = network.encode(frames, Stream(3))
    plain = frames.contiguous(memory_format=torch.channels_last)
    assert torch.equal(mean, network.encoder(plain)[:, :3])
    assert torch.equal(network.decode(mean), network.decoder(mean.contiguous(memory_format=torch.channels_last)))
