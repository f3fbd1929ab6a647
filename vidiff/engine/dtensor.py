"""Tensors that lie in shards over processes (DTensor): whole, and in shards again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def sharded(value: Any) -> bool:
    """Whether it is a DTensor; told without importing that class, which takes a second."""
    return hasattr(value, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process, which all call this together; one that is not sharded as it is."""
    return tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor, in the same memory."""
    return [tensor.detach()._local_tensor if sharded(tensor) else tensor for tensor in tensors]  # type: ignore[attr-defined]


def shard_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A tensor that every process has whole, in shards as `pattern` is; unchanged where that is not sharded."""
    if not sharded(pattern):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(pattern, DTensor)
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None)
