"""The blocks that a model repeats: what is compiled once, and sharded one by one; found without knowing the model."""

from __future__ import annotations

from torch import nn

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
        found = []
        for child in part.children():
            found += [child] if type(child) in kinds else within(child)
        return found

    return within(module)
