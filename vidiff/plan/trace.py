"""What a step of training takes, found without taking it: no tensor is made, only shapes are followed."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from vidiff.nn.cast import swapped
from vidiff.nn.fused.choice import assumed_gpu
from vidiff.nn.heads import formulas

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

# Operations by (FLOPs, bytes read and written) of each.
Work = Counter[tuple[int, int]]

_NOTHING = {  # that a device would do
    aten.empty,
    aten.empty_strided,
    aten.empty_like,
    aten.new_empty,
    aten.new_empty_strided,
    aten.lift_fresh,
    aten._unsafe_view,
    torch.ops.prim.device,
}
_FUSED = {  # by a compiler, besides what is tagged as pointwise
    aten._to_copy,
    aten.clone,
    aten.cat,
    aten.constant_pad_nd,
    aten.native_layer_norm,
    aten.native_layer_norm_backward,
    aten.native_dropout,
    aten.slice_backward,
    aten.select_backward,
    aten.sum,
    aten.mean,
    aten.var_mean,
}
READS = 4  # a compiler writes out what would need more tensors than this to be made again: torch._inductor's own rule


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
        work: the operations of both passes, one by one, and what they move: for each tensor that an operation reads or
            writes its bytes, whatever caches there are.
        update_work: that of what follows.
    """

    objective: nn.Module
    batch: int
    flops: int
    peak: int
    update: int
    work: Work
    update_work: Work


def trace(
    build: Callable[[], nn.Module],
    batch: Callable[[], dict[str, Tensor]],
    precision: str = "fp32",
    update: Callable[[nn.Module], object] = lambda objective: None,
    compiled: bool = False,
    gpu: bool = False,
) -> Trace:
    """Follows one forward and backward pass of the objective that `build` makes on the batch that `batch` makes.

    All are called where tensors have no content; `update` gets the objective with its gradients. What would depend on
    content is taken at its largest, a choice of samples is all of them, and every check of content passes.

    Args:
        compiled: bytes are counted as a compiler would move them in both passes: what is done number by number, and
            norms, go into one kernel up to the next product, which reads what came before and writes what that product
            reads.
        gpu: as on a GPU: what is not compiled goes through `vidiff.nn.fused`, and weights are cast all at once.
    """
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with FakeTensorMode(allow_non_fake_inputs=True), _Follower() as follower:
        follower.compiled = compiled
        objective, given = build(), batch()
        follower.clear()
        for tensor in (*objective.parameters(), *objective.buffers(), *given.values()):
            follower.ignore(tensor)
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: follower.ignore(p.grad))
        with ExitStack() as around:
            if compiled:
                around.enter_context(formulas())
            if gpu:
                around.enter_context(assumed_gpu(compiled))
            if gpu and low:
                around.enter_context(swapped(objective, low))
            with torch.autocast("cpu", low) if low else nullcontext():
                loss = objective(given)["loss"]
            loss.backward()
        flops, peak, work = follower.flops, follower.peak, follower.work
        follower.compiled, follower.work = False, Work()
        update(objective)
        size = sum(tensor.untyped_storage().nbytes() for tensor in given.values())
    return Trace(objective, size, flops, peak, follower.flops - flops, work, follower.work)


class _Follower(TorchDispatchMode):
    """Sees every operation: counts FLOPs and the bytes of all tensors that exist, and answers what needs content."""

    def __init__(self) -> None:
        super().__init__()
        self.doubts: list[Tensor] = []  # whether any is wrong
        self.compiled = False
        self.clear()

    def clear(self) -> None:
        self.flops = self.now = self.peak = 0
        self.work = Work()
        self.unwritten: dict[int, dict[int, int]] = {}  # tensors that a compiler has not written: what they are made of
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
        flops = _FLOPS[packet](*args, **kwargs, out_val=output) if packet in _FLOPS else 0
        self.flops += flops
        made = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
        for value in made:
            self.add(value)
        if not func.is_view and packet not in _NOTHING:
            read = {_key(x): _bytes(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            fused = self.compiled and not flops and (packet in _FUSED or torch.Tag.pointwise in func.tags)
            self.move(flops, read, made, fused)
        return output

    def move(self, flops: int, read: dict[int, int], made: list[Tensor], fused: bool) -> None:
        """Notes what an operation moves: now, or where it is fused with what comes after, then."""
        if fused:
            sources: dict[int, int] = {}
            for key, size in read.items():
                sources |= self.unwritten.get(key, {key: size})
            for value in made:
                if _key(value) not in read:  # and else it is changed in place
                    self.unwritten[_key(value)] = sources
                if len(sources) > READS or _key(value) in read:
                    self.unwritten.pop(_key(value), None)
                    self.work[0, sum(sources.values()) + _bytes(value)] += 1
            return
        for key, size in read.items():
            if sources := self.unwritten.pop(key, {}):
                self.work[0, sum(sources.values()) + size] += 1
        self.work[flops, sum(read.values()) + sum(map(_bytes, made))] += 1

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
        self.unwritten.pop(key, None)
        if sizes is self.sizes:
            self.now -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """That lie in memory: fewer than its numbers take where it was expanded."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _all_of(mask: Tensor) -> Tensor:
    return torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)
