"""Solvers that use the estimates of earlier steps: higher order at one evaluation a step."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.sample.base import Sampler, State


class DPMSolverPP2M(Sampler):
    """DPM-Solver++(2M), second order (Lu et al. 2022, algorithm 2); the first step is first order.

    In a grid with a clock for each frame, a frame's first step is first order too.
    """

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        schedule = denoiser.schedule
        x0 = denoiser(x, t, condition).x0
        (_, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        h = 0.5 * (schedule.log_snr(s) - schedule.log_snr(t))  # lambda is half the log-SNR
        slope = x0
        if state.memory:
            before, h_before = state.memory["x0"], state.memory["h"]
            weight = torch.where(h_before > 0, 0.5 * h / h_before.clamp(min=1e-12), 0.0)
            slope = x0 + weight * (x0 - before)
        moved = sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * slope
        return moved.to(x.dtype), State(state.generator, {"x0": x0, "h": h})
