from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidiff.metrics.sets import copied, inception_score, kernel_distance, nearest, precision_recall


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate, pair by pair (Bińkowski et al. 2018, equation 4)."""

    def k(a: Tensor, b: Tensor) -> float:
        return float(a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_is_its_definition() -> None:
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5
    value, error = kernel_distance(x, y)
    assert value == pytest.approx(by_definition(x, y), rel=1e-12)
    without_x = [by_definition(x[torch.arange(7) != i], y) for i in range(7)]
    without_y = [by_definition(x, y[torch.arange(5) != i]) for i in range(5)]
    variance = sum((n - 1) / n * sum((v - sum(w) / n) ** 2 for v in w) for n, w in ((7, without_x), (5, without_y)))
    assert error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kernel_distance_is_unbiased_and_its_error_honest() -> None:
    """1,000 draws of 20 and 30 clips of one feature, for which MMD^2 has a closed form."""
    draws = torch.Generator().manual_seed(0)
    for shift in (0.0, 1.0):
        found = torch.tensor(
            [
                kernel_distance(*(torch.randn(n, 1, generator=draws, dtype=torch.float64) + c for n, c in pair))
                for pair in [((20, 0.0), (30, shift))] * 1000
            ]
        )
        spread = float(found[:, 0].std())
        assert float(found[:, 0].mean()) == pytest.approx(_true_mmd(shift), abs=3 * spread / math.sqrt(1000))
        assert 0.8 < float(found[:, 1].square().mean().sqrt()) / spread < 1.6  # the jackknife errs upwards


def _true_mmd(shift: float) -> float:
    """(x y + 1)^3 is the sum of binom(3, p) x^p y^p, so MMD^2 is that of the differences of moments, squared."""
    plain = (0.0, 1.0, 0.0)  # of a standard normal: E x, E x^2, E x^3
    moved = (shift, 1 + shift**2, 3 * shift + shift**3)
    return sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), plain, moved, strict=True))


def test_precision_and_recall_of_known_sets() -> None:
    """Real clips on a line, spaced 1: balls of the nearest neighbour have radius 1."""
    real = torch.arange(10.0)[:, None]
    assert precision_recall(real, real, k=1) == (1, 1)
    made = torch.tensor([[0.5], [1.5], [2.5], [50.0]])  # three inside; balls of radius 1, 1, 1 and 47.5
    precision, recall = precision_recall(real, made, k=1)
    assert precision == 0.75
    assert recall == 1  # the last one's ball is as wide as the line: the measure's known weakness
    assert precision_recall(real, made[:3], k=1) == (1, 0.4)  # 0, 1, 2, 3
    far = real + 100
    assert precision_recall(real, far) == (0, 0)


def test_nearest_training_clips_and_copies() -> None:
    training, held_out = normal(200, 8), normal(100, 8, seed=1)
    distance, number = nearest(training[[5, 17]] + 1e-6, training, k=2)
    assert number[:, 0].tolist() == [5, 17]
    assert distance[:, 0] == pytest.approx(1e-6 * 8**0.5, rel=1e-3)
    brute = (training[5] + 1e-6 - training).norm(dim=1).topk(2, largest=False).indices
    assert number[0].tolist() == brute.tolist()
    assert copied(training[:50] + 1e-3, training, held_out) == 1
    assert copied(normal(500, 8, seed=2), training, held_out) == pytest.approx(0.05, abs=0.05)


def test_inception_score_of_known_predictions() -> None:
    sure = 1000 * torch.eye(4).repeat(5, 1)  # 20 clips, each of one class for certain
    assert inception_score(sure, splits=1) == (pytest.approx(4, rel=1e-6), 0)
    assert inception_score(torch.zeros(20, 4), splits=1)[0] == pytest.approx(1)
    assert inception_score(sure[::4], splits=1)[0] == pytest.approx(1)  # one class alone
    assert inception_score(sure, splits=5) == (pytest.approx(4, rel=1e-6), pytest.approx(0, abs=1e-6))
    half = torch.tensor([[0.0, -1000], [-1000, 0], [0, 0], [0, 0]])  # KL: log 2, log 2, 0, 0
    assert inception_score(half, splits=1)[0] == pytest.approx(math.sqrt(2), rel=1e-6)


def test_mistakes_are_named() -> None:
    good = normal(40, 4)
    with pytest.raises(ValueError, match="made of 1 of 40 clips are not finite, first of clip 3"):
        kernel_distance(good, good.index_fill(0, torch.tensor([3]), torch.inf))
    with pytest.raises(ValueError, match="4 features against 2"):
        kernel_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="made has 2 clips; give at least 3"):
        kernel_distance(good, good[:2])
    with pytest.raises(ValueError, match="real has 3 clips; give at least 4"):
        precision_recall(good[:3], good)
    with pytest.raises(ValueError, match="k is 0"):
        precision_recall(good, good, k=0)
    with pytest.raises(ValueError, match="k is 41; give 1 to 40"):
        nearest(good, good, k=41)
    with pytest.raises(ValueError, match="held_out has 5 clips; give at least 20"):
        copied(good, good, good[:5])
    with pytest.raises(ValueError, match="splits is 30; give 1 to 20"):
        inception_score(good, splits=30)
