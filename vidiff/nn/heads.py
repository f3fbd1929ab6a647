"""What surrounds attention in a layer: queries, keys and values of each head going in, a clip again coming out.

Written as formulas this is a dozen passes over memory, for layout, norm, turn, clock and type. On a CPU, where nothing
joins them, each way has a derivative of its own, which works in place on what it has just copied; elsewhere, and where
derivatives run forwards, the formulas are left to autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidiff.nn.embed import rotate

EPS = 1e-5  # of the norm of queries and keys
_formulas: ContextVar[bool] = ContextVar("formulas", default=False)
# Of axes b f h w k n d, into those of (parts, sequences, heads, tokens, channels), the product of whose sizes they are.
ORDERS = {"space": (4, 0, 1, 5, 2, 3, 6), "time": (4, 0, 2, 3, 5, 1, 6), "joint": (4, 0, 5, 1, 2, 3, 6)}


class Layout(NamedTuple):
    """Which voxels of a clip `(b f) c h w` read each other: those of a frame, of a place in all frames, or all."""

    axis: str
    frames: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Tokens of a frame, in a sequence."""
        return 1 if self.axis == "time" else self.height * self.width

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.area if self.axis == "space" else self.area * self.frames

    def split(self, x: Tensor, parts: int, channels: int) -> Tensor:
        """`(b f) (parts n d) h w` as `(parts, sequences, n, tokens, d)`, d being `channels`: a view where it can be."""
        return self._places(x, parts, channels).reshape(parts, -1, *self._ends(x, parts, channels))

    def copy(self, x: Tensor, parts: int, channels: int) -> Tensor:
        """`split`, as a copy in float32, in one pass."""
        places = self._places(x, parts, channels)
        copy = torch.empty(places.shape, device=x.device).copy_(places)
        return copy.view(parts, -1, *self._ends(x, parts, channels))

    def write(self, x: Tensor, to: Tensor) -> None:
        """Put `(parts, sequences, n, tokens, d)` into `(b f) (parts n d) h w`, in one pass."""
        places = self._places(to, len(x), x.shape[-1])
        places.copy_(x.view(places.shape))

    def join(self, x: Tensor) -> Tensor:
        """`(sequences, n, tokens, d)` as `(b f) (n d) h w`."""
        patterns = {"space": "(b f) n (h w) d", "time": "(b h w) n f d", "joint": "b n (f h w) d"}
        sizes = {"f": self.frames, "h": self.height, "w": self.width}
        return rearrange(x, f"{patterns[self.axis]} -> (b f) (n d) h w", **sizes)

    def _places(self, x: Tensor, parts: int, channels: int) -> Tensor:
        h, w = x.shape[2:]
        heads = x.shape[1] // (parts * channels)
        inside = x.permute(0, 2, 3, 1).view(-1, self.frames, h, w, parts, heads, channels)
        return inside.permute(ORDERS[self.axis])

    def _ends(self, x: Tensor, parts: int, channels: int) -> tuple[int, int, int]:
        return x.shape[1] // (parts * channels), self.length, channels


