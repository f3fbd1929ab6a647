"""An exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidiff.engine.dtensor import local, shard_like


class EMA:
    """The average of a module's trainable parameters and of its saved float buffers (such as running means).

    After update n (from 1), average += (1 - decay_n) (weights - average), with

        decay_n = min(decay, (1 + n) / (warmup + n)).

    The warm-up makes the average forget the first weights in short runs: it spans about the last 1 / warmup
    of all steps until `decay` takes over. `warmup=1` is a plain average with a fixed decay.

    Frozen parameters and integer buffers are not averaged; `state_dict` leaves them out.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: int = 10) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema is {decay}; the decay must be in [0, 1), such as 0.999")
        if warmup < 1:
            raise ValueError(f"ema_warmup is {warmup}; give 1 (none) or more")
        saved = module.state_dict(keep_vars=True).keys()
        tracked: dict[str, Tensor] = {n: p for n, p in module.named_parameters() if p.requires_grad}
        tracked |= {n: b for n, b in module.named_buffers() if n in saved and b.is_floating_point()}
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._names = list(tracked)
        self._live: list[Tensor] = [t.detach() for t in tracked.values()]  # share memory with the module
        self._mean: list[Tensor] = [t.clone() for t in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the module's weights in, once after each optimizer step."""
        self.updates += 1
        torch._foreach_lerp_(local(self._mean), local(self._live), 1 - self.next_decay())

    def next_decay(self) -> float:
        """By what the update that is under way multiplies the average."""
        return min(self.decay, (1 + self.updates) / (self.warmup + self.updates))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module runs with the average; afterwards it has its own weights back, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # One tensor at a time and in place: needs little memory, and whoever holds the parameters sees it.
        for live, mean in zip(self._live, self._mean, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors under the module's own names."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Raises ValueError where names or shapes are not this module's."""
        if set(tensors) != set(self._names):
            odd = sorted(set(tensors) ^ set(self._names))[:3]
            raise ValueError(f"the saved EMA is of another model: {', '.join(odd)} on one side only")
        for name, mean in zip(self._names, self._mean, strict=True):
            if tensors[name].shape != mean.shape:
                raise ValueError(
                    f"the saved EMA is of another model: {name} is {tuple(tensors[name].shape)}, "
                    f"expected {tuple(mean.shape)}"
                )
            mean.copy_(shard_like(tensors[name], mean))
        self.updates = updates
