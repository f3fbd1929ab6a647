"""Scaled dot-product attention behind one call, with its backend chosen by a probe.

Every backend takes and returns `(b, n, heads, d)`: b sequences of n tokens. A backend is trusted on a device and a
precision only after a small forward and backward pass on it has agreed with the plain formula.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Callable[..., Tensor]

MOST_SEQUENCES = 65535  # fused kernels put the batch on a CUDA grid axis that ends here
MOST_NUMBERS = 2**31 - 1  # and number what they read by 32 bits: the backward pass of FlashAttention-2 does
SHORT = 256  # tokens; below this two small matrix products beat a fused kernel on a CPU

log = logging.getLogger(__name__)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1), written out."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b heads n d
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # b heads n m
    if mask is not None:
        logits = logits.masked_fill(~over_heads(mask), -torch.inf)
    return (torch.softmax(logits, dim=-1) @ v).transpose(1, 2)  # b n heads d


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's fused attention, in chunks that its kernels can index."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # b heads n d
        mask = None if mask is None else over_heads(mask)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)  # b n heads d

    return in_chunks(kernel, q, k, v, *([] if mask is None else [mask.expand(len(q), *mask.shape[1:])]))


def over_heads(mask: Tensor) -> Tensor:
    """A mask `(b, m)` or `(1 or b, n, m)`, given the rank of logits `(b, heads, n, m)`."""
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """xformers' memory-efficient attention, in chunks that its kernels can index."""
    from xformers.ops import memory_efficient_attention

    return in_chunks(memory_efficient_attention, q, k, v)


def in_chunks(kernel: Callable[..., Tensor], q: Tensor, k: Tensor, *more: Tensor) -> Tensor:
    """Call a fused kernel on as many sequences at once as it can take, and join the results."""
    most = most_sequences(q, k)
    if len(q) <= most:
        return kernel(q, k, *more)
    return torch.cat([kernel(*part) for part in zip(*(x.split(most) for x in (q, k, *more)), strict=True)])


def most_sequences(q: Tensor, k: Tensor) -> int:
    """Sequences that a fused kernel can take at once: tokens count in blocks of 128, channels as 32 or more."""
    heads, channels = q.shape[2:]
    tokens = 128 * -(-max(q.shape[1], k.shape[1]) // 128)
    return max(1, min(MOST_SEQUENCES, MOST_NUMBERS // (heads * tokens * max(channels, 32))))


# In the order in which they are tried. Of the two fused ones, torch's own has a deterministic backward pass and can be
# compiled; xformers calls the same kernels through checks of its own, and serves where torch's cannot be used.
BACKENDS: dict[str, Backend] = {"sdpa": sdpa, "xformers": xformers, "plain": plain}


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Inside, passes forwards and backwards are a probe's own, whatever the call that asks for it is a part of: one in
    inference, in autocast, or of a block that is recomputed, whose hooks would take the probe's tensors for the
    block's."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    ):
        yield


@functools.cache
def probe(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Try a backend, forward and backward; those that take masks with one of each kind as well, and on 64 tokens, where
    kernels that are wrong in that alone have been. Returns None if it may be used, else the reason why not."""
    generator = torch.Generator().manual_seed(0)
    reason = _try(name, [torch.randn(2, 24, 2, head_dim, generator=generator) for _ in range(3)], device, dtype)
    if reason is None and name != "xformers":
        draw = [torch.randn(2, 64, 2, head_dim, generator=generator) for _ in range(3)]
        place = torch.arange(64)
        for mask in (place < torch.tensor([[64], [9]]), (place <= place[:, None])[None]):
            reason = reason or _try(name, draw, device, dtype, mask.to(device))
    return reason


def _try(name: str, draw: list[Tensor], device: torch.device, dtype: torch.dtype, *mask: Tensor) -> str | None:
    with apart(device):
        inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in draw]
        exact = [x.to(device, torch.float32, copy=True).requires_grad_() for x in draw]
        expected = plain(*exact, *mask)
        expected.square().sum().backward()
        try:
            result = BACKENDS[name](*inputs, *mask)
            result.float().square().sum().backward()
        except Exception as error:  # whatever it is that a backend dies of, it is a reason to take the next
            return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    pairs = [(result, expected)] + [(x.grad, y.grad) for x, y in zip(inputs, exact, strict=True)]
    for got, wanted in pairs:
        assert wanted is not None
        if got is None or got.shape != wanted.shape:
            return "it gives no gradient, or a result of another shape"
        gap = float((got.detach().float() - wanted.detach()).abs().max() / wanted.detach().abs().max())
        if not gap <= tolerance:
            return f"it differs from the plain formula by {gap:.1e} of the largest value" + " with a mask" * bool(mask)
    return None


@functools.cache
def choose_backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The first backend that passes its probe, in the order of `BACKENDS`. Says once what was refused."""
    for name in BACKENDS:
        if name == "xformers" and device.type != "cuda":
            continue  # it has no operators elsewhere
        reason = probe(name, device, dtype, head_dim)
        if reason is None:
            return name
        log.warning("attention: %s cannot be used on %s in %s (%s)", name, device, dtype, reason)
    raise RuntimeError(f"no attention backend works on {device} in {dtype}")


def _chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    return choose_backend(device, dtype, head_dim)


# A compiler would else follow the probes. As torch.compiler.assume_constant_result, without its import of a second.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def attention(q: Tensor, k: Tensor, v: Tensor, backend: str = "auto", mask: Tensor | None = None) -> Tensor:
    """Attention of n tokens to m.

    Args:
        q: `(b, n, heads, d)`; k and v: `(b, m, heads, d)`.
        backend: "auto", or one of `BACKENDS`.
        mask: bool, true where a token may be read, one in each row at least: `(b, m)`, by all tokens alike, or
            `(1, n, m)`, in all sequences alike. In place of xformers, whose kernels ask for masks of certain sizes,
            SDPA then serves.

    Returns:
        `(b, n, heads, d)`.

    Raises:
        ValueError: if the backend has no such name.
    """
    if backend == "auto":
        short = q.device.type == "cpu" and k.shape[1] <= SHORT
        backend = "plain" if short else _chosen(q.device, q.dtype, q.shape[-1])
    if backend not in BACKENDS:
        raise ValueError(f"attention backend is {backend!r}; choose auto, {', '.join(BACKENDS)}")
    if mask is not None:
        return (plain if backend == "plain" else sdpa)(q, k, v, mask)
    return BACKENDS[backend](q, k, v)