def enter(
    x: Tensor, sharpness: Tensor, preference: Tensor, log_snr: Tensor, turn: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each head: normed, turned to their places, the clock in the last channel.

    Args:
        x: `(b f) (3 n d) h w`, of n heads.
        sharpness: `(d,)`, the scale of queries and keys, of any type: sharded weights may come in the network's.
        preference: `(n,)`, added to a logit for each unit of log-SNR.
        log_snr: `(b f) 1 h w`, the last channel of keys.
        turn: `there` of a `Turn`.

    Returns:
        three `(sequences, tokens, n, d)` in the type of `x`.
    """
    given = (
        x,
        sharpness.float(),
        scaled(preference, len(sharpness)),
        layout.split(log_snr.float(), 1, 1)[0],
        turn,
        layout,
    )
    if not by_hand(x, turn):
        q, k, v = _enter(*given)
    else:
        q, k, v = _Enter.apply(*given) if torch.is_grad_enabled() else _entered(*given)[0]
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def leave(x: Tensor, turn: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """What attention has made, `(sequences, tokens, n, d)`, turned by `back` of a `Turn`: `(b f) (n d) h w`."""
    given = x.transpose(1, 2), turn, layout, dtype
    if not by_hand(x, turn):
        return _leave(*given)
    return _Leave.apply(*given) if torch.is_grad_enabled() else _left(*given)


def norm_heads(x: Tensor, sharpness: Tensor) -> Tensor:
    """Layer norm of queries or keys `(..., d)` (Dehghani et al. 2023, section 2), in their own type."""
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], sharpness.to(x.dtype), eps=EPS)


def scaled(preference: Tensor, channels: int) -> Tensor:
    """A preference `(n,)` as the last channel of queries, `(n, 1, 1)` in float32: times what logits are divided by."""
    return (preference * channels**0.5).float()[:, None, None]


def with_clock(q: Tensor, k: Tensor, preference: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Preference and clock written into the last channels, of the pair which is not turned."""
    q = torch.cat([q[..., :-1], preference.expand(*q.shape[:-1], 1)], dim=-1)
    k = torch.cat([k[..., :-1], clock.expand(*k.shape[:-1], 1)], dim=-1)
    return q, k


@contextmanager
def formulas() -> Iterator[None]:
    """Inside, what surrounds attention is the formulas, as a compiler reads them."""
    token = _formulas.set(True)
    try:
        yield
    finally:
        _formulas.reset(token)


def by_hand(x: Tensor, turn: Tensor) -> bool:
    """Whether derivatives are those of this file."""
    if torch.compiler.is_compiling() or _formulas.get() or x.device.type != "cpu" or not turn.is_complex():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # which derivatives that run forwards do


def _enter(
    x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor, turn: Tensor, layout: Layout
) -> tuple[Tensor, ...]:
    qkv = layout.split(x, 3, len(sharpness)).to(torch.float32, memory_format=torch.contiguous_format)
    q, k = rotate(norm_heads(qkv[:2], sharpness), turn)
    return tuple(part.to(x.dtype) for part in (*with_clock(q, k, preference, clock), rotate(qkv[2], turn)))


def _leave(x: Tensor, turn: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    return layout.join(rotate(x.float(), turn)).to(dtype, memory_format=torch.channels_last)


def _turn(x: Tensor, turn: Tensor) -> Tensor:
    """`rotate` in place."""
    x.view(torch.complex64).mul_(turn)
    return x


def _entered(
    x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor, turn: Tensor, layout: Layout
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """`_enter` in place of copies, and what its derivative needs."""
    channels = len(sharpness)
    qk, v = x.tensor_split((2 * x.shape[1] // 3,), dim=1)  # apart, since what derivatives need is kept
    raw = layout.copy(qk, 2, channels)
    normed, mean, rstd = torch.native_layer_norm(raw, [channels], sharpness, None, EPS)
    _turn(normed, turn)
    normed[0, ..., -1:] = preference
    normed[1, ..., -1:] = clock
    turned = _turn(layout.copy(v, 1, channels)[0], turn)
    return (normed[0].to(x.dtype), normed[1].to(x.dtype), turned.to(x.dtype)), (raw, mean, rstd)


def _left(x: Tensor, turn: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """`_leave` in place of a copy."""
    sequences, heads, tokens, channels = x.shape
    turned = _turn(torch.empty(x.shape, device=x.device).copy_(x), turn)
    count = sequences * tokens // (layout.height * layout.width)
    shape = count, heads * channels, layout.height, layout.width
    joined = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    layout.write(turned[None], joined)
    return joined


class _Enter(torch.autograd.Function):
    """`_enter` with its derivative."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor, turn: Tensor, layout: Layout
    ) -> tuple[Tensor, ...]:
        made, kept = _entered(x, sharpness, preference, clock, turn, layout)
        ctx.save_for_backward(*kept, sharpness, turn)
        ctx.layout, ctx.dtype = layout, x.dtype
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raw, mean, rstd, sharpness, turn = ctx.saved_tensors
        layout, channels, back = ctx.layout, len(sharpness), turn.conj()
        qk = torch.empty_like(raw)
        for part, grad in zip(qk, grads[:2], strict=True):
            part.copy_(grad)
        preference = qk[0, ..., -1:].sum((0, 2))[..., None]
        clock = qk[1, ..., -1:].sum(1, keepdim=True) if ctx.needs_input_grad[3] else None
        qk[..., -1] = 0
        _turn(qk, back)
        wanted = [True, True, False]
        of_raw, of_sharpness, _ = torch.ops.aten.native_layer_norm_backward(
            qk, raw, [channels], mean, rstd, sharpness, None, wanted
        )
        v = torch.empty(grads[2].shape, device=raw.device).copy_(grads[2])
        heads, (h, w) = raw.shape[2], (layout.height, layout.width)
        count = raw[0].numel() // (heads * channels * h * w)
        x = torch.empty((count, 3 * heads * channels, h, w), dtype=ctx.dtype, memory_format=torch.channels_last)
        layout.write(of_raw, x[:, : 2 * heads * channels])
        layout.write(_turn(v, back)[None], x[:, 2 * heads * channels :])
        return x, of_sharpness, preference, clock, None, None


class _Leave(torch.autograd.Function):
    """`_leave` with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(turn)
        ctx.layout, ctx.dtype, ctx.channels = layout, x.dtype, x.shape[-1]
        return _left(x, turn, layout, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (turn,) = ctx.saved_tensors
        x = _turn(ctx.layout.copy(grad, 1, ctx.channels)[0], turn.conj())
        return x.to(ctx.dtype), None, None, None
