"""Fréchet distance between two sets of features, with what is needed to trust it.

The distance of two Gaussians with the sets' means and covariances, |mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)): Dowson
and Landau 1982; FID on frames (Heusel et al. 2017, equation 6), FVD on clips (Unterthiner et al. 2018). All in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ROOM = 1 << 24
"""Numbers that a batch of bootstrapped covariances may hold: 128 MB."""


@dataclass(frozen=True)
class Statistics:
    """Count, mean `(d,)` and scatter `(d, d)` (the sum of outer products of deviations) of features, in float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor, name: str = "features") -> Statistics:
        """The statistics of features `(n, d)`. Raises ValueError as `checked`."""
        x = checked(features, name, least=1)
        mean = x.mean(0)
        deviation = x - mean
        return cls(len(x), mean, deviation.T @ deviation)

    @classmethod
    def merged(cls, parts: Iterable[Statistics]) -> Statistics:
        """The statistics of all parts together: of one stream in pieces, or of several processes.

        Raises:
            ValueError: no parts, or of different numbers of features.
        """
        first, *rest = parts = list(parts)
        for part in rest:
            if part.mean.shape != first.mean.shape:
                sizes = sorted({len(part.mean) for part in parts})
                raise ValueError(f"statistics of {sizes} features cannot be merged: use one network for all")
            # Chan, Golub and LeVeque 1983, equation 2.1: no large sums that cancel
            count, shift = first.count + part.count, part.mean - first.mean
            scatter = first.scatter + part.scatter + torch.outer(shift, shift) * (first.count * part.count / count)
            first = cls(count, first.mean + shift * (part.count / count), scatter)
        return first

    @property
    def covariance(self) -> Tensor:
        """Unbiased, `(d, d)`. Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"{self.count} clip has no covariance: give at least 2 clips, and thousands to compare")
        return self.scatter / (self.count - 1)


def checked(features: Tensor, name: str, least: int = 2) -> Tensor:
    """Features `(n, d)` as float64 on the CPU.

    Raises:
        ValueError: another number of dimensions, fewer than `least` rows, or values that are not finite.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} has shape {tuple(features.shape)}; expected (clips, features)")
    if len(features) < least:
        raise ValueError(f"{name} has {len(features)} clips; give at least {least}")
    x = features.detach().double().cpu()
    bad = (~x.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{name} of {len(bad)} of {len(x)} clips are not finite, first of clip {int(bad[0])}: the clip or the "
            "network holds NaN or infinity"
        )
    return x


