"""Data that is one Gaussian, and the exact moments of what a sampler makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vidiff.diffusion import process
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.schedule import Schedule
from vidiff.sample.base import Sampler

DOUBLE = torch.float64
MEAN, STD = 0.7, 0.5


@pytest.fixture
def gaussian() -> Callable[..., Denoiser]:
    def make(
        schedule: Schedule,
        prediction: str = "v",
        std: float = STD,
        frames: int = 1,
        network: type[ExactNetwork] = ExactNetwork,
    ) -> Denoiser:
        means = torch.full((1, 1, frames, 1, 1), MEAN, dtype=DOUBLE)
        data = Mixture(means, torch.tensor([std], dtype=DOUBLE))
        return Denoiser(network(data, schedule, prediction), schedule, prediction)

    return make


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[float, float]]:
    """Mean and standard deviation at the end of a sampler's way, without chance.

    The denoiser of a Gaussian is affine, so the end is affine in the start and in each noise that is drawn. One run on
    a batch finds every coefficient: its first sample starts at 0 and sees no noise, its second starts at 1, and sample
    `2 + i` sees the i-th draw alone.
    """

    def measure(sampler: Sampler, denoiser: Denoiser, times: Tensor, std: float = STD) -> tuple[float, float]:
        draws = 0

        def unit(shape: torch.Size, **_: object) -> Tensor:
            nonlocal draws
            noise = torch.zeros(shape, dtype=DOUBLE)
            if draws + 2 < len(noise):
                noise[draws + 2] = 1.0
            draws += 1
            return noise

        def run(count: int) -> Tensor:
            nonlocal draws
            draws = 0
            x = torch.zeros(count, 1, 1, 1, 1, dtype=DOUBLE)
            x[1] = 1.0
            return sampler(denoiser, x, Condition(), times).flatten()

        with monkeypatch.context() as patch:
            patch.setattr(process.torch, "randn", unit)
            run(2)  # counts the draws
            end = run(2 + draws)
        alpha, sigma = denoiser.schedule(times[0])
        slopes = end[1:] - end[0]
        slopes[0] *= ((std * alpha) ** 2 + sigma**2).sqrt()
        return float(end[0] + (end[1] - end[0]) * MEAN * alpha), float(slopes.square().sum().sqrt())

    return measure
