"""A convolutional autoencoder of frames, or of clips, with a Gaussian bottleneck."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.nn.blocks import Downsample, Upsample, channels_last, normalise
from vidiff.nn.causal import CausalBlock, Lengthen, Shorten, Stream, Timed, check_frames

TEMPORAL = (1, 2, 4, 8)


@dataclass
class VAEConfig:
    """Shape of an autoencoder. Its spatial factor is `patch * 2 ** (levels - 1)`."""

    channels: int = 4  # of the latent
    width: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 2])  # width of each level, in units of `width`
    blocks: int = 1  # residual blocks a level
    patch: int = 2  # pixels folded into channels at the entrance
    temporal: int = 1  # frames to one latent, the first of a clip apart: 1 for single frames, or 2, 4, 8

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
        if self.temporal not in TEMPORAL:
            raise ValueError(f"vae.temporal is {self.temporal}; choose {', '.join(map(str, TEMPORAL))}")

    def check_frames(self, frames: int, what: str) -> None:
        """Raises ValueError where clips of so many frames do not make whole latents; `what` says whose they are."""
        check_frames(frames, self.temporal, self.temporal, what)


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
    """Variational autoencoder of frames (Kingma and Welling 2014; Rombach et al. 2022, section 3.1).

    With a temporal factor it is one of clips, causal in time (Yu et al. 2024, MAGVIT-v2, section 3.2): 1 + temporal * n
    frames give 1 + n latents, of which the first stands for the first frame alone and no other looks ahead. Time is
    mixed after the blocks of each level, and halved at the lowest resolution.
    """

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
            if config.temporal > 1:
                encoder.append(CausalBlock(width))
        for _ in range(config.temporal.bit_length() - 1):
            encoder += [Shorten(widths[-1]), CausalBlock(widths[-1])]
        encoder.append(nn.Conv2d(widths[-1], 2 * config.channels, 3, padding=1))
        decoder: list[nn.Module] = [nn.Conv2d(config.channels, widths[-1], 3, padding=1)]
        for _ in range(config.temporal.bit_length() - 1):
            decoder += [CausalBlock(widths[-1]), Lengthen(widths[-1])]
        for level, width in reversed(list(enumerate(widths))):
            decoder += [Block(width) for _ in range(config.blocks)]
            if config.temporal > 1:
                decoder.append(CausalBlock(width))
            if level:
                decoder.append(Upsample(width, widths[level - 1]))
        decoder += [nn.Conv2d(widths[0], pixels, 3, padding=1), nn.PixelShuffle(config.patch)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.together, self.noisy = config.temporal > 1, True  # frames of a clip, and a distribution of its latents
        channels_last(self)

    def encode(self, frames: Tensor, stream: Stream | None = None) -> tuple[Tensor, Tensor]:
        """Frames to mean and standard deviation of their latents.

        Args:
            frames: `(n, 3, h, w)` in [-1, 1]; with a temporal factor, those of one clip after the other.
            stream: with a temporal factor, how many clips these are and what came before; by default one whole clip.

        Returns:
            each `(n, c, h / factor, w / factor)`; with a temporal factor, 1 + m of them for a clip of 1 + temporal * m
            frames, or m for temporal * m frames that go on.

        Raises:
            ValueError: if h or w does not divide by the factor.
        """
        height, width = frames.shape[-2:]
        factor = self.config.factor
        if height % factor or width % factor:
            raise ValueError(
                f"frames are {height}x{width}, but the codec shrinks them by {factor}: choose sizes that divide"
            )
        mean, log_variance = through(self.encoder, frames, stream).float().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def decode(self, z: Tensor, stream: Stream | None = None) -> Tensor:
        """Latents `(n, c, h, w)`, and a stream of their own, to frames `(n, 3, h * factor, w * factor)`; not clamped.

        With a temporal factor there are as many more as `encode` has them fewer.
        """
        return through(self.decoder, z, stream).float()


def through(layers: nn.Sequential, x: Tensor, stream: Stream | None) -> Tensor:
    """`(n, c, h, w)` through layers, of which those that are `Timed` are told where the clips stand."""
    stream = stream or Stream()
    x = x.contiguous(memory_format=torch.channels_last)
    for layer in layers:
        x = layer(x, stream) if isinstance(layer, Timed) else layer(x)
    return x
