"""The objective as the loop handles it: among its processes, weights in, and looked at without being disturbed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vidiff.engine import regional
from vidiff.engine.checkpoint import Checkpoint
from vidiff.engine.parallel import Group


class Model:
    """An objective that every process holds whole: one process, or several that average gradients (DDP).

    Attributes:
        module: what is trained: its parameters move.
        call: what a step calls. Methods other than `forward` bypass the averaging.
    """

    def __init__(self, objective: nn.Module, group: Group) -> None:
        self.compiled = False
        self.module = self.call = objective
        if group.world > 1:
            devices = [group.device] if group.device.type == "cuda" else None
            self.call = DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True)

    def compile(self) -> None:
        """Compiles the blocks, which `regional.objection` must have found nothing against."""
        regional.compile_blocks(self.module)
        self.compiled = True

    def unsynced(self) -> AbstractContextManager[None]:
        """Inside, `backward` adds to this process's own gradients: for all but the last part of a batch."""
        return self.call.no_sync() if isinstance(self.call, DistributedDataParallel) else nullcontext()

    def settle(self) -> None:
        """After the last part's `backward`: gradients are the mean over all processes."""

    def shown(self) -> AbstractContextManager[None]:
        """Inside, the objective that was given has the trained weights, whole, and is as it was before compilation."""
        return regional.uncompiled() if self.compiled else nullcontext()

    def fill(self) -> None:
        """For good: the objective that was given has the trained weights, whole."""


def load_model(objective: nn.Module, found: Checkpoint) -> None:
    """Put a checkpoint's weights into the objective. Raises ValueError where they are another model's."""
    try:
        objective.load_state_dict(found.model)
    except RuntimeError as error:
        raise ValueError(
            f"{found.path} is of another model; give this one another run folder, or set its options as they "
            f"were. {textwrap.shorten(str(error), 300)}"
        ) from None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each part is in the mode it was in, frozen parts too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
