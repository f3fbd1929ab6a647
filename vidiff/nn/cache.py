"""Frames that are finished: what a causal network keeps of them, so that the next frame costs one frame."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")
MOST_TOLD = 64  # embeddings of which is kept what was made of them


class Cache:
    """The record of a stream's finished frames: what each layer of a causal network looks at of them.

    Of attention these are keys and values, of temporal convolutions the last inputs, all as they were at the clock at
    which the frames were shown. Keys and values are kept as they are read, turned to their places. These are counted
    from the first frame that is kept, so that none grows with the length of a stream: where frames are forgotten, those
    after them are turned back by as many. A call with fewer clips than the record has reads those of its first ones.

    Args:
        window: frames that a frame looks back on at most.
        sinks: the first frames of a stream, which all look back on besides; they stand right before the others (Xiao et
            al. 2024, attention sinks, section 3.2).

    Raises:
        ValueError: a window below 1, or sinks below 0.
    """

    def __init__(self, window: int, sinks: int = 0) -> None:
        if window < 1 or sinks < 0:
            raise ValueError(f"window is {window} and sinks {sinks}; give a window of 1 or more, and 0 sinks or more")
        self.window, self.sinks = window, sinks
        self.grows = False
        self.finished: int | None = None
        self._kept: dict[nn.Module, Tensor] = {}
        self._made: dict[Hashable, Any] = {}
        self._told: dict[Hashable, Any] = {}

    @property
    def bytes(self) -> int:
        """Of all tensors that are kept."""
        return sum(kept.untyped_storage().nbytes() for kept in self._kept.values())

    def copy(self, grows: bool = False, finished: int | None = None) -> Cache:
        """The same record, to which the frames of further calls are added or not; this one stays as it is.

        Args:
            finished: of each call the first frames, so many, are added, and those after them only read; None for all.
        """
        other = Cache(self.window, self.sinks)
        other.grows, other.finished, other._kept = grows, finished, dict(self._kept)
        other._made, other._told = self._made, self._told
        return other

    def length(self, layer: nn.Module, dim: int) -> int:
        """Of what a layer keeps, along a dimension: 0 for nothing yet."""
        kept = self._kept.get(layer)
        return 0 if kept is None else kept.shape[dim]

    def told(self, emb: Tensor, make: Callable[[Tensor], Made]) -> Tensor | Made:
        """What is made of an embedding, or was made when it was told last: of few actions and clocks, the same few come
        again and again. On a GPU, or where gradients are asked for, the embedding itself."""
        if emb.device.type != "cpu" or (torch.is_grad_enabled() and emb.requires_grad):
            return emb
        name = emb.dtype, emb.detach().contiguous().view(torch.uint8).numpy().tobytes()  # NumPy knows no bf16
        made = self._told.pop(name) if name in self._told else make(emb)
        self._told[name] = made  # as the newest
        while len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]
        return made

    def made(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What depends on sizes alone, such as turns and masks: made once, for all layers and for all copies."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def extend(
        self,
        layer: nn.Module,
        new: Tensor,
        dim: int,
        window: int,
        sinks: int = 0,
        area: int = 1,
        back: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Tensor:
        """What a layer looks at of new frames, with what it kept before them.

        Args:
            new: clips lead, and frames lie along `dim`, each with `area` entries.
            window, sinks: frames to keep, the last and the first, if the record grows.
            back: `(kept, frames)`, kept as it is when so many frames before it are gone; by default as it was.

        Returns:
            the like of `new`, with more frames.
        """
        past = self._kept.get(layer)
        whole = new if past is None else torch.cat([past[: len(new)], new], dim=dim)
        if self.grows:
            count = new.shape[dim] // area
            open_ = 0 if self.finished is None else max(0, count - self.finished)  # frames that are only read
            first, last, length = sinks * area, window * area, whole.shape[dim] - open_ * area
            parts = [whole.narrow(dim, 0, length)]
            if length > first + last:
                rest = whole.narrow(dim, length - last, last)
                rest = rest if back is None else back(rest, (length - first - last) // area)
                parts = [whole.narrow(dim, 0, first), rest]
            self._kept[layer] = torch.cat(parts, dim=dim).detach()  # and no view, which would keep all of it
        return whole


def looks_back(new: int, frames: int, area: int, cache: Cache | None, device: torch.device) -> Tensor:
    """Which tokens the frames read that come last: their own frame's and those before it.

    Args:
        new: frames that read.
        frames: that are read, the new ones included.
        area: tokens of a frame.
        cache: whose window, and whose sinks besides, is all that a frame looks back on.

    Returns:
        bool `(1, new * area, frames * area)`, true where a token may be read.
    """
    place = torch.arange(frames * area, device=device) // area
    own = place[-new * area :, None]
    seen = place <= own
    if cache is not None:
        seen &= (own - place <= cache.window) | (place < cache.sinks)
    return seen[None]
