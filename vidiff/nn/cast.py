"""Weights as autocast would cast them, all at once: left to itself it starts a kernel for each, at every pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d  # whose weights and biases autocast casts
TOGETHER = 64  # tensors that one kernel of CUDA takes; their gradients are cast together too


@contextmanager
def low_weights(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside, on a GPU, layers have their weights in the type of autocast, as it would cast them, bit for bit.

    Gradients reach the weights themselves, in float32, in groups of `TOGETHER`; a backward pass that runs inside finds
    the same weights where it recomputes. On CPUs, and in float32, nothing changes.

    The copies take the memory that autocast's own would: half of the weights', as long as gradients may be asked for.

    Args:
        module: whose weights nothing else may replace meanwhile, though they may be read, or changed in place.
        dtype: of autocast.
    """
    if device.type != "cuda" or dtype == torch.float32:
        yield
        return
    with swapped(module, dtype):
        yield


@contextmanager
def swapped(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """`low_weights`, on any device."""
    places = [
        (part._parameters, name, weight)
        for part in layers_of(module)
        for name, weight in part._parameters.items()
        if weight is not None and weight.dtype == torch.float32
    ]
    kinds: dict[bool, dict[Tensor, None]] = {True: {}, False: {}}  # each weight once, though layers may share it
    for _, _, weight in places:
        kinds[torch.is_grad_enabled() and weight.requires_grad][weight] = None
    made: dict[Tensor, Tensor] = {}
    for trained, weights in kinds.items():
        for begin in range(0, len(weights), TOGETHER):
            group = list(weights)[begin : begin + TOGETHER]
            low = _Cast.apply(dtype, *group) if trained else cast_all(group, dtype)
            made |= zip(group, low, strict=True)
    with _exchanged(places, made):
        yield


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Inside, parameters that `low_weights` cast are float32 again, with the values of the cast; leaves, which learn
    what they learned."""
    places = [
        (part._parameters, name, weight)
        for part in module.modules()
        for name, weight in part._parameters.items()
        if weight is not None and weight.is_floating_point() and weight.dtype != torch.float32
    ]
    whole = {weight: weight.detach().float().requires_grad_(weight.requires_grad) for _, _, weight in places}
    with _exchanged(places, whole):
        yield


@contextmanager
def _exchanged(places: Sequence[tuple[dict[str, Any], str, Tensor]], made: Mapping[Any, Tensor]) -> Iterator[None]:
    """Inside, each parameter is what was made of it; a place is a module's parameters, the name and the weight."""
    try:
        for parameters, name, weight in places:
            parameters[name] = made[weight]
        yield
    finally:
        for parameters, name, weight in places:
            parameters[name] = weight


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers inside, but for those of a part that says `keeps_float32`, because it goes by their type."""
    if getattr(module, "keeps_float32", False):
        return
    if isinstance(module, LAYERS):
        yield module
    for child in module.children():
        yield from layers_of(child)


@torch.no_grad()
def cast_all(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies of tensors of one type in another, laid out as they are."""
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if made:
        torch._foreach_copy_(made, list(tensors))
    return made


class _Cast(torch.autograd.Function):
    """`cast_all` of weights, with its derivative, which waits for the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(cast_all(weights, dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = iter(cast_all([grad for grad in grads if grad is not None], torch.float32))
        return None, *(None if grad is None else next(there) for grad in grads)