def checked_pair(real: Tensor, made: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Two sets of features as `checked` has them. Raises ValueError also for different numbers of features."""
    real, made = checked(real, "real", least), checked(made, "made", least)
    if real.shape[1] != made.shape[1]:
        raise ValueError(f"{real.shape[1]} features against {made.shape[1]}: use one network for both")
    return real, made


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """The squared Fréchet distance, in the features' units squared; 0 for equal statistics, and symmetric.

    Right for fewer clips than features too, where covariances are singular; but the fewer the clips, the larger the
    distance, so compare at one number of clips only, or use `extrapolated`.

    Raises:
        ValueError: different numbers of features, or fewer than two clips.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(f"{len(first.mean)} features against {len(second.mean)}: use one network for both")
    return float(_distance(first.mean, first.covariance, second.mean, second.covariance))


def _distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Means `(..., d)`, covariances `(..., d, d)` -> `(...)`."""
    traces = (cov1 + cov2).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((mean1 - mean2).square().sum(-1) + traces - 2 * _trace_of_root(cov1, cov2)).clamp(min=0)


def _trace_of_root(first: Tensor, second: Tensor) -> Tensor:
    """tr sqrt(S1 S2) of covariances `(..., d, d)`, without the root itself.

    With S1 = L L^T, the eigenvalues of S1 S2 are those of the symmetric L^T S2 L. Where some are so small that rounding
    would be felt in their square roots, they come as singular values of L^T M instead, with S2 = M M^T: the trace is
    then the nuclear norm of a product of factors.
    """
    lower, failed = torch.linalg.cholesky_ex(first)
    if not failed.any():
        values = torch.linalg.eigvalsh(lower.mT @ second @ lower)
        if (values[..., 0] > 1e-10 * values[..., -1]).all():
            return values.sqrt().sum(-1)
    return torch.linalg.svdvals(_factor(first).mT @ _factor(second)).sum(-1)


def _factor(covariance: Tensor) -> Tensor:
    """A with A A^T the covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[..., -1:].clamp(min=0) * values.shape[-1] * torch.finfo(values.dtype).eps
    return vectors * values.where(values > noise, 0.0).sqrt().unsqueeze(-2)


def extrapolated(
    real: Tensor, made: Tensor, generator: torch.Generator, points: int = 10, repeats: int = 4
) -> tuple[float, float]:
    """The Fréchet distance for infinitely many clips, which does not depend on how many there are.

    Chong and Forsyth 2020, section 4: the distance is linear in 1 / n to first order, so a line through distances at
    several n is read at 1 / n = 0. Both sets are thinned, since both add to the bias. The line is only as good as the
    smallest n, half of all clips, is large against the number of features.

    Args:
        real, made: features `(n, d)` and `(m, d)`.
        generator: draws which clips each point uses.
        points: numbers of clips, evenly spaced in 1 / n.
        repeats: draws at each number, whose mean counts.

    Returns:
        the value at 1 / n = 0, and the standard error of the fitted line there.

    Raises:
        ValueError: fewer than 16 clips in either set, fewer than 3 points, or as `frechet_distance`.
    """
    real, made = checked_pair(real, made, least=16)
    if points < 3 or repeats < 1:
        raise ValueError(f"points is {points} and repeats {repeats}; give at least 3 and 1")
    most = min(len(real), len(made))
    inverse = torch.linspace(1 / most, 2 / most, points, dtype=torch.float64)
    distances = []
    for count in (1 / inverse).round().long().tolist():
        drawn = [
            frechet_distance(*(Statistics.of(x[torch.randperm(len(x), generator=generator)[:count]]) for x in pair))
            for pair in [(real, made)] * repeats
        ]
        distances.append(sum(drawn) / repeats)
    line = torch.stack([torch.ones_like(inverse), 1 / (1 / inverse).round()], 1)  # points 2
    values = torch.tensor(distances, dtype=torch.float64)
    solution = torch.linalg.lstsq(line, values[:, None]).solution[:, 0]
    spread = (values - line @ solution).square().sum() / (points - 2)
    error = (spread * torch.linalg.inv(line.T @ line)[0, 0]).sqrt()
    return float(solution[0]), float(error)


def frechet_interval(
    real: Tensor, made: Tensor, generator: torch.Generator, resamples: int = 500, level: float = 0.95
) -> tuple[float, float]:
    """A bootstrap interval for the Fréchet distance of the two distributions that the clips were drawn from.

    The distance of samples is too large, and that of resamples too large again by as much. So the percentiles of the
    resampled distance are moved down by twice that bias, which the bootstrap itself tells. Measured on Gaussians: the
    level holds within 3 % where clips outnumber features 50 times; with fewer, or where the two distributions are
    nearly equal, take it as a rough guide.

    Args:
        real, made: features `(n, d)` and `(m, d)`; both are resampled.

    Raises:
        ValueError: clips fewer than twice the features, where the bootstrap says nothing; a level outside (0, 1).
    """
    real, made = checked_pair(real, made, least=2)
    width = real.shape[1]
    if min(len(real), len(made)) < 2 * width:
        raise ValueError(
            f"{len(real)} and {len(made)} clips with {width} features: an interval needs {2 * width} clips of each"
        )
    if not 0 < level < 1 or resamples < 20:
        raise ValueError(f"level is {level} and resamples {resamples}; give a level in (0, 1) and 20 or more")
    at_once = max(1, ROOM // max(width * width, len(real), len(made)))
    parts = []
    for size in [at_once] * (resamples // at_once) + [resamples % at_once] * (resamples % at_once > 0):
        moments = [_resampled(x, size, generator) for x in (real, made)]
        parts.append(_distance(*moments[0], *moments[1]))
    drawn = torch.cat(parts)
    bias = drawn.mean() - frechet_distance(Statistics.of(real), Statistics.of(made))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (drawn.quantile(tail) - 2 * bias).clamp(min=0).tolist()
    return low, high


def _resampled(x: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Means `(size, d)` and covariances `(size, d, d)` of as many resamples of `(n, d)`."""
    count, width = x.shape
    chosen = torch.randint(count, (size, count), generator=generator)
    weight = torch.zeros(size, count, dtype=x.dtype).scatter_add_(1, chosen, torch.ones_like(chosen, dtype=x.dtype))
    centred = x - x.mean(0)
    mean = weight @ centred / count  # size d
    if width <= 16:  # all outer products at once: one product of matrices for all resamples
        outer = (centred[:, :, None] * centred[:, None]).flatten(1)  # n d*d
        second = (weight @ outer).unflatten(1, (width, width))
    else:
        second = torch.stack([(centred * w[:, None]).T @ centred for w in weight])
    return mean + x.mean(0), (second - count * mean[:, :, None] * mean[:, None]) / (count - 1)
