"""Scores of feature sets besides the Fréchet distance: kernel distance, precision and recall, Inception score, and the
nearest neighbours that show whether a model repeats its training clips.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.metrics.frechet import checked, checked_pair

ROWS = 1024
"""Clips compared at once against all others."""


def kernel_distance(real: Tensor, made: Tensor) -> tuple[float, float]:
    """Kernel distance: the unbiased estimate of MMD^2 with the kernel (x y / d + 1)^3, and its standard error.

    KID of Bińkowski et al. 2018, section 4, from all pairs instead of random blocks. Its mean is 0 where both sets have
    one distribution, whatever their sizes, so single values may be negative. The standard error is the jackknife's,
    leaving out each clip of either set in turn.

    Args:
        real, made: features `(n, d)` and `(m, d)`, at least 3 of each.

    Raises:
        ValueError: different numbers of features, too few clips, or values that are not finite.
    """
    real, made = checked_pair(real, made, least=3)
    within_real, within_made = _kernel_sums(real, real), _kernel_sums(made, made)  # n, m
    across_real, across_made = _kernel_sums(real, made), _kernel_sums(made, real)  # n, m
    n, m = len(real), len(made)
    total_real = (within_real - _kernel_of_itself(real)).sum()
    total_made = (within_made - _kernel_of_itself(made)).sum()
    total_across = across_real.sum()

    def estimate(sum_real: Tensor, sum_made: Tensor, across: Tensor, n: int, m: int) -> Tensor:
        return sum_real / (n * (n - 1)) + sum_made / (m * (m - 1)) - 2 * across / (n * m)

    value = estimate(total_real, total_made, total_across, n, m)
    less_real = total_real - 2 * (within_real - _kernel_of_itself(real))  # n: without each
    less_made = total_made - 2 * (within_made - _kernel_of_itself(made))  # m
    without_real = estimate(less_real, total_made, total_across - across_real, n - 1, m)
    without_made = estimate(total_real, less_made, total_across - across_made, n, m - 1)
    variance = (n - 1) * without_real.var(correction=0) + (m - 1) * without_made.var(correction=0)
    return float(value), float(variance.sqrt())


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of `(n, d)`, the sum of its kernel with every row of `(m, d)`: `(n,)`."""
    return torch.cat([(rows @ y.T / x.shape[1] + 1).pow(3).sum(1) for rows in x.split(ROWS)])


def _kernel_of_itself(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: the share of made clips that look real, and of real clips that could be made.

    Kynkäänniemi et al. 2019, equations 1 and 2: a clip counts as covered where it lies within the distance of some clip
    of the other set to that clip's k-th nearest neighbour in its own set.

    Args:
        real, made: features `(n, d)` and `(m, d)`, more than k of each.

    Raises:
        ValueError: as `kernel_distance`, or k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; give 1 or more neighbours")
    real, made = checked_pair(real, made, least=k + 1)
    return _covered(made, real, _radius(real, k)), _covered(real, made, _radius(made, k))


def _radius(x: Tensor, k: int) -> Tensor:
    """Distance of each row of `(n, d)` to its k-th nearest other row: `(n,)`."""
    # each row is among its own neighbours, at distance 0 or as near as rounding goes
    return torch.cat([_distances(rows, x).kthvalue(k + 1, 1).values for rows in x.split(ROWS)])


def _covered(x: Tensor, centres: Tensor, radius: Tensor) -> float:
    """The share of rows `(n, d)` inside any of the balls."""
    inside = torch.cat([(_distances(rows, centres) <= radius).any(1) for rows in x.split(ROWS)])
    return float(inside.double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # exact, 0 for equal rows


def nearest(made: Tensor, training: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """The k training clips nearest to each made one: `(m, k)` distances, nearest first, and `(m, k)` their numbers.

    Args:
        made, training: features `(m, d)` and `(n, d)`.

    Raises:
        ValueError: as `kernel_distance`; fewer than k training clips.
    """
    training, made = checked_pair(training, made, least=1)
    if not 1 <= k <= len(training):
        raise ValueError(f"k is {k}; give 1 to {len(training)}, the number of training clips")
    neighbours = [_distances(rows, training).topk(k, 1, largest=False) for rows in made.split(ROWS)]
    return torch.cat([part.values for part in neighbours]), torch.cat([part.indices for part in neighbours])


def copied(made: Tensor, training: Tensor, held_out: Tensor) -> float:
    """The share of made clips that lie nearer to a training clip than 95 % of held-out clips do.

    About 0.05 where the model does no more than draw from the same distribution; near 1 where it repeats its training
    clips. Needs at least 20 held-out clips.
    """
    held_out = checked(held_out, "held_out", least=20)
    limit = nearest(held_out, training, 1)[0].flatten().quantile(0.05)
    return float((nearest(made, training, 1)[0].flatten() < limit).double().mean())


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL(p(y | clip) || p(y)) over clips: its mean over splits, and their standard deviation.

    Salimans et al. 2016, section 4: from 1 to the number of classes, higher where clips are each of one class, and all
    classes are there.

    Args:
        logits: `(n, k)` of a classifier, clip by clip in random or class-balanced order.

    Raises:
        ValueError: values that are not finite, or fewer than two clips in a split.
    """
    logits = checked(logits, "logits")
    if not 1 <= splits <= len(logits) // 2:
        raise ValueError(f"splits is {splits}; give 1 to {len(logits) // 2}, two clips for each")
    scores = []
    for part in logits.log_softmax(1).tensor_split(splits):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))
