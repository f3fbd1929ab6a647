"""Video to latent and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.vae import VAE, VAEConfig
from vidiff.tiles import Canvas, Tile, tiles

TILE = 256  # pixels


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over latents; mean and std `(b, c, f, h, w)`."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * noise


class Codec(nn.Module):
    """Encodes `(b, 3, f, h, w)` in [-1, 1] to latents `(b, c, f, h / factor, w / factor)` and decodes them.

    Latents leave with zero mean and unit variance per channel: `(raw - shift) / scale`. Frames go through in chunks,
    and large ones in tiles, so memory beyond input and output grows neither with their number nor with their size.

    Attributes:
        channels: of the latent.
        factor: by which height and width shrink.
        shift, scale: `(c,)`, statistics of the raw latents over the training clips.
        chunk: the most frames that go through at once; fewer where they are larger than 128x128.
        tile: height and width in pixels from which on a frame is cut into tiles of at most that; 0 for none.
        margin: latents around a tile that are computed with it and thrown away. Where what is made at a place depends
            on no more than that, tiles leave no trace.
        blend: latents over which neighbouring tiles are mixed, where it depends on the whole frame.
        fixed: whether its statistics are its own, and not those of the training clips.
    """

    PIXELS = 16 * 128 * 128  # that go through at once, at most, unless a single tile has more

    shift: Tensor
    scale: Tensor
    margin = 0
    blend = 0
    fixed = False
    temporal = 1

    def __init__(self, channels: int, factor: int, chunk: int = 16, tile: int = 0) -> None:
        super().__init__()
        self.channels, self.factor, self.chunk, self.tile = channels, factor, chunk, tile
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)` to raw mean and std."""
        raise NotImplementedError

    def decode_frames(self, z: Tensor) -> Tensor:
        """Raw `(n, c, h, w)` to `(n, 3, h, w)`."""
        raise NotImplementedError

    def set_statistics(self, shift: Tensor, scale: Tensor) -> None:
        """Take the mean and standard deviation `(c,)` of raw latents, by which they leave normalised."""
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Gaussian:
        """Raises ValueError where height or width does not divide by the factor."""
        batch, _, frames, *pixels = video.shape
        if any(length % self.factor for length in pixels):
            raise ValueError(
                f"frames are {pixels[0]}x{pixels[1]}, but the codec shrinks them by {self.factor}: choose sizes that "
                "divide"
            )
        height, width = (length // self.factor for length in pixels)
        shift, scale = self.shift[:, None, None], self.scale[:, None, None]
        mean, std = (Canvas(batch * frames, (height, width), 1, bool(self.blend)) for _ in range(2))
        for tile in self._tiles(height, width):
            done = 0
            for part in self._chunks(tile.read(video, self.factor), self.factor):
                raw_mean, raw_std = self.encode_frames(part)
                mean.put((raw_mean - shift) / scale, done, tile)
                std.put(raw_std / scale, done, tile)
                done += len(part)
        return Gaussian(*(rearrange(x.frames, "(b f) c h w -> b c f h w", b=batch) for x in (mean, std)))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """`(b, c, f, h, w)` to video in [-1, 1], clamped."""
        batch, _, frames, height, width = z.shape
        shift, scale = self.shift[:, None, None], self.scale[:, None, None]
        video = Canvas(batch * frames, (height, width), self.factor, bool(self.blend))
        for tile in self._tiles(height, width):
            done = 0
            for part in self._chunks(tile.read(z, 1), 1):
                video.put(self.decode_frames(part * scale + shift).clamp(-1, 1), done, tile)
                done += len(part)
        return rearrange(video.frames, "(b f) c h w -> b c f h w", b=batch)

    def _tiles(self, height: int, width: int) -> Iterator[Tile]:
        return tiles((height, width), self.tile // self.factor, self.margin, self.blend)

    def _chunks(self, clips: Tensor, scale: int) -> Iterator[Tensor]:
        """The frames of `(b, c, f, h, w)` in order, `(n, c, h, w)`; a latent has `scale` places."""
        frames = clips.transpose(1, 2)  # b f c h w
        length, area = frames.shape[1], (self.factor // scale) ** 2 * clips.shape[3] * clips.shape[4]
        many = max(1, min(self.chunk, self.PIXELS // area))
        for number in torch.arange(len(frames) * length, device=clips.device).split(many):
            yield frames[number // length, number % length]


class Identity(Codec):
    """No codec: diffusion runs on pixels."""

    def __init__(self) -> None:
        super().__init__(channels=3, factor=1)

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames, torch.zeros_like(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return z

    def digest(self) -> str:
        """What its latents depend on."""
        return "identity"


class VAECodec(Codec):
    """The project's own autoencoder (`vidiff.nn.vae`)."""

    def __init__(self, config: VAEConfig, tile: int = TILE) -> None:
        super().__init__(config.channels, config.factor, tile=tile)
        self.network = VAE(config)
        self.margin = config.margin

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return self.network.decode(z)
