"""Averages of weights by a power function of time, and any of them made afterwards from a few.

Karras et al. 2024 ("Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C):
after n updates, the weights of update k count as k^gamma. Unlike a fixed decay, the average grows with the training and
forgets where it began. Its relative width, sigma_rel, is the standard deviation of that profile over n:

    sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))

What is linear in the profile is linear in the average. So the profile of any other width and time is fitted by those of
the snapshots that were kept, by least squares, and the same factors then make its average of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vidiff.engine.ema import EMA


def gamma_of(width: float) -> float:
    """The exponent of a relative width (sigma_rel). Raises ValueError for one too small or too large."""
    if not 0.01 <= width <= 0.28:
        raise ValueError(f"an EMA's width is {width}; give 0.01 (the last steps) to 0.28 (nearly all), such as 0.1")
    inverse = width**-2
    # sigma_rel squared, cleared of fractions, is a cubic in gamma; its largest root is the one of falling width
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEMA(EMA):
    """The power-function average of a module, of one relative width.

    After update n, average += (1 - decay_n) (weights - average), with decay_n = (1 - 1 / n)^(gamma + 1), so that the
    weights of update k have the share (k / n)^(gamma + 1) - ((k - 1) / n)^(gamma + 1).
    """

    def __init__(self, module: nn.Module, width: float) -> None:
        super().__init__(module)
        self.width = width
        self.gamma = gamma_of(width)

    def next_decay(self) -> float:
        return (1 - 1 / self.updates) ** (self.gamma + 1)


def synthesis(have: Sequence[tuple[int, float]], want: tuple[int, float]) -> NDArray[np.float64]:
    """By what to multiply averages of (updates, gamma) to get one that was not tracked.

    Returns:
        `(len(have),)`, the least-squares fit of the wanted profile (Karras et al. 2024, appendix C), among those of sum
        1: so that what stands still is its own average, exactly.
    """
    times, gammas = (np.array(values, np.float64) for values in zip(*have, strict=True))
    count = len(have)
    matrix = np.ones((count + 1, count + 1))  # the last row and column hold the sum, by a Lagrange multiplier
    matrix[:count, :count] = _product(times[:, None], gammas[:, None], times[None], gammas[None])
    matrix[count, count] = 0
    wanted = np.append(_product(times, gammas, np.float64(want[0]), np.float64(want[1])), 1)
    return np.linalg.solve(matrix, wanted)[:count]


def _product(
    t: NDArray[np.float64], gamma: NDArray[np.float64], other_t: NDArray[np.float64], other_gamma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The inner product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1), for 0 < tau < t."""
    shared = np.minimum(t, other_t)
    factor = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return factor * (shared / t) ** gamma * (shared / other_t) ** other_gamma / np.maximum(t, other_t)
