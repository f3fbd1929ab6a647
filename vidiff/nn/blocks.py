"""The blocks of the factorised space-time U-Net.

Inside the network a clip is `(b f) c h w` in channels-last memory, so a voxel's channels lie together and, frame after
frame, `b f h w c`. Time is then reached by views: `(b, c, f, h w)` for convolutions, `(b, h w, f, c)` for attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.attention import attention
from vidiff.nn.cache import Cache, looks_back
from vidiff.nn.embed import Turn, rotary, rotate, turn_by
from vidiff.nn.fused import ops
from vidiff.nn.fused.choice import interpreted, on_gpu, serves
from vidiff.nn.heads import Layout, enter, leave

MODULATIONS = ("film", "adain")


def channels_last(module: nn.Module) -> None:
    """Lay the kernels of a module's 2D convolutions out as its activations are.

    To the very strides: pointwise kernels count as so laid out already, but their gradients come with other strides,
    of which DistributedDataParallel complains for each.
    """
    for parameter in module.parameters():
        if parameter.ndim == 4:
            laid_out = torch.empty_like(parameter.data, memory_format=torch.channels_last)
            parameter.data = laid_out.copy_(parameter.data)


def layer_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Layer norm over the last axis, in the type of `x`: the kernel accumulates in float32 whatever that is."""
    weight = None if weight is None else weight.to(x.dtype)
    if not torch.is_autocast_enabled(x.device.type):  # to leave it costs more than a small norm
        return F.layer_norm(x, x.shape[-1:], weight)
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], weight)


