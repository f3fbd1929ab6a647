"""Video to latent and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.vae import VAE, VAEConfig


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

    Latents leave with zero mean and unit variance per channel: `(raw - shift) / scale`.

    Attributes:
        channels: of the latent.
        factor: by which height and width shrink.
        shift, scale: `(c,)`, statistics of the raw latents over the training clips.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int, factor: int, chunk: int = 16) -> None:
        super().__init__()
        self.channels, self.factor, self.chunk = channels, factor, chunk
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
        """Frames go through in chunks, so memory beyond input and output does not grow with their number."""
        parts = [self.encode_frames(x) for x in rearrange(video, "b c f h w -> (b f) c h w").split(self.chunk)]
        mean, std = (torch.cat(x) for x in zip(*parts, strict=True))
        mean = (mean - self.shift[:, None, None]) / self.scale[:, None, None]
        std = std / self.scale[:, None, None]
        return Gaussian(*(rearrange(x, "(b f) c h w -> b c f h w", b=len(video)) for x in (mean, std)))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """`(b, c, f, h, w)` to video in [-1, 1], clamped, in chunks of frames."""
        frames = rearrange(z, "b c f h w -> (b f) c h w") * self.scale[:, None, None] + self.shift[:, None, None]
        video = torch.cat([self.decode_frames(x) for x in frames.split(self.chunk)]).clamp(-1, 1)
        return rearrange(video, "(b f) c h w -> b c f h w", b=len(z))


class Identity(Codec):
    """No codec: diffusion runs on pixels."""

    def __init__(self) -> None:
        super().__init__(channels=3, factor=1)

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames, torch.zeros_like(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return z


class VAECodec(Codec):
    """The project's own autoencoder (`vidiff.nn.vae`)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config.channels, config.factor)
        self.network = VAE(config)

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return self.network.decode(z)
