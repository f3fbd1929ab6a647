"""A sampler that goes back: each step is undone by noise and taken again, so that known content comes to bear."""

from __future__ import annotations

from torch import Tensor, where

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.interval import Span
from vidiff.diffusion.process import draw_noise, transition
from vidiff.sample.base import Sampler, State


class Resampled(Sampler):
    """Another sampler's step, taken `count` times: in between, what it made is noised back to where it began (Lugmayr
    et al. 2022, RePaint, algorithm 1, with a jump length of 1).

    It is for content that is shown at the sampler's own time, `Known(..., replace=True)`: what is unknown then follows
    it late, and only what has been drawn often enough agrees with it. A multistep sampler forgets its history wherever
    time goes back, so that of the steps at one place only the first is of its full order.

    Args:
        count: times that each step is taken; 1 is the sampler itself, at `count` times its cost.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, sampler: Sampler, count: int) -> None:
        if count < 1:
            raise ValueError(f"count = {count} must be at least 1, which takes each step once")
        self.sampler, self.count = sampler, count
        self.evaluations = None if sampler.evaluations is None else count * sampler.evaluations

    def span(self, first: Span, last: Span) -> Span:
        return self.sampler.span(first, last)

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        moved, after = self.sampler.step(denoiser, x, t, s, condition, state)
        scale, variance = transition(denoiser.schedule, t, s)
        for _ in range(self.count - 1):
            again = scale * moved + variance.sqrt() * draw_noise(x, state.generator)
            x = where(s < t, again, x).to(x.dtype)
            moved, after = self.sampler.step(denoiser, x, t, s, condition, State(state.generator, left=state.left))
        return moved, after
