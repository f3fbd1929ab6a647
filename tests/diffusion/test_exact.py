from __future__ import annotations

import pytest
import torch

from vidiff.diffusion.exact import Mixture
from vidiff.diffusion.schedule import Cosine

DOUBLE = torch.float64


def mixture() -> Mixture:
    means = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.0, -2.0]], dtype=DOUBLE).view(3, 2, 1, 1, 1)
    return Mixture(means, torch.tensor([0.3, 0.5, 0.2], dtype=DOUBLE), torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE))


def test_x0_is_tweedie_of_log_prob() -> None:
    """x0 = (x + sigma^2 grad log p(x)) / alpha, by autograd."""
    data, t = mixture(), torch.linspace(0.05, 0.95, 30, dtype=DOUBLE).view(-1, 1, 1, 1, 1)
    alpha, sigma = Cosine()(t)
    x = torch.randn(30, 2, 1, 1, 1, dtype=DOUBLE, requires_grad=True)
    (score,) = torch.autograd.grad(data.log_prob(x, alpha, sigma).sum(), x)
    torch.testing.assert_close(data.x0(x, alpha, sigma), (x + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)


def test_log_prob_integrates_to_one() -> None:
    axis = torch.linspace(-6, 6, 601, dtype=DOUBLE)
    x = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1, 1)
    alpha, sigma = (part.view(1, 1, 1, 1, 1) for part in Cosine()(torch.tensor(0.3, dtype=DOUBLE)))
    total = mixture().log_prob(x, alpha, sigma).exp().sum() * 0.02**2
    assert float(total) == pytest.approx(1, abs=1e-9)


def test_a_label_picks_its_component() -> None:
    data, one = mixture(), torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE)
    x = torch.randn(4, 2, 1, 1, 1, dtype=DOUBLE)
    label = torch.tensor([0, 1, 2, -1])
    x0 = data.x0(x, one, one, label)
    for i in range(3):
        own = Mixture(data.means[i : i + 1], data.stds[i : i + 1])
        torch.testing.assert_close(x0[i : i + 1], own.x0(x[i : i + 1], one, one))
    torch.testing.assert_close(x0[3:], data.x0(x[3:], one, one))


def test_samples_have_the_moments() -> None:
    data = mixture()
    x = data.sample(200_000, torch.Generator().manual_seed(0)).flatten(1)
    means, weights = data.means.flatten(1), data.weights[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (means**2 + data.stds[:, None] ** 2)).sum(0) - mean**2
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(x.var(0), variance, rtol=0.01, atol=0)


def test_bad_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="2 means need"):
        Mixture(torch.zeros(2, 1), torch.ones(3))
    with pytest.raises(ValueError, match="must be positive"):
        Mixture(torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
