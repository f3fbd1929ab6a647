"""The blocks that a model repeats, found without knowing the model, and compiled one by one by torch.compile.

Each kind of block needs to be compiled only once, where compiling the model whole would take as many times as long.
Whether a compiled block is right is not taken on trust: at the start of a run each is compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from vidiff.engine.precision import Precision, on_trial
from vidiff.nn.cast import in_float32

BACKEND: str | Callable[..., Any] = "inductor"  # of torch.compile
KINDS = 256  # of blocks, by structure, sizes and precision, that may be compiled; torch gives up after 8
# Norm of the difference of an output or a gradient from what float32 gives, over its own norm, that a compiled block
# may have beyond twice the difference that the block has where it is not compiled.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost blocks inside `module`, in its order; none of them lies in another.

    A block is a member of a list (ModuleList, ModuleDict, Sequential) that has parts of its own, and whatever else is
    of the class of such a member. Single layers, such as one convolution, are too small to be worth it.
    """
    kinds = {
        type(member)
        for part in module.modules()
        if isinstance(part, _LISTS)
        for member in part.children()
        if not isinstance(member, _LISTS) and any(True for _ in member.children())
    }

    def within(part: nn.Module) -> list[nn.Module]:
        blocks = []
        for child in part.children():
            blocks += [child] if type(child) in kinds else within(child)
        return blocks

    return within(module)


def compile_blocks(module: nn.Module) -> None:
    """From here on each block's `forward` is compiled, when it is first called; what hooks it has stay outside."""
    for block in find_blocks(module):
        block.forward = _compiled(block)


def uncompiled() -> AbstractContextManager[None]:
    """Inside, compiled blocks run as they are: for sizes that come but now and then, such as those of samples."""
    return torch.compiler.set_stance("force_eager")


def objection(objective: nn.Module, batch: Mapping[str, Tensor], precision: Precision) -> str | None:
    """Why the blocks of `objective` must not be compiled; None if each computes what it does when it is not.

    One forward pass of the objective, which the caller puts under autocast, shows each block its inputs; there outputs
    and gradients of both are compared. The objective and random states are afterwards as they were.
    """
    blocks = find_blocks(objective)
    if not blocks:
        return "the model has no blocks that repeat"
    reasons: list[str] = []

    def look(block: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return  # a call of which nothing is learned; there is another, with gradients
        if not reasons and (reason := _compare(block, given, options, precision)):
            reasons.append(f"{type(block).__name__}: {reason}")

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    try:
        with on_trial(objective):
            objective(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return reasons[0] if reasons else None


def _compiled(block: nn.Module) -> Callable[..., Any]:
    import torch._dynamo
    import torch._inductor

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    torch._inductor.config.fallback_random = True  # dropout draws the numbers that it would have drawn
    return torch.compile(block.forward, backend=BACKEND, dynamic=False)


def _compare(block: nn.Module, given: tuple[Any, ...], options: dict[str, Any], precision: Precision) -> str | None:
    try:
        got = _run(_compiled(block), block, given, options)
        plain = _run(block.forward, block, given, options)
        exact = plain if precision == "fp32" else _in_float32(block, given, options)
    except Exception as error:  # whatever it is that a compiler dies of, it is a reason to do without
        return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    least = 1e-3 * max((float(x.norm()) for x in exact if x is not None), default=0.0)
    for number, (wanted, rounded, value) in enumerate(zip(exact, plain, got, strict=True)):
        if (rounded is None) != (value is None):
            return "it gives other gradients"
        if wanted is None or rounded is None or value is None:
            continue
        size = float(wanted.norm()) + least + 1e-30
        gap, own = (float((x - wanted).norm()) / size for x in (value, rounded))
        if not gap <= (allowed := TOLERANCE[precision] + 2.0 * own):
            what = "its output differs" if number == 0 else "a gradient differs"
            beside = "" if precision == "fp32" else f" from float32's in {precision}, and uncompiled by {own:.1e}"
            return f"{what} by {gap:.1e} of its size{beside}: at most {allowed:.1e} is rounding"
    return None


def _in_float32(block: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor | None]:
    """What the block gives outside autocast, for the same inputs and weights."""
    tensors = [x for x in tree_leaves((given, options)) if isinstance(x, Tensor)]
    own = tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, (given, options))
    with in_float32(block), torch.autocast(tensors[0].device.type if tensors else "cpu", enabled=False):
        return _run(block.forward, block, *own)


def _run(
    way: Callable[..., Any], block: nn.Module, given: tuple[Any, ...], options: dict[str, Any]
) -> list[Tensor | None]:
    """The output, and the gradients of inputs and parameters, in float32."""
    own = tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.requires_grad), (given, options))
    torch.manual_seed(0)  # of dropout, if there is any, and of the gradient's direction
    output = way(*own[0], **own[1])
    wanted = [x for x in tree_leaves(own) if isinstance(x, Tensor) and x.requires_grad]
    wanted += [p for p in block.parameters() if p.requires_grad]
    torch.manual_seed(0)
    grads = torch.autograd.grad(output, wanted, torch.randn_like(output), allow_unused=True)
    return [None if x is None else x.detach().float() for x in (output, *grads)]
