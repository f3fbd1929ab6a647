"""The classifier of noised clips: the encoder half of the U-Net, and a verdict on each frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.nn.blocks import Attention, Downsample, ResBlock, channels_last, check_heads, fit_heads, normalise
from vidiff.nn.embed import Embedding


@dataclass
class ClassifierConfig:
    """Shape of a classifier. Level 0 is the resolution of its input; each further level halves height and width."""

    channels: int = 4  # of x; the network adds the clock as one more input channel
    labels: int = 0  # classes
    width: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2])  # width of each level, in units of `width`
    blocks: list[int] = field(default_factory=lambda: [2, 1])  # residual blocks of each level
    spatial_attention: list[int] = field(default_factory=lambda: [1])  # levels
    head_dim: int = 32
    strided: bool = False  # whether clips come with a frame stride
    dropout: float = 0.0

    def validate(self) -> None:
        """Raises ValueError for what builds no network: numbers out of range, levels that are not there."""
        levels = range(len(self.multipliers))
        if not levels or min(self.multipliers) < 1:
            raise ValueError(f"classifier.multipliers is {self.multipliers}: give one a level, 1 or more")
        if len(self.blocks) != len(levels) or min(self.blocks) < 1:
            raise ValueError(
                f"classifier.blocks is {self.blocks}, classifier.multipliers {self.multipliers}: "
                "one a level in both, 1 or more"
            )
        wrong = [level for level in self.spatial_attention if level not in levels]
        if wrong:
            raise ValueError(
                f"classifier.spatial_attention names level {wrong[0]}, but multipliers give levels 0 to {levels[-1]}"
            )
        for name, least in (("width", 1), ("channels", 1), ("labels", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"classifier.{name} is {getattr(self, name)}; give {least} or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"classifier.dropout is {self.dropout}; give a probability from 0 to less than 1")
        for level in {*self.spatial_attention, levels[-1]}:  # the pooling has heads as well
            check_heads("classifier", self.width, self.multipliers[level], self.head_dim)


class Pool(nn.Module):
    """A frame's voxels to one vector: each head's learned query says how much each voxel counts.

    As the attention of the blocks does, every head learns how much it prefers voxels with a cleaner clock.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // fit_heads(channels, head_dim)
        self.scale = nn.Parameter(torch.ones(channels))
        self.query = nn.Conv2d(channels, self.heads, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.preference = nn.Parameter(torch.full((self.heads,), Attention.PREFERENCE))

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        """x: `(b f) c h w`; log_snr: `(b f) 1 h w`. Returns `((b f), c)` in float32."""
        h = normalise(x, "film", self.scale.to(x.dtype))
        logits = self.query(h).float() + self.preference[:, None, None] * log_snr.float()  # (b f) n h w
        value = rearrange(self.value(h).float(), "a (n d) h w -> a n d (h w)", n=self.heads)
        return (value @ logits.flatten(2).softmax(-1)[..., None]).flatten(1)  # (b f) c


class Classifier(nn.Module):
    """A network that says what each frame of a noised clip shows, as logits, and guides a diffusion model (Dhariwal &
    Nichol 2021, section 4).

    A frame is judged with its neighbours in time, as far as the temporal convolutions of the blocks reach, and not with
    the whole clip: one verdict on a clip is content with a few frames that show the label, and guides no more, where
    each frame's own verdict guides until all of them do. Since it is told the clock voxel by voxel, as the denoising
    network is, it reads clips of which some frames are clean as well.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        config.validate()
        if config.labels < 2:
            raise ValueError(f"classifier.labels is {config.labels}; a classifier tells 2 classes or more apart")
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        dim = 4 * config.width
        self.embed = Embedding(dim, strided=config.strided)
        self.enter = nn.Conv2d(config.channels + 1, widths[0], 3, padding=1)
        self.levels = [level for level, count in enumerate(config.blocks) for _ in range(count)]  # of each block
        self.blocks = nn.ModuleList(
            ResBlock(widths[level], widths[level], dim, "film", config.dropout) for level in self.levels
        )
        self.attention = nn.ModuleDict(  # by the number of the block that it follows
            {
                str(number): Attention(widths[level], "space", config.head_dim)
                for number, level in enumerate(self.levels)
                if level in config.spatial_attention
            }
        )
        self.merge = nn.ModuleList(Downsample(upper, lower) for upper, lower in pairwise(widths))
        self.pool = Pool(widths[-1], config.head_dim)
        self.leave = nn.Linear(widths[-1], config.labels)
        channels_last(self)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        """Judge each frame.

        Args:
            x: `(b, c, f, h, w)`, scaled to unit variance.
            log_snr: `(b, 1, f, h, w)`, the clock of each voxel, in [-20, 20].
            condition: its stride is read, where the classifier was built for it.

        Returns:
            logits `(b, f, labels)` in float32.

        Raises:
            ValueError: if height or width does not divide.
        """
        frames, height, width = x.shape[2:]
        factor = 2 ** len(self.merge)
        if height % factor or width % factor:
            raise ValueError(
                f"the classifier halves {height}x{width} {len(self.merge)} times: both must divide by {factor}"
            )
        h = rearrange(torch.cat([x, log_snr.to(x.dtype) / 10], dim=1), "b c f h w -> (b f) c h w")
        h = self.enter(h.contiguous(memory_format=torch.channels_last))  # (b f) width h w
        emb = self.embed(log_snr.mean(dim=(1, 3, 4)), condition)  # b f dim
        emb = F.silu(rearrange(emb, "b f d -> (b f) d"))
        clock, here = rearrange(log_snr, "b c f h w -> (b f) c h w"), 0
        for number, (level, block) in enumerate(zip(self.levels, self.blocks, strict=True)):
            if level > here:
                h, clock, here = self.merge[here](h), F.avg_pool2d(clock, 2), level  # (b f) 2c h/2 w/2
            h = block(h, emb, frames)
            if str(number) in self.attention:
                h = self.attention[str(number)](h, clock, frames)
        logits = self.leave(self.pool(h, clock)).float()  # (b f) labels
        return rearrange(logits, "(b f) k -> b f k", f=frames)
