"""At the edge of a mask, with an autoencoder that has learned: what is shown as known is so, and no seam is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vidiff.codec.codec import VAECodec
from vidiff.diffusion import known
from vidiff.draw.masks import SEAM, encode_around, join, touched
from vidiff.nn.causal import Stream
from vidiff.nn.vae import VAEConfig

SIDE = 64


def clips(count: int, seed: int, frames: int = 3) -> Tensor:
    """Textures that move, with a bright or dark disc over each: `(count, 3, frames, 64, 64)` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    grounds = [
        F.interpolate(torch.randn(count, 3, n, n, generator=generator), 2 * SIDE, mode="bicubic") for n in (5, 40)
    ]
    ground = 0.25 * grounds[0] + 0.1 * grounds[1]
    y, x = torch.arange(SIDE).view(-1, 1), torch.arange(SIDE)
    place, pace = 12 + 40 * torch.rand(count, 2, generator=generator), 6 * torch.rand(count, 2, generator=generator) - 3
    colour = (2 * torch.rand(count, 3, generator=generator) - 1).view(count, 3, 1, 1)
    video = []
    for n in range(frames):
        cy, cx = ((place + n * pace)[:, axis].view(-1, 1, 1, 1) for axis in (0, 1))
        disc = (y - cy) ** 2 + (x - cx) ** 2 < 64
        video.append(torch.where(disc, colour, ground[..., 8 + 3 * n : 8 + 3 * n + SIDE, 20 : 20 + SIDE]))
    return torch.stack(video, dim=2).clamp(-1, 1)


def learned(temporal: int) -> VAECodec:
    """An autoencoder that shrinks by 4, trained for a few seconds, with the statistics of its latents."""
    torch.manual_seed(0)
    codec = VAECodec(VAEConfig(channels=4, width=8, multipliers=[1, 2], patch=2, temporal=temporal))
    optimizer = torch.optim.Adam(codec.network.parameters(), lr=4e-3)
    for step in range(40):
        video = clips(2, step, 1 + 2 * temporal * (temporal > 1))
        frames = rearrange(video, "b c f h w -> (b f) c h w")
        mean, _ = codec.network.encode(frames, Stream(len(video)))
        back = codec.network.decode(mean, Stream(len(video)))
        loss = (back - frames).abs().mean() + 1e-4 * mean.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codec.eval().requires_grad_(False)
    z = codec.encode(clips(6, 99, 1 + 2 * temporal)).mean
    codec.set_statistics(z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4)))
    return codec


@pytest.fixture(scope="module")
def codec() -> VAECodec:
    return learned(1)


@pytest.fixture(scope="module")
def codec_of_clips() -> VAECodec:
    return learned(2)


def box(top: int, left: int, bottom: int, right: int) -> Tensor:
    return known.box(SIDE, SIDE, top=top, left=left, bottom=bottom, right=right)


HOLES = {
    "box": box(20, 24, 44, 45),
    "line": box(0, 31, 64, 33),
    "around": ~box(14, 18, 50, 54),
    "spots": torch.rand(1, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.002,
    "moves": torch.cat([box(20, 4 + 12 * n, 36, 20 + 12 * n) for n in range(3)], dim=2),
}


@pytest.mark.parametrize("name", HOLES)
def test_latents_shown_as_known_are_the_true_ones(codec: VAECodec, name: str) -> None:
    """Within 0.02 standard deviations; those that may be further off have a clock of their own, as far off."""
    mask, clip = HOLES[name].expand(1, 1, 3, SIDE, SIDE), clips(6, 200)
    z, doubt = encode_around(codec, clip, mask)
    assert torch.equal(z, encode_around(codec, clip.masked_fill(mask, torch.nan), mask)[0]), "hidden pixels are seen"
    off = (z - codec.encode(clip).mean).square().mean(1, keepdim=True).sqrt()
    new = touched(mask, (SIDE, SIDE), codec.factor).expand_as(doubt)
    sure, held = doubt == 0, (doubt > 0) & doubt.isfinite()
    assert doubt[new].isinf().all() and float(sure.float().mean()) > 0.01 and float(held.float().mean()) > 0.1
    assert float(off[sure].max()) < 0.02
    assert float((off <= doubt)[held].float().mean()) > 0.99
    if name == "box":
        near = F.max_pool2d(new.flatten(0, 2).float()[:, None], 3, 1, 1).view(new.shape) > 0
        assert float(off[~near].max()) > 0.1, "beyond the nearest all would be known: then this shows nothing"


@pytest.mark.parametrize("hidden", [[4], [0, 1], [6, 7, 8]])
def test_latents_of_several_frames_are_known_where_no_hidden_frame_reaches_them(
    codec_of_clips: VAECodec, hidden: list[int]
) -> None:
    """The codec looks back in time, so those before a hidden frame are sure, and those far behind it."""
    codec, clip = codec_of_clips, clips(2, 300, 19)
    mask = known.some_frames(19, hidden)
    z, doubt = encode_around(codec, clip, mask)
    off = (z - codec.encode(clip).mean).square().mean(1, keepdim=True).sqrt()
    new = touched(mask, (SIDE, SIDE), codec.factor, 2).flatten()
    first = int(new.nonzero()[0])
    assert doubt.shape[2:] == (10, 1, 1) and doubt[:, :, new].isinf().all() and not doubt[:, :, :first].any()
    assert float(doubt[:, :, -1].max()) < 0.05, "far enough behind"
    assert float(off[(doubt == 0).expand_as(off)].max()) < 0.02
    held = ((doubt > 0) & doubt.isfinite()).expand_as(off)
    assert held.any() and bool((off <= doubt)[held].all())


@pytest.mark.parametrize("name", HOLES)
def test_what_was_made_joins_its_surroundings(codec: VAECodec, name: str) -> None:
    """The step over the edge, beyond the clip's own, shrinks; and content that is another is not smeared over."""
    mask, clip = HOLES[name].expand(6, 1, 3, SIDE, SIDE), clips(6, 200)
    edge = (mask[..., 1:] ^ mask[..., :-1]).expand(-1, 3, -1, -1, -1)

    def step(video: Tensor) -> float:
        return float(video.diff(dim=-1)[edge].abs().mean())

    made, inside = codec.decode(codec.encode(clip).mean), mask.expand_as(clip)
    joined, put = join(made, clip, mask), torch.where(mask, made, clip)
    assert torch.equal(joined.masked_fill(mask, 0), clip.masked_fill(mask, 0)) and joined.abs().max() <= 1
    assert step(joined) - step(clip) < 0.6 * (step(put) - step(clip))
    assert float((joined - clip)[inside].square().mean()) < 1.02 * float((put - clip)[inside].square().mean())
    assert float((join(-clip, clip, mask) + clip)[inside].abs().max()) <= SEAM + 1e-6
    whole = torch.tensor([True, False, True]).view(1, 1, 3, 1, 1)
    assert torch.equal(join(made, clip, whole), torch.where(whole, made, clip))
