"""The factorised space-time 3D U-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidiff.diffusion.condition import Condition
from vidiff.nn.attention import BACKENDS
from vidiff.nn.blocks import (
    MODULATIONS,
    Attention,
    Downsample,
    Modulation,
    ResBlock,
    Upsample,
    channels_last,
    fit_heads,
)
from vidiff.nn.cache import Cache
from vidiff.nn.embed import Embedding, Turn
from vidiff.nn.text import CrossAttention, TextInput, Tokens


@dataclass
class UNetConfig:
    """Shape of a U-Net. Level 0 is the resolution of its input; each further level halves height and width."""

    channels: int = 4  # of x; the network adds the clock as one more input channel
    width: int = 128
    multipliers: list[int] = field(default_factory=lambda: [1, 2])  # width of each level, in units of `width`
    blocks: list[int] = field(default_factory=lambda: [2, 2])  # residual blocks of each level, down and again up
    spatial_attention: list[int] = field(default_factory=list)  # levels
    temporal_attention: list[int] = field(default_factory=lambda: [0])  # levels
    joint_attention: list[int] = field(default_factory=lambda: [1])  # levels, in place of the other two
    head_dim: int = 64
    modulation: str = "film"  # or adain
    labels: int = 0  # classes; 0 for none
    strided: bool = False  # whether clips come with a frame stride
    text_dim: int = 0  # width of a text token; 0 for none
    words: int = 0  # vocabulary of a model that embeds the words of its text itself; 0 where text comes embedded
    text_attention: list[int] | None = None  # levels that read the text; by default all, where there is text
    actions: int = 0  # numbers by which it is told what led to a frame; 0 for none
    lowres_channels: int = 0  # of a low-resolution video that conditions the model
    variance: bool = False  # a second head for the learned reverse variance
    dropout: float = 0.0
    checkpoint: list[int] = field(default_factory=list)  # levels whose activations are recomputed in the backward pass
    attention_backend: str = "auto"  # or sdpa, xformers, plain
    patch: int = 1  # side of the squares of x that are folded into channels on the way in, and unfolded on the way out
    causal: bool = False  # no frame looks at one after it, so that a video can go on frame by frame, with a `Cache`
    guided: bool = False  # whether it is told the scale of guidance, as a student is; follows from loss.guidance
    spatial_convs: int = 1  # of a residual block: 1, or 2, which costs about half as much again and sees further

    def validate(self) -> None:
        """Raises ValueError for what builds no network: numbers out of range, levels that are not there."""
        levels = range(len(self.multipliers))
        if not levels or min(self.multipliers) < 1:
            raise ValueError(f"unet.multipliers is {self.multipliers}: give one a level, 1 or more")
        if len(self.blocks) != len(levels) or min(self.blocks) < 1:
            raise ValueError(
                f"unet.blocks has {len(self.blocks)} numbers, unet.multipliers {len(levels)}: one a level, 1 or more"
            )
        for name in ("spatial_attention", "temporal_attention", "joint_attention", "text_attention", "checkpoint"):
            wrong = [level for level in getattr(self, name) or [] if level not in levels]
            if wrong:
                raise ValueError(f"unet.{name} names level {wrong[0]}, but multipliers give levels 0 to {levels[-1]}")
        if self.spatial_convs not in (1, 2):
            raise ValueError(f"unet.spatial_convs is {self.spatial_convs}; give 1 or 2")
        for name in ("width", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"unet.{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"unet.dropout is {self.dropout}; give a probability from 0 to less than 1")
        if self.modulation not in MODULATIONS:
            raise ValueError(f"unet.modulation is {self.modulation!r}; choose {' or '.join(MODULATIONS)}")
        if self.attention_backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"unet.attention_backend is {self.attention_backend!r}; choose {', '.join(('auto', *BACKENDS))}"
            )
        if min(self.text_dim, self.words) < 0 or (self.words and (self.text_dim < 2 or self.text_dim % 2)):
            raise ValueError(
                f"unet.text_dim is {self.text_dim} and unet.words {self.words}; give 0 or more of both, and words an "
                "even width"
            )
        for level in levels:
            if self.attention(level) or self.reads(level):
                fit_heads(self.width * self.multipliers[level], self.head_dim)

    def attention(self, level: int) -> list[str]:
        """Axes of attention at a level, in order."""
        if level in self.joint_attention:
            return ["joint"]
        chosen = [("space", self.spatial_attention), ("time", self.temporal_attention)]
        return [axis for axis, levels in chosen if level in levels]

    def reads(self, level: int) -> bool:
        """Whether a level reads the text."""
        return self.text_dim > 0 and (self.text_attention is None or level in self.text_attention)


class LevelBlock(nn.Module):
    """One residual block and the attention that follows it at its level: to itself, then to the text. On the way up,
    a skip joins before them."""

    def __init__(self, config: UNetConfig, level: int, dim: int, skip: int = 0) -> None:
        super().__init__()
        width = config.width * config.multipliers[level]
        self.recompute = level in config.checkpoint
        # Adding a projected skip equals concatenating it before a pointwise convolution, without the copy.
        self.join = nn.Conv2d(skip, width, 1, bias=False) if skip else None
        self.block = ResBlock(width, width, dim, config.modulation, config.dropout, config.causal, config.spatial_convs)
        self.attention = nn.ModuleList(
            Attention(width, axis, config.head_dim, config.attention_backend, config.causal)
            for axis in config.attention(level)
        )
        self.read: CrossAttention | None = None
        if config.reads(level):
            self.read = CrossAttention(width, config.text_dim, config.head_dim, config.attention_backend)

    def turns(self, frames: int, height: int, width: int, device: torch.device) -> list[Turn]:
        """Of each attention of this level, or of another block of it."""
        return [layer.turn(frames, height, width, device) for layer in self.attention]  # type: ignore[operator]

    def run(
        self,
        x: Tensor,
        emb: Tensor,
        log_snr: Tensor,
        frames: int,
        text: Tokens | None,
        turns: list[Turn] | list[None],
        skip: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        if self.join is not None:
            x = x + self.join(skip)
        x = self.block(x, emb, frames, cache)
        for layer, turn in zip(self.attention, turns, strict=True):
            x = layer(x, log_snr, frames, cache, turn)
        if self.read is not None and text is not None:
            x = self.read(x, *text, frames)
        return x

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        log_snr: Tensor,
        frames: int,
        text: Tokens | None,
        turns: list[Turn] | list[None],
        skip: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        if self.recompute and torch.is_grad_enabled() and cache is None:
            return checkpoint(self.run, x, emb, log_snr, frames, text, turns, skip, use_reentrant=False)
        return self.run(x, emb, log_snr, frames, text, turns, skip, cache)


class UNet(nn.Module):
    """Denoising network over `(b, c, f, h, w)`; frames are folded into the batch and unfolded for time.

    It is told the clock twice: voxel by voxel as an input channel, and frame by frame in each block's modulation.
    Other numbers of frames and other sizes than it was trained on are accepted, as long as h and w divide by
    `patch * 2 ** (levels - 1)`. Patches make pixels cheap to work on (Hoogeboom et al. 2023, simple diffusion, section
    3.2): the network is as wide and as deep, over fewer places.

    A causal one looks back alone: what it says of a frame does not depend on frames after it, so that a video may come
    piece by piece, each piece with a `Cache` of those before it.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        config.validate()
        self.config, self.causal = config, config.causal
        widths = [config.width * m for m in config.multipliers]
        dim = 4 * config.width
        lowres = config.lowres_channels > 0
        self.embed = Embedding(dim, config.labels, config.strided, lowres, config.guided, config.actions)
        self.text = TextInput(config.text_dim, config.words, dim) if config.text_dim else None
        given, area = config.channels + 1 + config.lowres_channels, config.patch**2
        self.enter = nn.Conv2d(given * area, widths[0], 3, padding=1)
        self.levels = [level for level, count in enumerate(config.blocks) for _ in range(count)]  # of each stage
        self.down = nn.ModuleList(LevelBlock(config, level, dim) for level in self.levels)
        self.up = nn.ModuleList(LevelBlock(config, level, dim, widths[level]) for level in reversed(self.levels))
        self.merge, self.split = nn.ModuleList(), nn.ModuleList()
        for upper, lower in pairwise(widths):
            self.merge.append(Downsample(upper, lower))
            self.split.append(Upsample(lower, upper))
        self.middle = LevelBlock(config, len(widths) - 1, dim)
        self.modulate = Modulation(widths[0], dim, config.modulation)
        self.leave = nn.Conv2d(widths[0], config.channels * (2 if config.variance else 1) * area, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)
        channels_last(self)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition, cache: Cache | None = None) -> Tensor:
        """Look at noisy clips, and say what the denoiser reads as its prediction.

        Args:
            x: `(b, c, f, h, w)`, scaled to unit variance.
            log_snr: `(b, 1, f, h, w)`, the clock of each voxel, in [-20, 20].
            condition: label, text, actions, stride and low-resolution video, as far as the model was built for them.
            cache: of a causal network, what it keeps of the frames before these; by default there are none.

        Returns:
            `(b, c, f, h, w)`, or `(b, 2c, f, h, w)` with the variance head.

        Raises:
            ValueError: if height or width does not divide, a low-resolution video is missing, text is of another
                kind than the model's, or a network that looks ahead is given a cache.
        """
        if cache is not None and not self.causal:
            raise ValueError("this network looks ahead, so frames cannot be kept for it: set unet.causal=true")
        frames, height, width = x.shape[2:]
        halvings, patch = len(self.merge), self.config.patch
        factor = patch * 2**halvings
        if height % factor or width % factor:
            patches = f"takes patches of {patch} and " if patch > 1 else ""
            raise ValueError(
                f"the network {patches}halves {height}x{width} {halvings} times: both must divide by {factor}"
            )
        inputs = [x, log_snr.to(x.dtype) / 10]
        if self.config.lowres_channels:
            if condition.lowres is None:
                raise ValueError("this model enlarges clips, and condition.lowres is missing: use `upscale`")
            inputs.append(condition.lowres)
        h = rearrange(torch.cat(inputs, dim=1), "b c f (h p) (w q) -> (b f) (c p q) h w", p=patch, q=patch)
        h = self.enter(h.contiguous(memory_format=torch.channels_last))  # (b f) width h w
        emb = self.embed(log_snr.mean(dim=(1, 3, 4)), condition)  # b f dim
        text: Tokens | None = None
        if self.text is not None:
            text, pooled = self.text(condition, len(x))
            emb = emb + pooled[:, None]
        emb = torch.nn.functional.silu(rearrange(emb, "b f d -> (b f) d"))

        clocks = [rearrange(log_snr, "b c f h w -> (b f) c h w")]  # of each level
        if patch > 1:
            clocks = [torch.nn.functional.avg_pool2d(clocks[0], patch)]
        for _ in self.merge:
            clocks.append(torch.nn.functional.avg_pool2d(clocks[-1], 2))
        turns: dict[int, list[Turn] | list[None]] = {}
        for level, stage in zip(self.levels, self.down, strict=True):  # once, and not in each layer
            if level not in turns:
                turns[level] = [None] * len(stage.attention)  # type: ignore[arg-type]
                if cache is None:  # whose frames have places of their own
                    turns[level] = stage.turns(frames, *clocks[level].shape[2:], x.device)  # type: ignore[operator]
        skips, here = [], 0
        for level, stage in zip(self.levels, self.down, strict=True):
            if level > here:
                h, here = self.merge[here](h), level  # (b f) 2c h/2 w/2
            h = stage(h, emb, clocks[level], frames, text, turns[level], None, cache)
            skips.append(h)
        h = self.middle(h, emb, clocks[-1], frames, text, turns[here], None, cache)
        for level, stage in zip(reversed(self.levels), self.up, strict=True):
            if level < here:
                h, here = self.split[level](h), level  # (b f) c/2 2h 2w
            h = stage(h, emb, clocks[level], frames, text, turns[level], skips.pop(), cache)
        h = self.leave(torch.nn.functional.silu(self.modulate(h, emb)))
        return rearrange(h, "(b f) (c p q) h w -> b c f (h p) (w q)", f=frames, p=patch, q=patch)
