"""What a step of training takes, found without taking it: no tensor is made, only shapes are followed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

_ATTENTION: Any = {  # PyTorch's counter knows the GPU's kernels alone
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **options: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **options: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def count_flops() -> FlopCounterMode:
    """As PyTorch's counter, quietly, and with the attention of a CPU."""
    return FlopCounterMode(display=False, custom_mapping=_ATTENTION)


_FLOPS = count_flops().flop_registry


@dataclass(frozen=True)
class Trace:
    """A forward and backward pass of an objective.

    Attributes:
        objective: with parameters that have a shape and no content.
        batch: bytes of the batch.
        flops: of both passes, recomputed blocks included; two for a multiplication with an addition.
        peak: bytes of all tensors that are alive at once, at most, but for the objective's own, their gradients and
            the batch.
        update: operations of what follows the passes.
    """

    objective: nn.Module
    batch: int
    flops: int
    peak: int
    update: int


def trace(
    build: Callable[[], nn.Module],
    batch: Callable[[], dict[str, Tensor]],
    precision: str = "fp32",
    update: Callable[[nn.Module], object] = lambda objective: None,
) -> Trace:
    """Follows one forward and backward pass of the objective that `build` makes on the batch that `batch` makes.

    All are called where tensors have no content; `update` gets the objective with its gradients. What would depend on
    content is taken at its largest, a choice of samples is all of them, and every check of content passes.
    """
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with FakeTensorMode(allow_non_fake_inputs=True), _Follower() as follower:
        objective, given = build(), batch()
        follower.clear()
        for tensor in (*objective.parameters(), *objective.buffers(), *given.values()):
            follower.ignore(tensor)
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: follower.ignore(p.grad))
        with torch.autocast("cpu", low) if low else nullcontext():
            loss = objective(given)["loss"]
        loss.backward()
        flops, peak = follower.flops, follower.peak
        update(objective)
        size = sum(tensor.untyped_storage().nbytes() for tensor in given.values())
    return Trace(objective, size, flops, peak, follower.flops - flops)


class _Follower(TorchDispatchMode):
    """Sees every operation: counts FLOPs and the bytes of all tensors that exist, and answers what needs content."""

    def __init__(self) -> None:
        super().__init__()
        self.doubts: list[Tensor] = []  # whether any is wrong
        self.clear()

    def clear(self) -> None:
        self.flops = self.now = self.peak = 0
        self.sizes: dict[int, int] = {}  # of each storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet is aten._local_scalar_dense:
            if args[0].dtype == torch.bool:
                return not any(args[0] is doubt for doubt in self.doubts)
            return 0.5 if args[0].is_floating_point() else 1
        if packet is aten.index:
            args = (args[0], [_all_of(i) if i is not None and i.dtype == torch.bool else i for i in args[1]])
        output = func(*args, **kwargs)
        if packet is aten.any:
            self.doubts.append(output)
        if packet in _FLOPS:
            self.flops += _FLOPS[packet](*args, **kwargs, out_val=output)
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self.add(value)
        return output

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, self.sizes, key)

    def ignore(self, tensor: Tensor | None) -> None:
        """What is counted elsewhere: it no longer counts here."""
        if tensor is not None:
            self.add(tensor)
            key = tensor.untyped_storage()._cdata
            self.now, self.sizes[key] = self.now - self.sizes[key], 0

    def drop(self, sizes: dict[int, int], key: int) -> None:
        size = sizes.pop(key)
        if sizes is self.sizes:
            self.now -= size


def _all_of(mask: Tensor) -> Tensor:
    return torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
