"""Steps taken again: the marginal stays, history is dropped where time goes back, what stands still stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.schedule import Cosine
from vidiff.sample import SAMPLERS, build_sampler, start
from vidiff.sample.base import Sampler, State
from vidiff.sample.resample import Resampled

DOUBLE = torch.float64


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_turn_is_the_sampler_itself(name: str, gaussian) -> None:
    denoiser, times = gaussian(Cosine()), time_grid(Cosine(), 5, dtype=DOUBLE)
    x = start(Cosine(), torch.randn(8, 1, 1, 1, 1, dtype=DOUBLE), times)
    plain, again = (
        sampler(denoiser, x, Condition(), times, torch.Generator().manual_seed(1))
        for sampler in (build_sampler(name), Resampled(build_sampler(name), 1))
    )
    assert torch.equal(plain, again)


def test_turns_keep_the_distribution_where_steps_do(gaussian, moments) -> None:
    """DDPM's large variance is exact for Gaussian data of unit variance, and so are its steps taken again."""
    times = time_grid(Cosine(), 6, dtype=DOUBLE)
    for count in (1, 3):
        sampler = Resampled(build_sampler("ddpm", variance="large"), count)
        mean, std = moments(sampler, gaussian(Cosine(), std=1.0), times, std=1.0)
        assert (mean, std) == (pytest.approx(0.7, abs=2e-3), pytest.approx(1.0, abs=2e-3))


class Remembers(Sampler):
    """Notes where it is called and what it remembers, and counts its steps as its memory."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int, Any]] = []

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        self.calls.append((round(float(t.max()), 6), len(self.calls), state.memory.get("last")))
        return 0.5 * x, State(state.generator, {"last": len(self.calls)})


def test_history_is_dropped_wherever_time_goes_back_and_kept_where_it_goes_on(gaussian) -> None:
    inner, times = Remembers(), torch.tensor([0.9, 0.6, 0.3], dtype=DOUBLE)
    Resampled(inner, 3)(gaussian(Cosine()), torch.zeros(2, 1, 1, 1, 1, dtype=DOUBLE), Condition(), times)
    at = [(time, memory) for time, _, memory in inner.calls]
    assert at == [(0.9, None)] * 3 + [(0.6, 3), (0.6, None), (0.6, None)]


def test_what_is_undone_has_the_noise_of_the_way_back(gaussian) -> None:
    """From `s` to `t` as the process itself goes: `alpha_t / alpha_s` of what was, and as much noise as it adds."""
    schedule, seen = Cosine(), []

    class Spy(Remembers):
        def step(self, denoiser, x, t, s, condition, state):
            seen.append(x)
            return torch.full_like(x, 2.0), state

    t, s = (torch.tensor(time, dtype=DOUBLE).view(1, 1, 1, 1, 1) for time in (0.7, 0.4))
    x = torch.zeros(20000, 1, 1, 1, 1, dtype=DOUBLE)
    Resampled(Spy(), 2).step(gaussian(schedule), x, t, s, Condition(), State(torch.Generator().manual_seed(0)))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    scale = alpha_t / alpha_s
    assert float(seen[1].mean()) == pytest.approx(float(2.0 * scale), abs=0.02)
    assert float(seen[1].var()) == pytest.approx(float(sigma_t**2 - scale**2 * sigma_s**2), rel=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_frames_whose_clock_stands_still_stay(name: str, gaussian) -> None:
    times = time_grid(Cosine(), 3, dtype=DOUBLE)
    t, s = (torch.stack([time, times[1]]).view(1, 1, 2, 1, 1) for time in times[:2])
    x = torch.randn(3, 1, 2, 1, 1, dtype=DOUBLE)
    sampler = Resampled(build_sampler(name), 3)
    moved, _ = sampler.step(gaussian(Cosine(), frames=2), x, t, s, Condition(), State())
    torch.testing.assert_close(moved[:, :, 1], x[:, :, 1])
    assert not torch.isclose(moved[:, :, 0], x[:, :, 0]).any()


def test_no_turns_are_refused() -> None:
    with pytest.raises(ValueError, match="count = 0 must be at least 1"):
        Resampled(build_sampler("ddim"), 0)
