"""A loss that stands out from those of the steps before it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

LENGTH, LEAST = 128, 16
"""Losses that are looked back upon, and how many there must be before any is judged."""


def deviations(loss: float, recent: Sequence[float]) -> float:
    """How far a loss lies above the median of `recent`, in standard deviations; 0 where these are fewer than LEAST.

    The deviation is 1.4826 times the median absolute deviation, which neither the spikes themselves nor a slow fall of
    the loss move much (Rousseeuw and Croux 1993); at least a twentieth of the median, as losses may hardly differ.
    """
    if len(recent) < LEAST:
        return 0.0
    median = statistics.median(recent)
    spread = 1.4826 * statistics.median(abs(each - median) for each in recent)
    return (loss - median) / max(spread, 0.05 * abs(median), 1e-30)
