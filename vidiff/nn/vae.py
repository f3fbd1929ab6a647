"""A convolutional autoencoder of single frames, with a Gaussian bottleneck."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.nn.blocks import Downsample, Upsample, channels_last, normalise


@dataclass
class VAEConfig:
    """Shape of an autoencoder. Its spatial factor is `patch * 2 ** (levels - 1)`."""

    channels: int = 4  # of the latent
    width: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 2])  # width of each level, in units of `width`
    blocks: int = 1  # residual blocks a level
    patch: int = 2  # pixels folded into channels at the entrance

    @property
    def factor(self) -> int:
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def margin(self) -> int:
        """How many latents further than its own pixels a latent depends on at most, and a pixel likewise."""
        levels = [2 * self.blocks] * len(self.multipliers)  # 3x3 convolutions, each of which reaches one voxel further
        levels[0] += 1
        levels[-1] += 1
        return ceil(sum(reach / 2 ** (len(levels) - 1 - level) for level, reach in enumerate(levels)))

    def validate(self) -> None:
        """Raises ValueError for numbers that build no autoencoder."""
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"vae.multipliers is {self.multipliers}: give one a level, 1 or more")
        for name, least in (("channels", 1), ("width", 1), ("blocks", 0), ("patch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"vae.{name} is {getattr(self, name)}; give {least} or more")


class Block(nn.Module):
    """Two 3x3 convolutions around a skip (He et al. 2016, pre-activation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(channels)) for _ in range(2))
        self.conv = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for scale, conv in zip(self.scale, self.conv, strict=True):
            h = conv(F.silu(normalise(h, "film", scale.to(h.dtype))))
        return x + h


class VAE(nn.Module):
    """Variational autoencoder of frames (Kingma and Welling 2014; Rombach et al. 2022, section 3.1)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        pixels = 3 * config.patch**2
        encoder: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(pixels, widths[0], 3, padding=1),
        ]
        for level, width in enumerate(widths):
            if level:
                encoder.append(Downsample(widths[level - 1], width))
            encoder += [Block(width) for _ in range(config.blocks)]
        encoder.append(nn.Conv2d(widths[-1], 2 * config.channels, 3, padding=1))
        decoder: list[nn.Module] = [nn.Conv2d(config.channels, widths[-1], 3, padding=1)]
        for level, width in reversed(list(enumerate(widths))):
            decoder += [Block(width) for _ in range(config.blocks)]
            if level:
                decoder.append(Upsample(width, widths[level - 1]))
        decoder += [nn.Conv2d(widths[0], pixels, 3, padding=1), nn.PixelShuffle(config.patch)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        channels_last(self)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)` in [-1, 1] to mean and standard deviation, each `(n, c, h / factor, w / factor)`.

        Raises:
            ValueError: if h or w does not divide by the factor.
        """
        height, width = frames.shape[-2:]
        factor = self.config.factor
        if height % factor or width % factor:
            raise ValueError(
                f"frames are {height}x{width}, but the codec shrinks them by {factor}: choose sizes that divide"
            )
        mean, log_variance = self.encoder(frames.contiguous(memory_format=torch.channels_last)).float().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """`(n, c, h, w)` to frames `(n, 3, h * factor, w * factor)`; not clamped."""
        return self.decoder(z.contiguous(memory_format=torch.channels_last)).float()
