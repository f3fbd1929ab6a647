"""The blocks of the factorised space-time U-Net.

Inside the network a clip is `(b f) c h w` in channels-last memory, so a voxel's channels lie together and, frame after
frame, `b f h w c`. Time is then reached by views: `(b, c, f, h w)` for convolutions, `(b, h w, f, c)` for attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.attention import attention
from vidiff.nn.cache import Cache, looks_back
from vidiff.nn.embed import Turn, rotary, rotate, turn_by

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
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], None if weight is None else weight.to(x.dtype))


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


class Modulation(nn.Module):
    """A layer that normalises, then scales and shifts by the embedding of each frame.

    "film" is feature-wise linear modulation (Perez et al. 2018, eq. 1) of layer-normed voxels, "adain" adaptive
    instance normalisation (Huang and Belongie 2017, eq. 8).
    """

    def __init__(self, channels: int, dim: int, kind: str) -> None:
        super().__init__()
        if kind not in MODULATIONS:
            raise ValueError(f"modulation is {kind!r}; choose {' or '.join(MODULATIONS)}")
        self.kind = kind
        self.project = nn.Linear(dim, 2 * channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: `(b f) c h w`; emb: `(b f) dim`, already activated."""
        x = normalise(x, self.kind)
        scale, shift = self.project(emb).to(x.dtype)[:, :, None, None].chunk(2, dim=1)  # (b f) c 1 1
        return torch.addcmul(shift, x, scale + 1)


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
    ) -> None:
        super().__init__()
        self.causal = causal
        self.modulate_space = Modulation(inputs, dim, modulation)
        self.space = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate_second: Modulation | None = None
        if spatial_convs > 1:
            self.modulate_second = Modulation(outputs, dim, modulation)
            self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
            for parameter in self.second.parameters():
                nn.init.zeros_(parameter)
        self.modulate_time = Modulation(outputs, dim, modulation)
        self.dropout = nn.Dropout(dropout)
        self.time = nn.Conv2d(outputs, outputs, (3, 1), padding=(0 if causal else 1, 0))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, frames: int, cache: Cache | None = None) -> Tensor:
        h = self.space(F.silu(self.modulate_space(x, emb)))  # (b f) outputs h w
        if self.modulate_second is not None:
            h = h + self.second(F.silu(self.modulate_second(h, emb)))
        h = self.dropout(F.silu(self.modulate_time(h, emb)))
        height = h.shape[2]
        h = rearrange(h, "(b f) c h w -> b c f (h w)", f=frames)  # a view in channels-last memory
        if self.causal:
            past = h if cache is None else cache.extend(self, h, dim=2, window=2)
            h = F.pad(past, (0, 0, 2 + frames - past.shape[2], 0))  # b c 2+f (h w), where a stream begins with zeros
        h = rearrange(self.time(h), "b c f (h w) -> (b f) c h w", h=height)
        return self.skip(x) + h


def fit_heads(channels: int, head_dim: int) -> int:
    """Channels of a head, at most all: even, and 4 or more. Raises ValueError where heads do not fit."""
    head_dim = min(head_dim, channels)
    if head_dim < 4 or channels % head_dim or head_dim % 2:
        raise ValueError(f"{channels} channels do not divide into heads of {head_dim} (an even number from 4 on)")
    return head_dim


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

    def __init__(self, channels: int, axis: str, head_dim: int, backend: str = "auto", causal: bool = False) -> None:
        super().__init__()
        if axis not in self.AXES:
            raise ValueError(f"attention axis is {axis!r}; choose {', '.join(self.AXES)}")
        head_dim = fit_heads(channels, head_dim)
        heads = channels // head_dim
        self.axis, self.head_dim, self.backend = axis, head_dim, backend
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
        return turn_by(rotary(sizes, self.head_dim, device), device.type == "cuda")

    def forward(
        self, x: Tensor, log_snr: Tensor, frames: int, cache: Cache | None = None, turn: Turn | None = None
    ) -> Tensor:
        """x: `(b f) c h w`; log_snr: `(b f) 1 h w`; turn: the layer's own, where a network has it ready."""
        height, width = x.shape[2:]
        sequences, tokens, area = {
            "space": ("(b f)", "(h w)", height * width),
            "time": ("(b h w)", "f", 1),
            "joint": ("b", "(f h w)", height * width),
        }[self.axis]  # area: tokens of a frame, or of the space of one
        h = normalise(x, "film", self.scale.to(x.dtype))
        qkv = rearrange(self.qkv(h), f"(b f) (k n d) h w -> k {sequences} n {tokens} d", k=3, d=self.head_dim, f=frames)
        qkv = qkv.to(torch.float32, memory_format=torch.contiguous_format)  # 3 sequences heads tokens head_dim
        # Queries and keys are normed (Dehghani et al. 2023, section 2), so attention is selective from the start.
        qk, v = layer_norm(qkv[:2], self.sharpness), qkv[2]
        turn = self.turn(frames, height, width, x.device) if turn is None else turn
        kept = cache if self.causal else None  # which holds tokens that are not turned yet: their places change
        if kept is None:
            qk, v = rotate(qk, turn.there), rotate(v, turn.there)
        q, k = qk
        clock = rearrange(log_snr.float(), f"(b f) n h w -> {sequences} n {tokens} 1", f=frames)
        preference = (self.preference * self.head_dim**0.5)[:, None, None]  # what the logits are divided by
        q = torch.cat([q[..., :-1], preference.expand(*q.shape[:-1], 1)], dim=-1)
        k = torch.cat([k[..., :-1], clock.expand(*k.shape[:-1], 1)], dim=-1)  # of the last pair, which is not turned
        if kept is not None:
            k, v = kept.extend(self, torch.cat([k, v], dim=-1), -2, kept.window, kept.sinks, area).chunk(2, dim=-1)
            whole = self.turn(k.shape[-2] // area, height, width, x.device)  # with frames that the cache holds
            turn = whole.last(q.shape[-2])
            q, k, v = rotate(q, turn.there), rotate(k, whole.there), rotate(v, whole.there)
        seen = k.shape[-2] // area
        mask = looks_back(frames, seen, area, cache, x.device) if self.causal and frames > 1 else None
        q, k, v = (part.to(h.dtype).transpose(1, 2) for part in (q, k, v))  # sequences tokens heads head_dim
        h = rotate(attention(q, k, v, self.backend, mask).transpose(1, 2).float(), turn.back)
        h = rearrange(h, f"{sequences} n {tokens} d -> (b f) (n d) h w", f=frames, h=height, w=width)
        return x + self.out(h.to(x.dtype, memory_format=torch.channels_last))


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
