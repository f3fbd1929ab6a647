"""Solvers of the reverse SDE, which puts noise in at every step and so forgets the errors of the steps before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, eps_from
from vidiff.diffusion.interval import Span
from vidiff.diffusion.process import draw_noise
from vidiff.sample.base import Sampler, State
from vidiff.sample.ode import Heun


class EulerMaruyama(Sampler):
    """Euler-Maruyama on the reverse SDE, `vidiff.diffusion.denoise.reverse_drift`: weak order 1.

    The integrals of `f` and of `g^2` over a step are `log(alpha_s / alpha_t)` and `sigma_t^2` times the change of
    log-SNR, so a step needs no derivative of the schedule and does not depend on how it measures time.
    """

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        schedule = denoiser.schedule
        eps = eps_from(schedule, denoiser(x, t, condition).x0, x, t)
        (alpha_t, sigma_t), (alpha_s, _) = schedule(t), schedule(s)
        change = schedule.log_snr(s) - schedule.log_snr(t)
        drift = torch.log(alpha_s / alpha_t) * x - change * sigma_t * eps  # the score is -eps / sigma
        return (x + drift + change.sqrt() * sigma_t * draw_noise(x, state.generator)).to(x.dtype), state


class StochasticHeun(Heun):
    """Heun with churn: each step first adds noise, then goes back over the way so lost (Karras et al. 2022, algorithm
    2).

    Args:
        churn: the relative rise of `sigma / alpha` by that noise, from 0, which is `Heun`, to `sqrt(2) - 1`: gamma of
            the paper, `S_churn` a step.
        interval: of `sigma / alpha` in which to add it.
        noise: its standard deviation; a little more than 1 makes up for what the network smooths away.

    Raises:
        ValueError: a churn, interval or noise out of range.
    """

    def __init__(self, churn: float = 0.2, interval: tuple[float, float] = (0.05, 50.0), noise: float = 1.0) -> None:
        if not 0.0 <= churn <= math.sqrt(2.0) - 1.0 + 1e-9:
            raise ValueError(f"churn = {churn} is outside [0, sqrt(2) - 1 = 0.414]; 0 is Heun, without noise")
        if not 0.0 <= interval[0] <= interval[1]:
            raise ValueError(f"interval = {interval} must satisfy 0 <= low <= high, in units of sigma / alpha")
        if not noise > 0.0:
            raise ValueError(f"noise = {noise} must be positive; 1 is the usual value")
        self.churn, self.interval, self.noise = churn, interval, noise

    def span(self, first: Span, last: Span) -> Span:
        return last[0], 1.0 if self.churn else first[1]

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        if self.churn == 0.0:
            return super().step(denoiser, x, t, s, condition, state)
        schedule, (low, high) = denoiser.schedule, self.interval
        alpha, sigma = schedule(t)
        ratio = sigma / alpha
        churned = (s < t) & (ratio >= low) & (ratio <= high)
        back = schedule.time_of(schedule.log_snr(t) - 2.0 * math.log1p(self.churn))  # ends at time 1
        back = torch.where(churned, back, t)
        more_alpha, more_sigma = schedule(back)
        scale = more_alpha / alpha
        added = (more_sigma**2 - (scale * sigma) ** 2).clamp(min=0.0).sqrt()
        noisier = scale * x + self.noise * added * draw_noise(x, state.generator)
        return super().step(denoiser, noisier.to(x.dtype), back, s, condition, state)
