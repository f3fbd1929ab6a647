"""Frames in tiles: what is read to make which part of the result, and how the parts are put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """A stretch of an axis, in latents: `[start, stop)` is read, and `[first, last)` of what comes out is used.

    Attributes:
        rise, fall: latents at its beginning and end over which it is mixed with its neighbours.
    """

    start: int
    stop: int
    first: int
    last: int
    rise: int = 0
    fall: int = 0

    def read(self, scale: int) -> slice:
        """The slice that is read, where a latent has `scale` places."""
        return slice(self.start * scale, self.stop * scale)

    def used(self, scale: int) -> slice:
        """The slice of what comes out that is used."""
        return slice((self.first - self.start) * scale, (self.last - self.start) * scale)

    def put(self, scale: int) -> slice:
        """The slice of the result to which that goes."""
        return slice(self.first * scale, self.last * scale)

    def weight(self, scale: int) -> Tensor:
        """How much each used place counts, `((last - first) * scale,)`: it rises and falls linearly."""
        weight = torch.ones((self.last - self.first) * scale)
        weight[: self.rise * scale] *= _ramp(self.rise * scale)
        weight[len(weight) - self.fall * scale :] *= 1 - _ramp(self.fall * scale)
        return weight


def _ramp(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / max(count, 1)


@dataclass(frozen=True)
class Tile:
    """A rectangle of a frame, in latents."""

    rows: Cut
    columns: Cut

    def read(self, frames: Tensor, scale: int) -> Tensor:
        """The part of `(..., h, w)` that the tile needs."""
        return frames[..., self.rows.read(scale), self.columns.read(scale)]


def cuts(length: int, tile: int, margin: int, blend: int = 0) -> list[Cut]:
    """Cover an axis by stretches of about the same length.

    Args:
        length: of the axis, in latents.
        tile: the most that one stretch is responsible for; 0 for the whole axis at once.
        margin: what is read besides on both sides, and thrown away.
        blend: over how many latents two neighbours are mixed; 0 cuts them off sharply.

    Returns:
        stretches whose weights add up to 1 everywhere.
    """
    count = -(-length // tile) if tile else 1
    edges = [length * i // count for i in range(count + 1)]
    half = min(blend, length // count) // 2  # so that no place belongs to three stretches
    stretches = []
    for i in range(count):
        before, after = (half if i else 0), (half if i < count - 1 else 0)
        first, last = edges[i] - before, edges[i + 1] + after
        start, stop = max(first - margin, 0), min(last + margin, length)
        stretches.append(Cut(start, stop, first, last, rise=2 * before, fall=2 * after))
    return stretches


def tiles(size: tuple[int, int], tile: int, margin: int, blend: int = 0) -> Iterator[Tile]:
    """Cover frames of `size` (h, w) latents, row by row; the other arguments are those of `cuts`."""
    for rows in cuts(size[0], tile, margin, blend):
        for columns in cuts(size[1], tile, margin, blend):
            yield Tile(rows, columns)


class Canvas:
    """Frames that are put together from parts, in the memory of the result alone.

    Args:
        count: of the frames.
        size: h and w, in latents.
        scale: places of a latent, by which h and w of the result are larger.
        mixed: whether parts overlap and are weighted, or lie side by side.
    """

    def __init__(self, count: int, size: tuple[int, int], scale: int, mixed: bool) -> None:
        self.count, self.size, self.scale, self.mixed = count, size, scale, mixed
        self._frames: Tensor | None = None

    @property
    def frames(self) -> Tensor:
        """`(count, c, h, w)`, as far as parts were put."""
        assert self._frames is not None
        return self._frames

    def put(self, part: Tensor, start: int, tile: Tile) -> None:
        """Add what came out for a tile, `(m, c, ...)`, as frames `start` to `start + m`."""
        if self._frames is None:
            self._frames = self._blank(part)
        rows, columns = tile.rows, tile.columns
        used = part[..., rows.used(self.scale), columns.used(self.scale)]
        target = self._frames[start : start + len(part), :, rows.put(self.scale), columns.put(self.scale)]
        if self.mixed:
            weight = rows.weight(self.scale)[:, None] * columns.weight(self.scale)
            target += used * weight.to(used)
        else:
            target.copy_(used)

    def _blank(self, part: Tensor) -> Tensor:
        """An empty result in the memory order of the parts: what computes with it then rounds as with one of them."""
        height, width = (length * self.scale for length in self.size)
        order = torch.channels_last if part.stride(1) == 1 else torch.contiguous_format
        shape = self.count, part.shape[1], height, width
        blank = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=order)
        return blank.zero_() if self.mixed else blank
