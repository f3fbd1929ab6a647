"""Solvers of the probability-flow ODE.

With `y = x / alpha` and `r = sigma / alpha` it is `dy / dr = eps` for every schedule (Song et al. 2020, DDIM,
eq. 14), so that is the form in which it is solved.
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, eps_from
from vidiff.sample.base import Sampler, State


class Euler(Sampler):
    """First order; the same steps as `DDIM()` in other words."""

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        eps = eps_from(denoiser.schedule, denoiser(x, t, condition).x0, x, t)
        return _move(denoiser, x, eps, t, s), state


class Heun(Sampler):
    """Second order, two evaluations a step (Karras et al. 2022, algorithm 1)."""

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        first = eps_from(denoiser.schedule, denoiser(x, t, condition).x0, x, t)
        ahead = _move(denoiser, x, first, t, s)
        second = eps_from(denoiser.schedule, denoiser(ahead, s, condition).x0, ahead, s)
        return _move(denoiser, x, 0.5 * (first + second), t, s), state


def _move(denoiser: Denoises, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """`y + (r_s - r_t) * eps`, times `alpha_s`."""
    alpha_t, sigma_t = denoiser.schedule(t)
    alpha_s, sigma_s = denoiser.schedule(s)
    scale = alpha_s / alpha_t
    return (scale * x + (sigma_s - scale * sigma_t) * eps).to(x.dtype)
