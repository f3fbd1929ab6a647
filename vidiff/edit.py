"""Generating and extending clips: masks over the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vidiff.codec import Codec
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.process import draw_noise
from vidiff.diffusion.schedule import time_grid
from vidiff.sample import Sampler, start


@dataclass(frozen=True)
class Draw:
    """How latents are drawn: everything but what is asked for.

    Args:
        denoiser: a trained model.
        sampler: any of `vidiff.sample.SAMPLERS`.
        steps: of the sampler.
        guidance: scale of classifier-free guidance on the label; 1 is the plain model.
        window: frames that the model makes at once.
        generator: where all noise comes from.
        progress: show a bar.
        lag: steps by which each new frame follows the one before, which is then cleaner and guides it; 0 draws all at
            once.
        history: where frames are known, scale of guidance on them and the label at once, in place of `guidance`.
        dtype: of the network's arithmetic, under autocast.
    """

    denoiser: Denoises
    sampler: Sampler
    steps: int
    guidance: float
    window: int
    generator: torch.Generator
    progress: bool = False
    lag: int = 0
    history: float | None = None
    dtype: torch.dtype = torch.float32

    def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition) -> Tensor:
        """Draw one window of latents.

        Args:
            frames: `(b, c, f, h, w)`; gives the shape, and the content wherever `known` is true.
            known: bool, broadcastable to `(b, 1, f, h, w)`; None where nothing is known.

        Returns:
            `(b, c, f, h, w)`, bit for bit `frames` where known.
        """
        schedule = self.denoiser.schedule
        times = time_grid(schedule, self.steps)
        if self.lag:
            given = torch.zeros(1, dtype=torch.bool) if known is None else known.flatten(3).all(3).all(0).flatten()
            times = lagged(times, given.cpu().expand(frames.shape[2]), self.lag)
        denoiser: Denoises = self.denoiser
        known = None if known is None else known.to(frames.device)
        if known is not None and self.history is not None:
            denoiser = ClassifierFree(denoiser, self.history, history=known, generator=self.generator)
        elif condition.label is not None and (condition.label >= 0).any():  # else both branches would be the same
            denoiser = ClassifierFree(denoiser, self.guidance)
        if known is not None:
            denoiser = Known(denoiser, frames, known, generator=self.generator)
        x = start(schedule, draw_noise(frames, self.generator), times)
        with torch.autocast(frames.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.sampler(denoiser, x, condition, times, self.generator, progress=self.progress)


def lagged(times: Tensor, known: Tensor, lag: int) -> Tensor:
    """A clock for each frame: the grid `times`, begun `lag` steps later by each unknown frame than by the one before.

    The rolling draw of Ruhe et al. 2024 (rolling diffusion, section 3), within one window. A model must have been
    trained for clocks that rise along the frames (`tasks.rising`).

    Args:
        times: `(n + 1,)`, falling.
        known: bool `(f,)`; known frames have the clock of the first unknown one, which no one looks at.

    Returns:
        `(n + lag * (u - 1) + 1, f)` for u unknown frames.
    """
    place = ((~known).cumsum(0) - 1).clamp(min=0)  # f
    step = torch.arange(len(times) + lag * int(place.max()))[:, None] - lag * place  # steps f
    return times[step.clamp(0, len(times) - 1)]


def latents(
    draw: Draw, past: Tensor, frames: int, context: int, condition: Condition, shape: tuple[int, ...]
) -> Iterator[Tensor]:
    """Draw `frames` latent frames, window by window, each continuing from the last `context` frames before it.

    Args:
        past: `(b, c, p, h, w)` that the first window continues; p may be 0.
        shape: `(b, c, h, w)` of a latent frame.

    Yields:
        `(b, c, n, h, w)`, `frames` in sum over n. Memory does not grow with `frames`.

    Raises:
        ValueError: where the context fills a window.
    """
    batch, channels, height, width = shape
    while frames > 0:
        past = past[:, :, max(past.shape[2] - context, 0) :]
        given = past.shape[2]
        if given >= draw.window:
            raise ValueError(f"context is {context}; windows of {draw.window} frames then have no room for new ones")
        count = min(draw.window, given + frames) if given == 0 else draw.window
        window = past.new_zeros(batch, channels, count, height, width)
        window[:, :, :given] = past
        window = draw(window, first_frames(count, given) if given else None, condition)
        made = window[:, :, given : given + frames]
        frames -= made.shape[2]
        past = window
        yield made


def generate(
    draw: Draw,
    codec: Codec,
    frames: int,
    size: tuple[int, int],
    context: int,
    condition: Condition,
    count: int,
) -> Iterator[Tensor]:
    """Draw `count` clips of `frames` frames and `size` (height, width) pixels.

    Yields:
        `(count, 3, n, height, width)` in [-1, 1], `frames` in sum over n.
    """
    shape = (count, codec.channels, size[0] // codec.factor, size[1] // codec.factor)
    past = torch.zeros(count, codec.channels, 0, *shape[2:], device=codec.shift.device)
    for z in latents(draw, past, frames, context, condition, shape):
        yield codec.decode(z)


def extend(draw: Draw, codec: Codec, clip: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
    """Continue `clip` `(b, 3, p, h, w)` in [-1, 1] by `frames` new frames.

    Previous frames condition each window (Ho et al. 2022, video diffusion models, section 3.1, with a trained clock in
    place of replacement). Only the last `context` frames of `clip` are looked at.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n.
    """
    past = codec.encode(clip[:, :, max(clip.shape[2] - context, 0) :]).mean
    shape = (past.shape[0], past.shape[1], *past.shape[3:])
    for z in latents(draw, past, frames, context, condition, shape):
        yield codec.decode(z)
