"""Guidance within an interval, whose steps a sampler foretells: the same samples as where each is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.guidance import ClassifierFree, Projected
from vidiff.diffusion.interval import Timed, foretold
from vidiff.diffusion.schedule import Cosine, Schedule
from vidiff.sample import SAMPLERS, build_sampler
from vidiff.sample.resample import Resampled

INTERVAL = (0.31, 0.62)
OPTIONS = {"rk45": {"tolerance": 1e-2}, "langevin": {"iterations": 1}}


class Asked:
    """A guided denoiser that no sampler can tell anything, and that notes when it guided."""

    def __init__(self, inner: ClassifierFree) -> None:
        self.inner = inner

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        assert self.inner.span is None
        return self.inner(x_t, t, condition)


class Watched(ClassifierFree):
    """Holds each time it is asked at against what it was told."""

    asked = 0

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        assert self.span is not None
        low, high = torch.as_tensor(t).min(), torch.as_tensor(t).max()
        assert self.span[0] - 1e-6 <= float(low) and float(high) <= self.span[1] + 1e-6, (self.span, low, high)
        self.asked += 1
        return super().forward(x_t, t, condition)


def model() -> Denoiser:
    means = torch.tensor([-1.0, 1.5], dtype=torch.float64).view(2, 1, 1, 1, 1)
    data = Mixture(means, torch.tensor([0.3, 0.5], dtype=torch.float64))
    return Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")


@pytest.mark.parametrize("apg", [None, Projected(eta=0.5, momentum=-0.5)], ids=["plain", "apg"])
@pytest.mark.parametrize("name", [*SAMPLERS, "resampled"])
def test_a_sampler_foretells_what_it_asks(name: str, apg: Projected | None) -> None:
    sampler = (
        Resampled(build_sampler("ddim"), 2) if name == "resampled" else build_sampler(name, **OPTIONS.get(name, {}))
    )
    x = torch.randn(6, 1, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    condition = Condition(label=torch.tensor([0, 1] * 3))
    times = time_grid(Cosine(), 7, dtype=torch.float64)
    watched = Watched(model(), 2.5, interval=INTERVAL, apg=apg)
    asked = ClassifierFree(model(), 2.5, interval=INTERVAL, apg=apg)
    drawn = sampler(watched, x, condition, times, torch.Generator().manual_seed(1))
    same = sampler(Asked(asked), x, condition, times, torch.Generator().manual_seed(1))
    assert watched.asked > 7 and watched.span is None
    torch.testing.assert_close(drawn, same, rtol=1e-9, atol=1e-9)
    plain = sampler(model(), x, condition, times, torch.Generator().manual_seed(1))
    assert not torch.allclose(drawn, plain, atol=1e-3)


def test_what_was_foretold_is_forgotten_after_an_error() -> None:
    guided = ClassifierFree(model(), 2.0, interval=INTERVAL)
    with pytest.raises(RuntimeError, match="stopped"), foretold(guided) as timed:
        assert timed == [guided]
        guided.span = (0.0, 0.1)
        raise RuntimeError("stopped")
    assert guided.span is None


@pytest.mark.parametrize(
    ("span", "rests"),
    [((0.0, 0.3), True), ((0.0, 0.31), False), ((0.62, 0.62), False), ((0.63, 1.0), True), ((0.0, 1.0), False)],
)
def test_it_rests_where_no_time_is_within(span: tuple[float, float], rests: bool) -> None:
    part = Timed(INTERVAL)
    part.span = span
    assert part.rests(torch.tensor([True])) is rests  # without a look at what is on the device
    assert not Timed(None).rests(None)
