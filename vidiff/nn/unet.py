"""The factorised space-time 3D U-Net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidiff.diffusion.condition import VIDEOS, Condition
from vidiff.nn.attention import BACKENDS
from vidiff.nn.blocks import (
    MODULATIONS,
    Around,
    Attention,
    Downsample,
    Modulation,
    ResBlock,
    Told,
    Upsample,
    channels_last,
    check_heads,
)
from vidiff.nn.cache import Cache
from vidiff.nn.embed import Embedding
from vidiff.nn.fused.choice import SETTINGS, on_gpu
from vidiff.nn.previous import Previous
from vidiff.nn.text import CrossAttention, TextInput, Tokens

Tables = Sequence[Tensor] | None  # of a block's modulations, where they are there already
SIZES = 4  # of clips, for which it is kept where tokens lie


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
    control_channels: int = 0  # of another video that does: depth, edges, another camera
    variance: bool = False  # a second head for the learned reverse variance
    dropout: float = 0.0
    checkpoint: list[int] = field(default_factory=list)  # levels whose activations are recomputed in the backward pass
    attention_backend: str = "auto"  # or sdpa, xformers, plain
    fused: str = "auto"  # or plain, triton: norms, and what surrounds attention, by kernels of a GPU; see nn/fused
    patch: int = 1  # side of the squares of x that are folded into channels on the way in, and unfolded on the way out
    causal: bool = False  # no frame looks at one after it, so that a video can go on frame by frame, with a `Cache`
    guided: bool = False  # whether it is told the scale of guidance, as a student is; follows from loss.guidance
    previous: bool = False  # whether what it says of a frame begins from the nearest known one; needs prediction v
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
        for name in ("width", "patch", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"unet.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("labels", "actions", *(f"{video}_channels" for video in VIDEOS)):
            if getattr(self, name) < 0:
                raise ValueError(f"unet.{name} is {getattr(self, name)}; give 0 (none) or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"unet.dropout is {self.dropout}; give a probability from 0 to less than 1")
        if self.modulation not in MODULATIONS:
            raise ValueError(f"unet.modulation is {self.modulation!r}; choose {' or '.join(MODULATIONS)}")
        if self.attention_backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"unet.attention_backend is {self.attention_backend!r}; choose {', '.join(('auto', *BACKENDS))}"
            )
        if self.fused not in SETTINGS:
            raise ValueError(f"unet.fused is {self.fused!r}; choose {', '.join(SETTINGS)}")
        if min(self.text_dim, self.words) < 0 or (self.words and (self.text_dim < 2 or self.text_dim % 2)):
            raise ValueError(
                f"unet.text_dim is {self.text_dim} and unet.words {self.words}; give 0 or more of both, and words an "
                "even width"
            )
        for level in levels:
            if self.attention(level) or self.reads(level):
                check_heads("unet", self.width, self.multipliers[level], self.head_dim)

    def attention(self, level: int) -> list[str]:
        """Axes of attention at a level, in order."""
        if level in self.joint_attention:
            return ["joint"]
        chosen = [("space", self.spatial_attention), ("time", self.temporal_attention)]
        return [axis for axis, levels in chosen if level in levels]

    @property
    def videos(self) -> dict[str, int]:
        """The videos that condition the model, by the names of `Condition`, and the channels of each."""
        channels = {name: int(getattr(self, f"{name}_channels")) for name in VIDEOS}
        return {name: count for name, count in channels.items() if count}

    @property
    def inputs(self) -> dict[str, int]:
        """What the network is shown side by side, in this order, and the channels of each."""
        before = {"previous": self.channels + 1} if self.previous else {}
        return {"x": self.channels, "clock": 1, **self.videos, **before}

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
        self.block = ResBlock(
            width, width, dim, config.modulation, config.dropout, config.causal, config.spatial_convs, config.fused
        )
        self.attention = nn.ModuleList(
            Attention(width, axis, config.head_dim, config.attention_backend, config.causal, config.fused)
            for axis in config.attention(level)
        )
        self.read: CrossAttention | None = None
        if config.reads(level):
            self.read = CrossAttention(width, config.text_dim, config.head_dim, config.attention_backend)

    def arounds(self, log_snr: Tensor, frames: int, cache: Cache | None) -> list[Around]:
        """Of each attention of this level, or of another block of it."""
        return [layer.around(log_snr, frames, cache) for layer in self.attention]  # type: ignore[operator]

    def run(
        self,
        x: Tensor,
        emb: Tensor | Told,
        log_snr: Tensor,
        frames: int,
        text: Tokens | None,
        arounds: list[Around],
        skip: Tensor | None = None,
        cache: Cache | None = None,
        tables: Tables = None,
    ) -> Tensor:
        if self.join is not None:
            x = x + self.join(skip)
        x = self.block(x, emb, frames, cache, tables)
        for layer, around in zip(self.attention, arounds, strict=True):
            x = layer(x, log_snr, frames, cache, around)
        if self.read is not None and text is not None:
            x = self.read(x, *text, frames)
        return x

    def forward(
        self,
        x: Tensor,
        emb: Tensor | Told,
        log_snr: Tensor,
        frames: int,
        text: Tokens | None,
        arounds: list[Around],
        skip: Tensor | None = None,
        cache: Cache | None = None,
        tables: Tables = None,
    ) -> Tensor:
        if self.recompute and torch.is_grad_enabled() and cache is None:
            return checkpoint(self.run, x, emb, log_snr, frames, text, arounds, skip, None, tables, use_reentrant=False)
        return self.run(x, emb, log_snr, frames, text, arounds, skip, cache, tables)


class UNet(nn.Module):
    """Denoising network over `(b, c, f, h, w)`; frames are folded into the batch and unfolded for time.

    It is told the clock twice: voxel by voxel as an input channel, and frame by frame in each block's modulation.
    Other numbers of frames and other sizes than it was trained on are accepted, as long as h and w divide by
    `patch * 2 ** (levels - 1)`. Patches make pixels cheap to work on (Hoogeboom et al. 2023, simple diffusion, section
    3.2): the network is as wide and as deep, over fewer places.

    A causal one looks back alone: what it says of a frame does not depend on frames after it, so that a video may come
    piece by piece, each piece with a `Cache` of those before it.

    Args:
        spread: whether it also tells how far off what it predicts may be, which it knows where frames begin from known
            ones.
    """

    def __init__(self, config: UNetConfig, spread: bool = False) -> None:
        super().__init__()
        config.validate()
        self.config, self.causal, self.spread = config, config.causal, spread
        widths = [config.width * m for m in config.multipliers]
        dim = 4 * config.width
        self.embed = Embedding(dim, config.labels, config.strided, [*config.videos], config.guided, config.actions)
        self.text = TextInput(config.text_dim, config.words, dim) if config.text_dim else None
        self.previous = Previous(config.causal) if config.previous else None
        area = config.patch**2
        self.enter = nn.Conv2d(sum(config.inputs.values()) * area, widths[0], 3, padding=1)
        self.placed: dict[tuple[torch.Size, int, torch.device], dict[int, list[Around]]] = {}
        self.levels = [level for level, count in enumerate(config.blocks) for _ in range(count)]  # of each stage
        self.down = nn.ModuleList(LevelBlock(config, level, dim) for level in self.levels)
        self.up = nn.ModuleList(LevelBlock(config, level, dim, widths[level]) for level in reversed(self.levels))
        self.merge, self.split = nn.ModuleList(), nn.ModuleList()
        for upper, lower in pairwise(widths):
            self.merge.append(Downsample(upper, lower))
            self.split.append(Upsample(lower, upper))
        self.middle = LevelBlock(config, len(widths) - 1, dim)
        self.modulate = Modulation(widths[0], dim, config.modulation, config.fused)
        made = config.channels * ((Previous.OUTPUTS if config.previous else 1) + config.variance)
        self.leave = nn.Conv2d(widths[0], made * area, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)
        channels_last(self)

    def tables(self, emb: Tensor, cache: Cache | None) -> Iterator[Tables]:
        """What the modulations of each block make of the embedding `(b f) dim`, in order, and then the last of all.

        On a GPU that is one product for all, where weights are whole, and no cache keeps what was made. Alone each is a
        small one, for which, with its derivative, a GPU starts eight kernels.
        """
        groups = [stage.block.modulations for stage in (*self.down, self.middle, *self.up)]
        layers = [layer.project for group in (*groups, [self.modulate]) for layer in group]
        if cache is not None or not on_gpu(emb.device) or any(hasattr(layer.weight, "full_tensor") for layer in layers):
            yield from repeat(None)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        parts = iter(F.linear(emb, weight, bias).split([layer.out_features for layer in layers], dim=1))
        yield from ([next(parts) for _ in group] for group in (*groups, [self.modulate]))

    def arounds(self, clocks: list[Tensor], frames: int, cache: Cache | None) -> dict[int, list[Around]]:
        """Of each level. Without a cache they are kept for the sizes that were asked for last: for them a GPU else
        starts a hundred small kernels."""
        stages = {level: stage for level, stage in zip(self.levels, self.down, strict=True)}
        if cache is not None:  # whose frames have places of their own
            return {level: stage.arounds(clocks[level], frames, cache) for level, stage in stages.items()}  # type: ignore[operator]
        sizes = clocks[0].shape[2:], frames, clocks[0].device
        if sizes in self.placed:
            return self.placed[sizes]
        with torch.inference_mode(False):  # what is kept may serve a training
            made: dict[int, list[Around]] = {
                level: stage.arounds(clocks[level], frames, None)  # type: ignore[operator]
                for level, stage in stages.items()
            }
        turned = [part for level in made.values() for around in level for part in around.turn]
        if not any(map(torch._C._functorch.is_functorch_wrapped_tensor, turned)):  # which end with what wraps them
            while len(self.placed) >= SIZES:
                self.placed.pop(next(iter(self.placed)), None)
            self.placed[sizes] = made
        return made

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition, cache: Cache | None = None) -> Tensor:
        """Look at noisy clips, and say what the denoiser reads as its prediction.

        Args:
            x: `(b, c, f, h, w)`, scaled to unit variance.
            log_snr: `(b, 1, f, h, w)`, the clock of each voxel, in [-20, 20].
            condition: label, text, actions, stride and other videos, as far as the model was built for them.
            cache: of a causal network, what it keeps of the frames before these; by default there are none.

        Returns:
            `(b, c, f, h, w)`; with the variance head c channels more, and c more with the logarithm of the variance of
            what it predicts, where it tells that.

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
        for name, channels in self.config.videos.items():
            inputs.append(condition.shown(name, x[:, :1].expand(-1, channels, -1, -1, -1)))
        found = None if self.previous is None else self.previous.find(x, log_snr, cache)
        if found is not None:
            inputs += [found[0], found[1] / 10]
        h = rearrange(torch.cat(inputs, dim=1), "b c f (h p) (w q) -> (b f) (c p q) h w", p=patch, q=patch)
        h = self.enter(h.contiguous(memory_format=torch.channels_last))  # (b f) width h w
        emb = self.embed(log_snr.mean(dim=(1, 3, 4)), condition)  # b f dim
        text: Tokens | None = None
        if self.text is not None:
            text, pooled = self.text(condition, len(x))
            emb = emb + pooled[:, None]
        emb = F.silu(rearrange(emb, "b f d -> (b f) d"))
        told = emb if cache is None else cache.told(emb, Told)
        tables = self.tables(emb, cache)

        clocks = [rearrange(log_snr, "b c f h w -> (b f) c h w")]  # of each level
        if patch > 1:
            clocks = [F.avg_pool2d(clocks[0], patch)]
        for _ in self.merge:
            clocks.append(F.avg_pool2d(clocks[-1], 2))
        arounds = self.arounds(clocks, frames, cache)
        skips, here = [], 0
        for level, stage in zip(self.levels, self.down, strict=True):
            if level > here:
                h, here = self.merge[here](h), level  # (b f) 2c h/2 w/2
            h = stage(h, told, clocks[level], frames, text, arounds[level], None, cache, next(tables))
            skips.append(h)
        h = self.middle(h, told, clocks[-1], frames, text, arounds[here], None, cache, next(tables))
        for level, stage in zip(reversed(self.levels), self.up, strict=True):
            if level < here:
                h, here = self.split[level](h), level  # (b f) c/2 2h 2w
            h = stage(h, told, clocks[level], frames, text, arounds[level], skips.pop(), cache, next(tables))
        h = self.leave(self.modulate.activated(h, told, *next(tables) or ()))
        h = rearrange(h, "(b f) (c p q) h w -> b c f (h p) (w q)", f=frames, p=patch, q=patch)
        if self.previous is None or found is None:
            return h
        count = Previous.OUTPUTS * x.shape[1]
        said, spread = self.previous(h[:, :count], x, log_snr, found)
        heads = ([h[:, count:]] if self.config.variance else []) + ([spread.to(said.dtype)] if self.spread else [])
        return torch.cat([said, *heads], dim=1) if heads else said
