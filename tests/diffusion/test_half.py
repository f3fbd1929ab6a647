"""Where half is known: of a Gaussian in closed form, and of mixtures that more numbers decide."""

from __future__ import annotations

import math

import pytest
import torch

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.half import half_known
from vidiff.diffusion.schedule import Cosine, build_schedule

DOUBLE = torch.float64


def measured(data: Mixture, name: str = "cosine", count: int = 400) -> float | None:
    schedule = build_schedule(name)
    torch.manual_seed(0)
    x0 = data.sample(count)
    return half_known(Denoiser(ExactNetwork(data, schedule, "v"), schedule, "v"), x0, Condition())


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("std", [0.25, 1.0, 3.0])
def test_of_a_gaussian_it_is_where_signal_and_noise_are_as_strong(name: str, std: float) -> None:
    """Of variance s^2 the error is s^2 / (1 + s^2 snr): half of it at snr = 1 / s^2."""
    data = Mixture(torch.full((1, 1, 2, 4, 4), 0.5, dtype=DOUBLE), torch.tensor([std], dtype=DOUBLE))
    assert measured(data, name) == pytest.approx(-2 * math.log(std), abs=0.16)


def test_what_more_numbers_decide_together_is_known_in_more_noise() -> None:
    """Two points, told apart in 1, 16 or 64 numbers, as far apart in each."""
    found = []
    for numbers in (1, 16, 64):
        means = torch.ones(2, numbers, dtype=DOUBLE) * torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)
        found.append(measured(Mixture(means.view(2, 1, 1, 1, numbers), torch.full((2,), 0.05, dtype=DOUBLE))))
    one, some, many = (half for half in found if half is not None)
    falls = [one - some, some - many]
    assert falls == pytest.approx([math.log(16), math.log(4)], abs=0.35)


@pytest.mark.parametrize("times", [1, 2, 16])
def test_of_one_clip_alone_it_is_not_told(times: int) -> None:
    """However often it comes: there is nothing in which it differs."""
    data = Mixture(torch.randn(40, 1, 2, 4, 4, dtype=DOUBLE), torch.full((40,), 0.3, dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    x0 = data.sample(1).expand(times, -1, -1, -1, -1)
    assert half_known(denoiser, x0, Condition()) is None


def test_of_a_model_that_knows_nothing_it_is_not_told() -> None:
    class Zero(torch.nn.Module):
        def forward(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
            return torch.zeros_like(x)

    x0 = torch.randn(8, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 3.0
    assert half_known(Denoiser(Zero(), Cosine(), "x0"), x0, Condition()) is None
