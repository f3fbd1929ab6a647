"""Frames that are finished: what a causal network keeps of them, so that the next frame costs one frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Cache:
    """The record of a stream's finished frames: what each layer of a causal network looks at of them.

    Of attention these are keys and values, of temporal convolutions the last inputs, all as they were at the clock at
    which the frames were shown. Keys and values are kept without their places: those that are read stand right before
    what reads them, so that no place grows with the length of a stream. A call with fewer clips than the record has
    reads those of its first ones.

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
        self._kept: dict[nn.Module, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Of all tensors that are kept."""
        return sum(kept.untyped_storage().nbytes() for kept in self._kept.values())

    def copy(self, grows: bool = False) -> Cache:
        """The same record, to which the frames of further calls are added or not; this one stays as it is."""
        other = Cache(self.window, self.sinks)
        other.grows, other._kept = grows, dict(self._kept)
        return other

    def extend(self, layer: nn.Module, new: Tensor, dim: int, window: int, sinks: int = 0, area: int = 1) -> Tensor:
        """What a layer looks at of new frames, with what it kept before them.

        Args:
            new: clips lead, and frames lie along `dim`, each with `area` entries.
            window, sinks: frames to keep, the last and the first, if the record grows.

        Returns:
            the like of `new`, with more frames.
        """
        past = self._kept.get(layer)
        whole = new if past is None else torch.cat([past[: len(new)], new], dim=dim)
        if self.grows:
            first, last, length = sinks * area, window * area, whole.shape[dim]
            parts = [whole]
            if length > first + last:
                parts = [whole.narrow(dim, 0, first), whole.narrow(dim, length - last, last)]
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
