"""Solvers of the probability-flow ODE.

With `y = x / alpha` and `r = sigma / alpha` it is `dy / dr = eps` for every schedule (Song et al. 2020, DDIM,
eq. 14), so that is the form in which it is solved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, eps_from
from vidiff.sample.base import Sampler, State

# Dormand & Prince 1980, table 2: nodes, stages, and what the fifth-order solution has more than the fourth.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution itself
)
LONGEST_CUT = 4.0  # in log-SNR: across much more the stages may all miss where the data is decided
EXCESS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Euler(Sampler):
    """Euler's method, of first order: the same steps as `DDIM()` in other words."""

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        eps = eps_from(denoiser.schedule, denoiser(x, t, condition).x0, x, t)
        return _move(denoiser, x, eps, t, s), state


class Heun(Sampler):
    """Heun's method, of second order, with two evaluations a step (Karras et al. 2022, algorithm 1)."""

    evaluations = 2

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        first = eps_from(denoiser.schedule, denoiser(x, t, condition).x0, x, t)
        ahead = _move(denoiser, x, first, t, s)
        second = eps_from(denoiser.schedule, denoiser(ahead, s, condition).x0, ahead, s)
        return _move(denoiser, x, 0.5 * (first + second), t, s), state


class RK45(Sampler):
    """Adaptive Runge-Kutta of order 5 (Dormand & Prince 1980), for when accuracy matters more than evaluations.

    Each step of the grid is cut into as many as the tolerance needs, for each sample on its own; a grid of one step
    will do. It is solved in log-SNR for `x` scaled to unit variance, so that the tolerance means the same at all noise
    levels.

    Args:
        tolerance: largest error of one cut, root mean square over a sample, for data of unit variance.

    Raises:
        ValueError: a tolerance that is not positive, or one that cannot be met.
    """

    evaluations = None

    def __init__(self, tolerance: float = 1e-4) -> None:
        if not tolerance > 0.0:
            raise ValueError(f"tolerance = {tolerance} must be positive; 1e-4 is usual")
        self.tolerance = tolerance

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        schedule = denoiser.schedule
        here, there = schedule.log_snr(t), schedule.log_snr(s)

        def slope(z: Tensor, done: Tensor) -> Tensor:
            """By how much `z` changes from `t` to `s`, at the rate of each sample's share of the way."""
            log_snr = torch.lerp(here, there, done)
            alpha, sigma = schedule.scales(log_snr)
            norm = _norm(alpha, sigma)
            x0 = denoiser((norm * z).to(x.dtype), schedule.time_of(log_snr), condition).x0
            gain = alpha / norm  # z = gain x0 + sqrt(1 - gain^2) eps
            return 0.5 * (there - here) * gain * (x0 - gain * z)

        z = x / _norm(*schedule(t))
        longest = LONGEST_CUT / max(float((there - here).max()), 1e-12)
        done = here.new_zeros(len(x), *[1] * (x.ndim - 1))  # b 1 1 1 1
        first, length = slope(z, done), torch.full_like(done, longest)
        while bool((done < 1.0).any()):
            length = torch.minimum(length.clamp(max=longest), 1.0 - done)  # 0 for a sample that is there
            slopes, ahead = [first], z
            for node, weights in zip(NODES, STAGES, strict=True):
                ahead = z + length * sum(w * k for w, k in zip(weights, slopes, strict=True))
                slopes.append(slope(ahead, (done + length * node).clamp(max=1.0)))
            excess = torch.as_tensor(length * sum(w * k for w, k in zip(EXCESS, slopes, strict=True)))
            error = excess.flatten(1).square().mean(1).sqrt().view_as(done).to(done.dtype) / self.tolerance
            good = error <= 1.0
            if bool((~good & (length < 1e-6)).any()):
                raise ValueError(f"tolerance = {self.tolerance} is not met by steps of 1e-6 of the grid's; raise it")
            z, first = torch.where(good, ahead, z), torch.where(good, slopes[-1], first)
            done = torch.where(good, done + length, done)
            done = torch.where(done > 1.0 - 1e-9, 1.0, done)
            length = length * (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        return (z * _norm(*schedule(s))).to(x.dtype), state


def _norm(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2 + sigma**2).sqrt()


def _move(denoiser: Denoises, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """`y + (r_s - r_t) * eps`, times `alpha_s`."""
    alpha_t, sigma_t = denoiser.schedule(t)
    alpha_s, sigma_s = denoiser.schedule(s)
    scale = alpha_s / alpha_t
    return (scale * x + (sigma_s - scale * sigma_t) * eps).to(x.dtype)
