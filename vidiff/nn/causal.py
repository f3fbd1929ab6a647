"""Time in the autoencoder: each frame sees those before it, never those after it, so a clip may come piece by piece."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.blocks import normalise


class Stream:
    """Clips on their way through causal layers, whole or piece by piece: what each layer keeps of the frames before.

    What comes out of the pieces is what comes out of the whole, and what is kept does not grow with the length.

    Args:
        clips: that go through side by side.
    """

    def __init__(self, clips: int = 1) -> None:
        self.clips = clips
        self._begun: set[nn.Module] = set()
        self._kept: dict[nn.Module, Tensor] = {}

    def begins(self, layer: nn.Module) -> bool:
        """Whether this is the first piece that a layer asks about."""
        first = layer not in self._begun
        self._begun.add(layer)
        return first

    def after_past(self, layer: nn.Module, x: Tensor, keep: int) -> Tensor:
        """Frames with those before them that a layer looks at: its last `keep`, or at first the first frame, twice.

        Args:
            x: `(b, c, f, n)`.
        """
        past = x[:, :, :1].expand(-1, -1, 2, -1) if self.begins(layer) else self._kept[layer]
        x = torch.cat([past, x], dim=2)
        self._kept[layer] = x[:, :, x.shape[2] - keep :].clone()  # and not a view that keeps all of it
        return x


class Timed(nn.Module):
    """A layer that mixes frames: `(b f) c h w` in channels-last memory, in which time is reached by views."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        raise NotImplementedError


class CausalBlock(Timed):
    """A residual convolution over a frame and the two before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.conv = nn.Conv2d(channels, channels, (3, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        height = x.shape[2]
        h = F.silu(normalise(x, "film", self.scale.to(x.dtype)))
        h = rearrange(h, "(b f) c h w -> b c f (h w)", b=stream.clips)
        h = self.conv(stream.after_past(self, h, 2))  # b c f (h w)
        return x + rearrange(h, "b c f (h w) -> (b f) c h w", h=height)


class Shorten(Timed):
    """A layer that merges every two frames; the first of a clip stays alone: 1 + 2 n become 1 + n (Yu et al. 2024,
    MAGVIT-v2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), stride=(2, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        height = x.shape[2]
        x = rearrange(x, "(b f) c h w -> b c f (h w)", b=stream.clips)
        x = self.conv(stream.after_past(self, x, 1))  # b c f/2 (h w)
        return rearrange(x, "b c f (h w) -> (b f) c h w", h=height)


class Lengthen(Timed):
    """A layer that splits each frame into two; the first of a clip stays one: 1 + n become 1 + 2 n."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = rearrange(self.split(x), "(b f) (k c) h w -> b (f k) c h w", b=stream.clips, k=2)
        x = rearrange(x[:, 1:] if stream.begins(self) else x, "b f c h w -> (b f) c h w")
        return x.contiguous(memory_format=torch.channels_last)


def check_frames(frames: int, temporal: int, unit: int, what: str) -> None:
    """Raises ValueError, with the lengths that would do, where a clip of so many frames makes no whole latents.

    Args:
        temporal: frames to one latent, the first of a clip apart.
        unit: a clip has 1 frame more than a multiple of it, itself a multiple of `temporal`.
        what: whose frames they are, as the message says.
    """
    if (frames - 1) % unit:
        below = frames - (frames - 1) % unit
        more = f", {unit // temporal} at a time" if unit > temporal else ""
        raise ValueError(
            f"{what} is {frames}; the autoencoder makes one latent of the first frame and one of every {temporal} "
            f"after it{more}: give {below} or {below + unit}"
        )