def normalise(x: Tensor, kind: str, weight: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance.

    Args:
        x: `(n, c, h, w)`.
        kind: "film" normalises each voxel over its channels (layer norm), "adain" each channel of each frame over
            its area (instance norm).
        weight: `(c,)`, a learned scale for "film"; where a modulation follows, that brings the scale.
    """
    if kind == "film":
        return layer_norm(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
    with torch.autocast(x.device.type, enabled=False):
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0, keepdim=True)
        return ((x - mean) * torch.rsqrt(variance + 1e-5)).to(x.dtype)


class Told(dict["Modulation", tuple[Tensor, Tensor]]):
    """An embedding of frames, `(b f) dim`, already activated, with what modulations have made of it: those of a stream
    are told the same again and again.

    Args:
        emb: the embedding.
    """

    def __init__(self, emb: Tensor) -> None:
        super().__init__()
        self.emb = emb


class Modulation(nn.Module):
    """A layer that normalises, then scales and shifts by the embedding of each frame.

    "film" is feature-wise linear modulation (Perez et al. 2018, eq. 1) of layer-normed voxels, "adain" adaptive
    instance normalisation (Huang and Belongie 2017, eq. 8).
    """

    def __init__(self, channels: int, dim: int, kind: str, fused: str = "auto") -> None:
        super().__init__()
        if kind not in MODULATIONS:
            raise ValueError(f"modulation is {kind!r}; choose {' or '.join(MODULATIONS)}")
        self.kind, self.fused = kind, fused
        self.project = nn.Linear(dim, 2 * channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, emb: Tensor | Told, table: Tensor | None = None) -> Tensor:
        """x: `(b f) c h w`; emb: `(b f) dim`, already activated; table: `(b f) (2 c)`, what `project` makes of that, if
        it is there."""
        x = normalise(x, self.kind)
        gain, shift = self.gains(emb, x.dtype, table)
        return torch.addcmul(shift, x, gain)

    def gains(self, emb: Tensor | Told, dtype: torch.dtype, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is multiplied by, and what is added: each `(b f) c 1 1`."""
        if isinstance(emb, Told):
            if self not in emb:
                emb[self] = self.gains(emb.emb, dtype)
            return emb[self]
        table = self.project(emb) if table is None else table
        scale, shift = table.to(dtype)[:, :, None, None].chunk(2, dim=1)  # (b f) c 1 1
        return scale + 1, shift

    def activated(self, x: Tensor, emb: Tensor | Told, table: Tensor | None = None) -> Tensor:
        """`forward`, then SiLU."""
        if self.kind == "film" and serves("norm", x, self.fused, x.shape[1]):
            table = self.project(emb.emb if isinstance(emb, Told) else emb) if table is None else table
            return ops.norm(x, table, True)
        return F.silu(self(x, emb, table))


class ResBlock(nn.Module):
    """A residual block that mixes space, then time: 1x3x3 and 3x1x1 convolutions (Tran et al. 2018, R(2+1)D).

    A causal one looks at a frame and the two before it, any other at a frame and its neighbours.

    Args:
        spatial_convs: 1, or 2 as in blocks of pictures (Dhariwal and Nichol 2021, ADM, appendix A). The second is added
            to what the first makes and begins at zero, so a block that gets it begins as what it was without.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dim: int,
        modulation: str,
        dropout: float = 0.0,
        causal: bool = False,
        spatial_convs: int = 1,
        fused: str = "auto",
    ) -> None:
        super().__init__()
        self.causal = causal
        self.modulate_space = Modulation(inputs, dim, modulation, fused)
        self.space = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate_second: Modulation | None = None
        if spatial_convs > 1:
            self.modulate_second = Modulation(outputs, dim, modulation, fused)
            self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
            for parameter in self.second.parameters():
                nn.init.zeros_(parameter)
        self.modulate_time = Modulation(outputs, dim, modulation, fused)
        self.dropout = nn.Dropout(dropout)
        self.time = nn.Conv2d(outputs, outputs, (3, 1), padding=(0 if causal else 1, 0))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    @property
    def modulations(self) -> list[Modulation]:
        """In order."""
        return [m for m in (self.modulate_space, self.modulate_second, self.modulate_time) if m is not None]

    def forward(
        self,
        x: Tensor,
        emb: Tensor | Told,
        frames: int,
        cache: Cache | None = None,
        tables: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """x: `(b f) inputs h w`; emb: `(b f) dim`, already activated; tables: of each of `modulations`, if there."""
        first, *second, last = [None] * len(self.modulations) if tables is None else tables
        h = self.space(self.modulate_space.activated(x, emb, first))  # (b f) outputs h w
        if self.modulate_second is not None:
            h = h + self.second(self.modulate_second.activated(h, emb, *second))
        h = self.dropout(self.modulate_time.activated(h, emb, last))
        height = h.shape[2]
        h = h.flatten(2).unflatten(0, (-1, frames)).transpose(1, 2)  # b c f (h w): a view in channels-last memory
        if self.causal:
            past = h if cache is None else cache.extend(self, h, dim=2, window=2)
            missing = 2 + frames - past.shape[2]  # at the beginning of a stream, where zeros stand in
            h = F.pad(past, (0, 0, missing, 0)) if missing else past  # b c 2+f (h w)
        h = self.time(h).transpose(1, 2).flatten(0, 1).unflatten(2, (height, -1))  # (b f) c h w
        return self.skip(x) + h


def fit_heads(channels: int, head_dim: int) -> int:
    """Channels of a head, at most all: even, and 4 or more. Raises ValueError where heads do not fit."""
    head_dim = min(head_dim, channels)
    if head_dim < 4 or channels % head_dim or head_dim % 2:
        raise ValueError(f"{channels} channels do not divide into heads of {head_dim} (an even number from 4 on)")
    return head_dim


def check_heads(key: str, width: int, multiplier: int, head_dim: int) -> None:
    """Raises ValueError where the heads of a level do not fit; `key` is the network's own, as a config has it."""
    try:
        fit_heads(width * multiplier, head_dim)
    except ValueError as error:
        times = f" times {multiplier}" if multiplier > 1 else ""
        raise ValueError(f"{key}.head_dim is {head_dim} and {key}.width {width}{times}: {error}") from None


class Around(NamedTuple):
    """What layers of attention share: which voxels read each other, the turn of all tokens that are read, and the mask
    of a causal layer, where there is one."""

    layout: Layout
    turn: Turn
    mask: Tensor | None


class Attention(nn.Module):
    """Self-attention over space, over time at each location, or over both at once.

    Positions are rotary, for queries, keys, values and, turned back, results (Miyato et al. 2024, eq. 6): what is read
    carries how far away it lies, in space and time. Each head has a learned preference for tokens with a cleaner clock;
    half of the heads start with one, so that known frames are looked at from the first step on. Where all clocks are
    the same it changes nothing.

    A causal one reads, over time, its own frame and those before it: in joint attention a frame's tokens read each
    other and all of earlier frames.
    """

    AXES = ("space", "time", "joint")
    PREFERENCE = 0.2  # added to a logit for each unit of log-SNR, at first

    def __init__(
        self,
        channels: int,
        axis: str,
        head_dim: int,
        backend: str = "auto",
        causal: bool = False,
        fused: str = "auto",
    ) -> None:
        super().__init__()
        if axis not in self.AXES:
            raise ValueError(f"attention axis is {axis!r}; choose {', '.join(self.AXES)}")
        head_dim = fit_heads(channels, head_dim)
        heads = channels // head_dim
        self.axis, self.head_dim, self.backend, self.fused = axis, head_dim, backend, fused
        self.causal = causal and axis != "space"
        self.scale = nn.Parameter(torch.ones(channels))
        self.sharpness = nn.Parameter(torch.ones(head_dim))
        self.preference = nn.Parameter(self.PREFERENCE * ((torch.arange(heads) + 1) % 2).float())
        # Pointwise convolutions: on channels-last memory they are the matrix products that nn.Linear would be.
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def turn(self, frames: int, height: int, width: int, device: torch.device) -> Turn:
        """By which positions are told; the same for all layers of these sizes and heads."""
        sizes = {"space": (height, width), "time": (frames,), "joint": (frames, height, width)}[self.axis]
        return turn_by(rotary(sizes, self.head_dim, device), on_gpu(device) or interpreted(self.fused))

    def around(self, log_snr: Tensor, frames: int, cache: Cache | None) -> Around:
        """What is the same for all layers of these sizes and heads. log_snr: `(b f) 1 h w`."""
        height, width = log_snr.shape[2:]
        layout, device = Layout(self.axis, frames, height, width), log_snr.device
        seen = frames + (cache.length(self, -2) // layout.area if cache is not None else 0)

        def make() -> tuple[Turn, Tensor | None]:
            looks = self.causal and frames > 1
            mask = looks_back(frames, seen, layout.area, cache, device) if looks else None
            return self.turn(seen, height, width, device), mask

        name = layout, seen, self.head_dim, self.causal, device
        turn, mask = make() if cache is None else cache.made(name, make)
        return Around(layout, turn, mask)

    def forward(
        self, x: Tensor, log_snr: Tensor, frames: int, cache: Cache | None = None, around: Around | None = None
    ) -> Tensor:
        """x: `(b f) c h w`; log_snr: `(b f) 1 h w`; around: the layer's own, where a network has it ready."""
        layout, turn, mask = around or self.around(log_snr, frames, cache)
        if serves("norm", x, self.fused, x.shape[1]):
            h = ops.norm(x, self.scale, False)
        else:
            h = normalise(x, "film", self.scale.to(x.dtype))
        h = self.qkv(h)  # (b f) (3 heads head_dim) h w
        kernels = serves("attention", h, self.fused, len(self.preference), self.head_dim)
        if cache is not None and self.causal:
            q, k, v, turn = self.recall(h, log_snr, layout, turn, cache)
        elif kernels:
            sharpness, preference = self.sharpness.float(), self.preference.float()
            q, k, v = ops.enter(h, sharpness, preference, log_snr.float(), turn.there, self.axis, frames)
        else:
            q, k, v = enter(h, self.sharpness, self.preference, log_snr, turn.there, layout)
        read = attention(q, k, v, self.backend, mask)
        if kernels and read.dtype == h.dtype:
            return x + self.out(ops.leave(read, turn.back, *layout))
        return x + self.out(leave(read, turn.back, layout, h.dtype))

    def recall(
        self, x: Tensor, log_snr: Tensor, layout: Layout, whole: Turn, cache: Cache
    ) -> tuple[Tensor, Tensor, Tensor, Turn]:
        """`enter`, with keys and values of frames that the cache holds before those of `x`, and the turn of its own
        tokens, where `whole` is that of all."""
        turn = whole.last(layout.length)
        q, k, v = enter(x.float(), self.sharpness, self.preference, log_snr, turn.there, layout)
        new = torch.cat([k, v], dim=-1).transpose(1, 2)  # sequences heads tokens 2*head_dim

        def back(kept: Tensor, gone: int) -> Tensor:
            at = whole.back[..., gone * layout.area, None, :]  # of the first token of a frame, in space at 0
            return torch.cat([rotate(part, at) for part in kept.chunk(2, dim=-1)], dim=-1)

        kept = cache.extend(self, new, -2, cache.window, cache.sinks, layout.area, back)
        k, v = kept.to(x.dtype).transpose(1, 2).chunk(2, dim=-1)  # sequences tokens heads head_dim
        return q.to(x.dtype), k, v, turn


class Downsample(nn.Conv2d):
    """A layer that merges 2x2 voxels of a frame into one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, stride=2)


class Upsample(nn.Module):
    """A layer that splits each voxel of a frame into 2x2 (Shi et al. 2016, sub-pixel convolution)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.split = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(self.split(x), "n (a b c) h w -> n c (h a) (w b)", a=2, b=2)  # n outputs 2h 2w
        return x.contiguous(memory_format=torch.channels_last)
