"""The sampler of consistency models: each step goes all the way to the data, and back to less noise."""

from __future__ import annotations

from torch import Tensor, where

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.process import draw_noise
from vidiff.sample.base import Sampler, State


class MultistepConsistency(Sampler):
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): `x_s = alpha_s x0 + sigma_s eps` with new noise.

    It is for students of the objectives `consistency` and `consistency_training`, whose `x0` is the end of the
    probability-flow ODE, and of `distribution_matching`, whose `x0` is as likely a clip; of any other model
    `x0` is a mean over all ends, and comes out blurred.
    """

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        x0 = denoiser(x, t, condition).x0
        alpha, sigma = denoiser.schedule(s)
        moved = alpha * x0 + sigma * draw_noise(x, state.generator)
        return where(s < t, moved, x).to(x.dtype), state
