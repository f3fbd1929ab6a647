"""The objective as the loop handles it: weights in, and looked at without being disturbed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from vidiff.engine.checkpoint import Checkpoint


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
