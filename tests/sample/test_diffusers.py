"""Equality with diffusers, step by step, on the same betas, network, noise and grid.

Its conventions that differ, each undone here where it is met:

- Its tables are products in float32, which are off by up to 1e-4 in `sigma / alpha` at the first step: they are given
  the same table in double precision. What it then rounds to float32 in a step of its own stays, hence 1e-5.
- It numbers discrete steps from 0, so its step `i` is the time `(i + 1) / 1000`.
- DDPM and DDIM clip the estimate to [-1, 1] unless told otherwise, which no sampler here does: clipping is the
  denoiser's business.
- Euler and Heun keep `x / alpha` rather than `x`.
- DPM-Solver++ and UniPC take their last step to `sigma = 0` at first order, where the loop here returns `x0`: the same
  number. UniPC also lowers the order of the steps before the last; `lower_order_final=False` leaves them as they are,
  but then its last step, of infinite length, has no solution, so it is not taken.
- DPM-Solver++ and UniPC count "leading" with one step more than the others: they are given the others' grid.
- "fixed_large" of DDPM is `beta` itself, as here; "fixed_large_log", despite its name, returns the logarithm of it and
  is used as a variance, which is wrong, so it is not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import discrete_times, time_grid
from vidiff.diffusion.schedule import Linear
from vidiff.sample import DDIM, DDPM, DEIS, DPMSolverPP2M, Euler, Heun, Sampler, State, UniPC
from vidiff.sample.base import frame_times

pytest.importorskip("diffusers")
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

DOUBLE = torch.float64
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE), 0)
STEPS = list(range(950, -1, -50))  # its "leading" spacing of 20 steps
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "leading"}
MEANS = torch.tensor([[-1.5, 0.5], [0.5, -1.0], [1.5, 1.5]], dtype=DOUBLE).view(3, 2, 1, 1, 1)
DATA = Mixture(MEANS, torch.tensor([0.3, 0.2, 0.5], dtype=DOUBLE))


class WithVariance(nn.Module):
    """The exact network, and a variance head that depends on `x` and stays within (-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ExactNetwork(DATA, Linear(), "eps")

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return torch.cat([self.network(x, log_snr, condition), 0.9 * torch.sin(3 * x)], dim=1)


def start() -> Tensor:
    return torch.randn(6, 2, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def ours(sampler: Sampler, denoiser: Denoiser) -> list[Tensor]:
    """`x` after each step, and `x0` at the end."""
    x, state, path = start(), State(torch.Generator().manual_seed(0)), []
    grid = frame_times(discrete_times(Linear(), STEPS, DOUBLE), x)
    for t, s in pairwise(grid):
        x, state = sampler.step(denoiser, x, t, s, Condition(), state)
        path.append(x)
    return [*path, denoiser(x, grid[-1], Condition()).x0]


def theirs(scheduler: Any, denoiser: Denoiser, scaled: bool = False, **options: Any) -> list[Tensor]:
    """The same of a scheduler of diffusers. `scaled`: it keeps `x / alpha`."""
    scheduler.set_timesteps(len(STEPS))
    scheduler.alphas_cumprod = ABAR
    alpha, sigma = ABAR[STEPS].sqrt(), (1 - ABAR[STEPS]).sqrt()
    if not isinstance(scheduler, HeunDiscreteScheduler):
        scheduler.timesteps = torch.tensor(STEPS).to(scheduler.timesteps.dtype)
    if hasattr(scheduler, "sigmas"):
        ratios = torch.cat([sigma / alpha, torch.zeros(1, dtype=DOUBLE)])
        twice = isinstance(scheduler, HeunDiscreteScheduler)
        scheduler.sigmas = ratios[1:-1].repeat_interleave(2) if twice else ratios
        if twice:
            scheduler.sigmas = torch.cat([ratios[:1], scheduler.sigmas, ratios[-1:]])
    x, path = start() / (alpha[0] if scaled else 1.0), []
    generator = torch.Generator().manual_seed(0)
    last = -1 if isinstance(scheduler, UniPCMultistepScheduler | DEISMultistepScheduler) else None
    for t in scheduler.timesteps[:last]:
        t_ours = (t.double() + 1) / 1000
        output = torch.cat(
            [
                part
                for part in denoiser.output(scheduler.scale_model_input(x, t), t_ours, Condition())
                if part is not None
            ],
            1,
        )
        if denoiser.variance:
            output[:, 2:] = 2 * output[:, 2:] - 1  # it wants the head as it is, in [-1, 1]
        if options.get("noise"):
            more = {"variance_noise": torch.randn(x.shape, generator=generator, dtype=DOUBLE)}
        else:
            more = {"generator": generator} if "generator" in options else {}
        more |= {key: value for key, value in options.items() if key == "eta"}
        x = scheduler.step(output, t, x, **more).prev_sample
        path.append(x)
    if isinstance(scheduler, HeunDiscreteScheduler):
        path = path[1::2] + path[-1:]  # two calls a step; the last is of first order
    scales = alpha.roll(-1) if scaled else torch.ones_like(alpha)
    scales[-1] = 1.0
    return [x * scale for x, scale in zip(path, scales, strict=False)]


CASES: dict[str, tuple[Callable[[], Sampler], Callable[[], Any], dict[str, Any], float]] = {
    "ddpm small": (DDPM, lambda: DDPMScheduler(clip_sample=False, **BETAS), {"generator": True}, 1e-9),
    "ddpm large": (
        lambda: DDPM("large"),
        lambda: DDPMScheduler(clip_sample=False, variance_type="fixed_large", **BETAS),
        {"generator": True},
        1e-9,
    ),
    "ddim": (DDIM, lambda: DDIMScheduler(clip_sample=False, **BETAS), {}, 1e-9),
    "ddim eta": (
        lambda: DDIM(0.6),
        lambda: DDIMScheduler(clip_sample=False, **BETAS),
        {"eta": 0.6, "generator": True},
        1e-9,
    ),
    "euler": (Euler, lambda: EulerDiscreteScheduler(**BETAS), {"scaled": True}, 1e-5),
    "heun": (Heun, lambda: HeunDiscreteScheduler(**BETAS), {"scaled": True}, 1e-9),
    "dpmpp_2m": (DPMSolverPP2M, lambda: DPMSolverMultistepScheduler(**BETAS), {}, 1e-5),
    "dpmpp_2m_sde": (
        lambda: DPMSolverPP2M(1.0),
        lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **BETAS),
        {"noise": True},
        1e-5,
    ),
    **{
        f"unipc {order}": (
            lambda order=order: UniPC(order, lower=False),
            lambda order=order: UniPCMultistepScheduler(solver_order=order, lower_order_final=False, **BETAS),
            {},
            1e-9,
        )
        for order in (1, 2, 3)
    },
    **{
        f"deis {order}": (
            lambda order=order: DEIS(order, lower=False),
            lambda order=order: DEISMultistepScheduler(solver_order=order, lower_order_final=False, **BETAS),
            {},
            1e-9,
        )
        for order in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_agrees(name: str) -> None:
    make, scheduler, options, within = CASES[name]
    denoiser = Denoiser(ExactNetwork(DATA, Linear(), "eps"), Linear(), "eps")
    agree(ours(make(), denoiser), theirs(scheduler(), denoiser, **options), within)


def test_the_learned_variance_agrees() -> None:
    """Its "learned_range" reads the head as here; the noise of a step is `exp(variance / 2)` since that is a
    logarithm.
    """
    denoiser = Denoiser(WithVariance(), Linear(), "eps", variance=True)
    scheduler = DDPMScheduler(clip_sample=False, variance_type="learned_range", **BETAS)
    agree(ours(DDPM("learned"), denoiser), theirs(scheduler, denoiser, generator=True), 1e-9)


def agree(found: list[Tensor], expected: list[Tensor], within: float) -> None:
    count = len(STEPS)
    assert len(found) == count and len(expected) in (count, count - 1)
    for number, (x, other) in enumerate(zip(found, expected, strict=False)):
        torch.testing.assert_close(
            x, other.double(), rtol=0, atol=within, msg=lambda text, n=number: f"step {n} of {count}: {text}"
        )


EVALUATIONS = 10
LINE = Mixture(
    torch.tensor([-1.5, 0.5, 1.5], dtype=DOUBLE).view(3, 1, 1, 1, 1),
    torch.tensor([0.3, 0.2, 0.5], dtype=DOUBLE),
    torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE),
)
LEVELS = (torch.arange(400, dtype=DOUBLE) + 0.5) / 400
NOISE = torch.special.ndtri(LEVELS).view(-1, 1, 1, 1, 1)  # its quantiles, so that no chance is left


def w2(made: Tensor) -> float:
    """Wasserstein distance of order 2 to the mixture on a line, by quantiles."""
    place = torch.linspace(-5, 5, 20_001, dtype=DOUBLE)
    parts = zip(LINE.weights.tolist(), LINE.means.flatten().tolist(), LINE.stds.tolist(), strict=True)
    rise = sum(weight * torch.special.ndtr((place - mean) / std) for weight, mean, std in parts)
    exact = place[torch.searchsorted(rise, LEVELS)]
    return float((made.flatten().sort().values - exact).square().mean().sqrt())


def library_error(scheduler: Any) -> float:
    """At ten evaluations, by its own tables, grid and last step."""
    heun = isinstance(scheduler, HeunDiscreteScheduler)
    scheduler.set_timesteps(EVALUATIONS // 2 if heun else EVALUATIONS)
    x = NOISE * scheduler.init_noise_sigma
    for number, t in enumerate(scheduler.timesteps):
        shown = scheduler.scale_model_input(x, t)
        ratio = ((1 - ABAR[int(t)]) / ABAR[int(t)]).sqrt()
        if hasattr(scheduler, "sigmas"):
            ratio = scheduler.sigmas[number].double()
        alpha = (1 + ratio**2).rsqrt().view(1, 1, 1, 1, 1)
        x0 = LINE.x0(shown, alpha, ratio * alpha)
        x = scheduler.step((shown - alpha * x0) / (ratio * alpha), t, x).prev_sample.double()
    return w2(x)


def test_at_ten_evaluations_the_best_here_has_less_than_the_library_s_least_error() -> None:
    betas = {key: value for key, value in BETAS.items() if key != "timestep_spacing"}
    tried = {}
    for spacing in ("linspace", "leading", "trailing"):
        options = {**betas, "timestep_spacing": spacing}
        tried[f"DDIM {spacing}"] = DDIMScheduler(clip_sample=False, **options)
        for karras in (False, True):
            tried[f"Euler {spacing} {karras}"] = EulerDiscreteScheduler(use_karras_sigmas=karras, **options)
        tried[f"Heun {spacing}"] = HeunDiscreteScheduler(**options)
        for solver in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
            for order in (1, 2, 3):
                for sigmas in ("", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
                    extra = {sigmas: True} if sigmas else {}
                    name = f"{solver.__name__} {order} {spacing} {sigmas}"
                    tried[name] = solver(solver_order=order, **extra, **options)
    errors = {name: library_error(scheduler) for name, scheduler in tried.items()}
    best = min(errors, key=errors.__getitem__)
    times = time_grid(Linear(), EVALUATIONS - 1, ends=(-7.0, 5.0), dtype=DOUBLE)
    denoiser = Denoiser(ExactNetwork(LINE, Linear(), "eps"), Linear(), "eps")
    found = w2(UniPC(3)(denoiser, NOISE, Condition(), times))
    assert found < 0.05 and found <= 0.8 * errors[best], (found, best, errors[best])
