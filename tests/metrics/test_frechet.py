from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from vidiff.metrics.frechet import Statistics, extrapolated, frechet_distance, frechet_interval


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def by_sqrtm(first: Statistics, second: Statistics) -> float:
    """The formula as it is commonly computed."""
    s1, s2 = first.covariance.numpy(), second.covariance.numpy()
    root = np.real(scipy.linalg.sqrtm(s1 @ s2))
    return float((first.mean - second.mean).square().sum()) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root)


@pytest.mark.parametrize("width", [1, 2, 64])
def test_distance_equals_the_formula_with_a_matrix_root(width: int) -> None:
    scale = torch.linspace(0.1, 2, width, dtype=torch.float64)
    first = Statistics.of(normal(4 * width + 2, width) + 0.3)
    second = Statistics.of(normal(4 * width + 3, width, seed=1) * scale)
    assert frechet_distance(first, second) == pytest.approx(by_sqrtm(first, second), rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), rel=1e-12)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_distance_of_2048_features_equals_the_matrix_root_in_a_fifth_of_its_time() -> None:
    scale = torch.linspace(0.1, 2, 2048, dtype=torch.float64)
    first, second = Statistics.of(normal(4096, 2048)), Statistics.of(normal(4096, 2048, seed=1) * scale)
    began = time.process_time()
    ours = frechet_distance(first, second)
    between = time.process_time()
    theirs = by_sqrtm(first, second)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert time.process_time() - between > 5 * (between - began)


def test_distance_of_gaussians_in_closed_form() -> None:
    """Equal shapes moved by a vector: its square. Axes scaled: the squared difference of standard deviations."""
    x = normal(50, 5)
    shift = torch.tensor([3.0, 0, -4, 0, 0], dtype=torch.float64)
    assert frechet_distance(Statistics.of(x), Statistics.of(x + shift)) == pytest.approx(25, rel=1e-12)
    white = torch.linalg.qr(x - x.mean(0)).Q * 49**0.5  # covariance: the identity
    scale = torch.tensor([1.0, 2, 3, 0.5, 0], dtype=torch.float64)
    first, second = Statistics.of(white), Statistics.of(white * scale)
    assert frechet_distance(first, second) == pytest.approx(float((1 - scale).square().sum()), rel=1e-9)


def test_fewer_clips_than_features_are_handled_exactly() -> None:
    """The nuclear norm of the product of the centred features: clips by clips, whatever the number of features."""
    x, y = normal(7, 40), normal(9, 40, seed=1) + 0.5
    cx, cy = (x - x.mean(0)) / 6**0.5, (y - y.mean(0)) / 8**0.5
    root = torch.linalg.svdvals(cx @ cy.T).sum()
    wanted = (x.mean(0) - y.mean(0)).square().sum() + cx.square().sum() + cy.square().sum() - 2 * root
    assert frechet_distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(float(wanted), rel=1e-9)
    assert frechet_distance(Statistics.of(x), Statistics.of(x)) == pytest.approx(0, abs=1e-9)
    dead = torch.cat([x, torch.zeros(7, 3, dtype=torch.float64)], 1)  # features that never fire
    assert frechet_distance(Statistics.of(dead), Statistics.of(dead + 1)) == pytest.approx(43, rel=1e-9)


def test_statistics_do_not_depend_on_how_they_were_gathered() -> None:
    """Far from zero, where sums of squares would lose every digit; equal to numpy's on the whole."""
    x = normal(1001, 6) * 1e-3 + 1e6
    pieces = [Statistics.of(part) for part in x.tensor_split([1, 2, 300, 700])]
    orders = [Statistics.merged(pieces), Statistics.merged(pieces[::-1])]
    orders.append(Statistics.merged([Statistics.merged(pieces[3:]), Statistics.merged(pieces[:3])]))
    for found in orders:
        assert found.count == 1001
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(found.covariance, np.cov(x.numpy().T), rtol=1e-6, atol=1e-13)
        assert f"{frechet_distance(found, Statistics.of(x * 2)):.6g}" == (
            f"{frechet_distance(Statistics.of(x), Statistics.of(x * 2)):.6g}"
        )


def test_extrapolation_removes_the_bias_of_few_clips() -> None:
    """One distribution: the true distance is 0. At 1,000 clips of 16 features it reads 0.17; the line reads near 0."""
    found, errors = [], []
    for seed in range(4):
        x, y = normal(1000, 16, seed=2 * seed), normal(1000, 16, seed=2 * seed + 1)
        assert frechet_distance(Statistics.of(x), Statistics.of(y)) > 0.14
        value, error = extrapolated(x, y, seeded(seed))
        assert abs(value) < 0.05
        found.append(value)
        errors.append(error)
    assert abs(sum(found) / 4) < 0.02
    assert 0 < max(errors) < 0.05
    assert extrapolated(x, y, seeded(3)) == (value, error)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_covers_the_true_distance_as_often_as_it_says(level: float) -> None:
    """Gaussians at a true distance of 0.7: 400 sets of 200 clips; the count's own standard error is about 1 %."""
    draw = seeded(1)
    scale = torch.tensor([1.5, 1, 0.7, 1], dtype=torch.float64)
    true = 4 * 0.3**2 + float((scale - 1).square().sum())
    covered = 0
    for _ in range(400):
        x, y = (torch.randn(200, 4, generator=draw, dtype=torch.float64) for _ in range(2))
        low, high = frechet_interval(x, 0.3 + y * scale, draw, resamples=120, level=level)
        covered += low <= true <= high
    assert covered / 400 == pytest.approx(level, abs=0.03)


def test_intervals_by_either_route_agree() -> None:
    """Up to 16 features all resamples share one product of matrices; past that, each has its own."""
    x, y = normal(200, 16), 0.2 + normal(200, 16, seed=1)
    still = torch.zeros(200, 1, dtype=torch.float64)
    narrow = frechet_interval(x, y, seeded(), 40)
    wide = frechet_interval(torch.cat([x, still], 1), torch.cat([y, still], 1), seeded(), 40)
    assert wide == pytest.approx(narrow, rel=1e-9)


def test_mistakes_are_named() -> None:
    good = normal(40, 4)
    bad = good.clone()
    bad[7, 2] = torch.nan
    with pytest.raises(ValueError, match="features of 1 of 40 clips are not finite, first of clip 7"):
        Statistics.of(bad)
    with pytest.raises(ValueError, match=r"shape \(4, 40, 1\); expected \(clips, features\)"):
        Statistics.of(good.T[..., None])
    with pytest.raises(ValueError, match="1 clip has no covariance"):
        frechet_distance(Statistics.of(good[:1]), Statistics.of(good))
    with pytest.raises(ValueError, match="4 features against 3"):
        frechet_distance(Statistics.of(good), Statistics.of(good[:, :3]))
    with pytest.raises(ValueError, match=r"statistics of \[3, 4\] features cannot be merged"):
        Statistics.merged([Statistics.of(good), Statistics.of(good[:, :3])])
    with pytest.raises(ValueError, match="7 and 40 clips with 4 features: an interval needs 8 clips"):
        frechet_interval(good[:7], good, seeded())
    with pytest.raises(ValueError, match="level is 95"):
        frechet_interval(good, good, seeded(), level=95)
    with pytest.raises(ValueError, match="made has 9 clips; give at least 16"):
        extrapolated(good, good[:9], seeded())
    with pytest.raises(ValueError, match="points is 2"):
        extrapolated(good, good, seeded(), points=2)
    with pytest.raises(ValueError, match="4 features against 3"):
        extrapolated(good, good[:, :3], seeded())
