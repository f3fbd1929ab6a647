"""Guidance within an interval of times alone (Kynkäänniemi et al. 2024), and what spares a GPU the question when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Span = tuple[float, float]  # from the least time to the greatest
MARGIN = 1e-6  # of times, by which a number in half the digits may be off


class Timed(nn.Module):
    """What guides within an interval of times, or at all times.

    Whether any voxel is within it is known on the device alone, and to ask would have a GPU wait at every step. A
    sampler knows the times of a step beforehand, and tells them by `foretold`.

    Args:
        interval: times `(low, high)`, or None.

    Raises:
        ValueError: an interval that is not within [0, 1], or does not rise.
    """

    def __init__(self, interval: Span | None) -> None:
        super().__init__()
        check_interval(interval)
        self.interval = interval
        self.span: Span | None = None  # of the times that it will be asked at next

    def rests(self, inside: Tensor | None) -> bool:
        """Whether there is nothing to guide: `inside` is of `within` at the voxels' clocks, or None for no interval."""
        if self.interval is None or inside is None:
            return False
        if self.span is None:
            return not bool(inside.any())
        (first, last), (low, high) = self.span, self.interval
        return last < low - MARGIN or first > high + MARGIN


def timed(denoiser: object) -> list[Timed]:
    """What of a denoiser guides in an interval."""
    parts = denoiser.modules() if isinstance(denoiser, nn.Module) else []
    return [part for part in parts if isinstance(part, Timed) and part.interval is not None]


@contextmanager
def foretold(denoiser: object) -> Iterator[list[Timed]]:
    """What of a denoiser guides in an interval, to be told its `span` step by step; at the end all forget it."""
    parts = timed(denoiser)
    try:
        yield parts
    finally:
        for part in parts:
            part.span = None


def within(t: Tensor, interval: Span) -> Tensor:
    """Bool, of the shape of `t`: the clocks in an interval, its ends included."""
    return (t >= interval[0]) & (t <= interval[1])


def check_interval(interval: Span | None) -> None:
    """Raises ValueError for an `interval` that is not within [0, 1], or does not rise."""
    if interval is not None and not 0.0 <= interval[0] <= interval[1] <= 1.0:
        raise ValueError(f"interval = {interval} must satisfy 0 <= low <= high <= 1, in diffusion time")


def spans(grid: Tensor) -> list[Span]:
    """The least and the greatest of each of `(n, ...)` times, on the CPU."""
    times = grid.flatten(1).double()
    return list(zip(times.amin(1).tolist(), times.amax(1).tolist(), strict=True))
