"""Samplers that walk at random along the score: annealed Langevin dynamics, and as a corrector after another's step."""

from __future__ import annotations

from torch import Tensor, where

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, eps_from
from vidiff.diffusion.interval import Span
from vidiff.diffusion.process import draw_noise
from vidiff.sample.ancestral import DDIM, DDPM
from vidiff.sample.base import Sampler, State
from vidiff.sample.ode import Euler
from vidiff.sample.sde import EulerMaruyama

PREDICTORS = {"ddim": DDIM, "ddpm": DDPM, "euler": Euler, "euler_maruyama": EulerMaruyama}


class Langevin(Sampler):
    """Annealed Langevin dynamics: at each noise level, some steps along the score (Song & Ermon 2019, algorithm 1).

    Where alpha changes from level to level, `x / alpha` stays. It asks `iterations` evaluations a step, and for many
    levels: what is wrong in variance falls with `step`, and how far each level mixes grows with `step * iterations`.

    Args:
        iterations: steps at each noise level.
        step: length of a step in units of `sigma^2`; the paper's is 0.2.

    Raises:
        ValueError: no iterations, or a step outside (0, 2], beyond which it diverges.
    """

    def __init__(self, iterations: int = 10, step: float = 0.5) -> None:
        if iterations < 1:
            raise ValueError(f"iterations = {iterations} must be at least 1")
        self.iterations, self.length = iterations, _checked(step)
        self.evaluations = iterations

    def span(self, first: Span, last: Span) -> Span:
        return last

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        (alpha_t, _), (alpha_s, _) = denoiser.schedule(t), denoiser.schedule(s)
        moved = (alpha_s / alpha_t * x).to(x.dtype)
        for _ in range(self.iterations):
            moved = _walk(denoiser, moved, s, condition, self.length, state)
        return where(s < t, moved, x), state


class PredictorCorrector(Sampler):
    """Another sampler's step, then some of Langevin's at the new noise level (Song et al. 2021, algorithms 2 to 5).

    The paper scales the corrector's step by the norms of noise and score over the batch; here it is their expectation,
    `step = 4 snr^2` in units of `sigma^2`, so that samples of one batch do not depend on each other.

    Args:
        predictor: "euler_maruyama", "ddpm", "ddim" or "euler".
        iterations: of the corrector, a step.
        step: as for `Langevin`; the paper's `snr = 0.16` is 0.1.

    Raises:
        ValueError: an unknown predictor, no iterations, or a step outside (0, 2].
    """

    def __init__(self, predictor: str = "euler_maruyama", iterations: int = 1, step: float = 0.05) -> None:
        if iterations < 1:
            raise ValueError(f"iterations = {iterations} must be at least 1; for none use {predictor!r} itself")
        self.predictor: Sampler = choose("predictor", predictor, PREDICTORS)()
        self.iterations, self.length = iterations, _checked(step)
        self.evaluations = iterations + 1

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        moved, state = self.predictor.step(denoiser, x, t, s, condition, state)
        for _ in range(self.iterations):
            moved = _walk(denoiser, moved, s, condition, self.length, state)
        return where(s < t, moved, x), state


def _walk(denoiser: Denoises, x: Tensor, t: Tensor, condition: Condition, length: float, state: State) -> Tensor:
    """`x + length sigma^2 / 2 * score + sqrt(length) sigma * noise`, which keeps the distribution at `t` as it is."""
    _, sigma = denoiser.schedule(t)
    eps = eps_from(denoiser.schedule, denoiser(x, t, condition).x0, x, t)
    noise = draw_noise(x, state.generator)
    return (x + sigma * (length**0.5 * noise - 0.5 * length * eps)).to(x.dtype)


def _checked(step: float) -> float:
    if not 0.0 < step <= 2.0:
        raise ValueError(f"step = {step} is outside (0, 2], in units of sigma^2; 0.2 is usual")
    return step
