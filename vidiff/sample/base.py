"""The sampling loop, which all samplers share: a sampler is one step from time `t` to an earlier `s`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.interval import Span, foretold, spans
from vidiff.diffusion.schedule import Schedule


@dataclass(frozen=True)
class State:
    """The state that a sampler carries from step to step.

    Args:
        generator: where its noise comes from.
        memory: what a multistep sampler keeps of earlier steps; empty at the first. A tensor `(b, c, f, h, w)`, or what
            has a `slide` of its own.
        left: steps that each clock will still take after this one, like the times and on the CPU; None where that is
            not known.
    """

    generator: torch.Generator | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    left: Tensor | None = None

    def slide(self, drop: int, add: int) -> State:
        """The state of a window that has moved on: without its first `drop` frames, and with `add` new ones at its end,
        of which nothing is remembered."""
        moved = {
            name: slid(kept, drop, add) if isinstance(kept, Tensor) else kept.slide(drop, add)
            for name, kept in self.memory.items()
        }
        return replace(self, memory=moved)


class Sampler:
    """A way from noise to data: subclasses give `step`, and calling one runs it along a grid. One whose steps ask at
    other times than `span` has it gives that, too.

    Attributes:
        evaluations: of the denoiser, in each step; None where it takes as many as it needs. After the last step there
            is one more, so that `n` times cost `(n - 1) * evaluations + 1`.
    """

    evaluations: int | None = 1

    def step(
        self, denoiser: Denoises, x: Tensor, t: Tensor, s: Tensor, condition: Condition, state: State
    ) -> tuple[Tensor, State]:
        """Take `x` from time `t` to `s <= t`. Both have the rank of `x`; where they are equal, `x` stays."""
        raise NotImplementedError

    def span(self, first: Span, last: Span) -> Span:
        """Where the times lie at which a step asks, of those at which it begins and at which it ends."""
        return first if self.evaluations == 1 else (last[0], first[1])

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoises,
        x: Tensor,
        condition: Condition,
        times: Tensor,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Run along `times` and return the denoiser's `x0` at the last of them.

        Args:
            x: `(b, c, f, h, w)` at noise level `times[0]`; `start` makes one of pure noise.
            times: `(n + 1,)`, or `(n + 1, f)` for a clock of each frame's own, falling.
            generator: for samplers that add noise.
            progress: show a bar.

        Raises:
            ValueError: times outside [0, 1], that rise, stand still, or do not fit the frames.
        """
        grid = [denoiser.schedule.clock(t, condition) for t in frame_times(times, x)]
        there = torch.stack(grid).cpu()
        asked = spans(there)
        along = [self.span(first, last) for first, last in pairwise(asked)]
        state, steps = State(generator), list(zip(pairwise(grid), steps_left(there), along, strict=True))
        with foretold(denoiser) as timed:
            for (t, s), left, span in tqdm(steps, disable=not progress, desc="sampling", leave=False):
                for part in timed:
                    part.span = span
                x, state = self.step(denoiser, x, t, s, condition, replace(state, left=left))
            for part in timed:
                part.span = asked[-1]
            return denoiser(x, grid[-1], condition).x0


def slid(kept: Tensor, drop: int, add: int, fill: float = 0.0) -> Tensor:
    """`(b, c, f, h, w)` without its first `drop` frames, and with `add` frames of `fill` at its end."""
    new = kept.new_full((*kept.shape[:2], add, *kept.shape[3:]), fill)
    return torch.cat([kept[:, :, drop:], new], dim=2)


def frame_times(times: Tensor, x: Tensor) -> list[Tensor]:
    """Check a grid and give each of its times the rank of `x`: `(1, 1, f, 1, 1)`, or all ones for a common
    clock.

    Raises:
        ValueError: as `Sampler.__call__`.
    """
    frames = x.shape[2] if x.ndim > 2 else 1
    if times.ndim not in (1, 2) or len(times) < 1 or (times.ndim == 2 and times.shape[1] != frames):
        raise ValueError(f"times of shape {tuple(times.shape)} must be (n + 1,) or (n + 1, {frames}), one a frame")
    low, high = float(times.min()), float(times.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"time {high if low >= 0.0 else low:g} is outside [0, 1]; 0 is data and 1 is noise")
    change = times.reshape(len(times), -1).diff(dim=0)  # n, 1 or f
    if (change > 0).any():
        number = int((change > 0).any(1).nonzero()[0])
        raise ValueError(
            f"times must fall, but rise from step {number} to {number + 1}: "
            f"{times[number].tolist()} to {times[number + 1].tolist()}; is the grid reversed?"
        )
    if (change == 0).all(1).any():
        number = int((change == 0).all(1).nonzero()[0])
        raise ValueError(f"times stand still from step {number} to {number + 1} at {times[number].tolist()}")
    dtype = torch.promote_types(torch.promote_types(times.dtype, x.dtype), torch.float32)
    shape = [1] * x.ndim
    if times.ndim == 2:
        shape[2] = frames
    return list(times.to(x.device, dtype).reshape(-1, *shape))  # n + 1 of (1, 1, f, 1, 1)


def steps_left(grid: Tensor) -> list[Tensor]:
    """Of each step along a checked grid on the CPU, how many more each clock takes after it, like the times."""
    moves = (grid.diff(dim=0) < 0).long()  # n 1 1 f 1 1, or n of ones
    return list((moves.flip(0).cumsum(0).flip(0) - moves).unbind(0))


def start(schedule: Schedule, noise: Tensor, times: Tensor, condition: Condition | None = None) -> Tensor:
    """Where sampling from nothing starts: standard normal `noise` scaled to the noise level of `times[0]`."""
    _, sigma = schedule(schedule.clock(frame_times(times[:1], noise)[0], condition or Condition()))
    return (sigma * noise).to(noise.dtype)
