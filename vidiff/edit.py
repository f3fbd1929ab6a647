"""Generating, extending and editing clips: every task is a mask over the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vidiff.codec import Codec
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import Known, end_frames, first_frames
from vidiff.diffusion.process import add_noise, draw_noise
from vidiff.diffusion.schedule import time_grid
from vidiff.masks import check_pixels, hide, known_latents
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
        replace: show a known part of a frame at the time of the rest of it, for a model trained on whole frames alone
            (Lugmayr et al. 2022, RePaint, eq. 8); frames that are wholly known are shown clean all the same.
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
    replace: bool = False

    def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition, strength: float = 1.0) -> Tensor:
        """Draw one window of latents.

        Args:
            frames: `(b, c, f, h, w)`; gives the shape, and the content wherever `known` is true.
            known: bool, broadcastable to `(b, 1, f, h, w)`; None where nothing is known.
            strength: the time at which drawing begins, from the noised `frames` (Meng et al. 2022, SDEdit, section 3);
                from the grid's first time on, it begins from pure noise, and before its last, nothing is drawn.

        Returns:
            `(b, c, f, h, w)`, bit for bit `frames` where known.
        """
        schedule = self.denoiser.schedule
        times = time_grid(schedule, self.steps)
        begin = times.new_tensor(strength)
        if begin <= times[-1]:
            return frames
        partial = bool(begin < times[0])
        if partial:
            times = torch.cat([begin[None], times[times < begin]])
        if self.lag:
            given = torch.zeros(1, dtype=torch.bool) if known is None else known.flatten(3).all(3).all(0).flatten()
            times = lagged(times, given.cpu().expand(frames.shape[2]), self.lag)
        denoiser: Denoises = self.denoiser
        known = None if known is None else known.to(frames.device)
        part: Tensor | None = None
        if known is not None and self.replace:
            whole = known.flatten(3).all(3)[..., None, None]  # b 1 f 1 1
            part = known if bool((known != whole).any()) else None
            known = whole if bool(whole.any()) else None
        if known is not None and self.history is not None:
            denoiser = ClassifierFree(denoiser, self.history, history=known, generator=self.generator)
        elif condition.label is not None and (condition.label >= 0).any():  # else both branches would be the same
            denoiser = ClassifierFree(denoiser, self.guidance)
        if known is not None:
            denoiser = Known(denoiser, frames, known, generator=self.generator)
        if part is not None:
            denoiser = Known(denoiser, frames, part, replace=True, generator=self.generator)
        noise = draw_noise(frames, self.generator)
        x = add_noise(schedule, frames, noise, begin).to(frames.dtype) if partial else start(schedule, noise, times)
        with torch.autocast(frames.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.sampler(denoiser, x, condition, times, self.generator, progress=self.progress)


class Backwards(Draw):
    """A `Draw` of latents given and returned from the last frame to the first; the model sees them forwards."""

    def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition, strength: float = 1.0) -> Tensor:
        known = None if known is None else known.flip(2)
        return super().__call__(frames.flip(2), known, condition, strength).flip(2)


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


def extend(
    draw: Draw,
    codec: Codec,
    clip: Tensor,
    frames: int,
    context: int,
    condition: Condition,
    backwards: bool = False,
) -> Iterator[Tensor]:
    """Continue `clip` `(b, 3, p, h, w)` in [-1, 1] by `frames` new frames.

    Previous frames condition each window (Ho et al. 2022, video diffusion models, section 3.1, with a trained clock in
    place of replacement). Only the last `context` frames of `clip` are looked at; of one frame, this is image to video.

    Args:
        backwards: continue it into its past, from its first `context` frames.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n; backwards, the latest come first.
    """
    near = clip[:, :, :context] if backwards else clip[:, :, max(clip.shape[2] - context, 0) :]
    past = codec.encode(near.to(codec.shift)).mean
    shape = (past.shape[0], past.shape[1], *past.shape[3:])
    if not backwards:
        for z in latents(draw, past, frames, context, condition, shape):
            yield codec.decode(z)
        return
    for z in latents(Backwards(**vars(draw)), past.flip(2), frames, context, condition, shape):
        yield codec.decode(z.flip(2))


def fill(draw: Draw, frames: Tensor, known: Tensor, context: int, condition: Condition) -> Iterator[Tensor]:
    """Draw what is unknown of latents of any length, window by window, each knowing `context` frames of the one before.

    Where nothing is known this is `latents`. The last window may reach past the end; what is made there is dropped.

    Args:
        frames: `(b, c, f, h, w)`, the content wherever `known` is true.
        known: bool, broadcastable to `(b, 1, f, h, w)`.

    Yields:
        `(b, c, n, h, w)`, f in sum over n; bit for bit `frames` where known.

    Raises:
        ValueError: where the context fills a window.
    """
    if context >= draw.window:
        raise ValueError(f"context is {context}; windows of {draw.window} frames then have no room for new ones")
    total = frames.shape[2]
    size = draw.window if known.any() else min(draw.window, total)
    known = known.expand(-1, -1, total, -1, -1)
    past = frames[:, :, :0]
    for begin in range(0, max(total - context, 1), draw.window - context):
        given, count = past.shape[2], min(size, total - begin)
        window = frames.new_zeros(*frames.shape[:2], size, *frames.shape[3:])
        mask = known.new_zeros(*known.shape[:2], size, *known.shape[3:])
        window[:, :, :count], mask[:, :, :count] = (x[:, :, begin : begin + count] for x in (frames, known))
        window[:, :, :given], mask[:, :, :given] = past, True
        if not mask[:, :, :count].all():
            window = draw(window, mask if mask.any() else None, condition)
        past = window[:, :, size - context :]
        yield window[:, :, given:count]


def inpaint(
    draw: Draw, codec: Codec, clip: Tensor, mask: Tensor, context: int, condition: Condition
) -> Iterator[Tensor]:
    """Make new content wherever `mask` is true, and leave every other pixel as it is, bit for bit.

    Latents that the mask touches, or whose neighbours it touches, are drawn anew with the rest known (Lugmayr et al.
    2022, RePaint, with a trained clock in place of replacement); then the known pixels are put back. What the clip
    holds under the mask is not looked at.

    Args:
        clip: `(b, 3, f, h, w)` in [-1, 1]; longer than a window, it is drawn window by window.
        mask: bool, in pixels: `(1 or b, 1, 1 or f, h, w)`; 1 for h and w means whole frames.
        context: made frames that are known to the next window.

    Yields:
        `(b, 3, n, h, w)`, f in sum over n.

    Raises:
        ValueError: a mask of another size or type; a context that fills a window.
    """
    check_pixels(mask, clip)
    mask = mask.to(clip.device)
    if not mask.any():
        yield clip
        return
    frames = codec.encode(hide(clip.to(codec.shift), mask.to(codec.shift.device))).mean
    known = known_latents(mask, (clip.shape[3], clip.shape[4]), codec.factor)
    mask = mask.expand(-1, -1, clip.shape[2], -1, -1)
    begin = 0
    for z in fill(draw, frames, known, context, condition):
        end = begin + z.shape[2]
        yield torch.where(mask[:, :, begin:end], codec.decode(z).to(clip), clip[:, :, begin:end])
        begin = end


def interpolate(
    draw: Draw, codec: Codec, first: Tensor, last: Tensor, between: int, context: int, condition: Condition
) -> Tensor:
    """Make `between` frames that lead from `first` to `last`, each `(b, 3, f, h, w)` in [-1, 1] with an f of its own.

    Of both, the nearest `context` frames are looked at. With one clip as `first` and `last`, the new frames lead from
    its end to its beginning: a loop.

    Returns:
        the new frames, `(b, 3, between, h, w)`.

    Raises:
        ValueError: no new frames, or more frames than fit one window.
    """
    first, last = first[:, :, max(first.shape[2] - context, 0) :], last[:, :, :context].to(first)
    ends = first.shape[2], last.shape[2]
    total = ends[0] + between + ends[1]
    if between < 1 or total > draw.window:
        raise ValueError(
            f"between is {between}, with {ends[0]} given frames before and {ends[1]} after it: ask for 1 or more, and "
            f"for {draw.window} in all at the most, which the model sees at once; or for less context"
        )
    clip = torch.cat([first, first.new_zeros(*first.shape[:2], between, *first.shape[3:]), last], dim=2)
    made = torch.cat(list(inpaint(draw, codec, clip, ~end_frames(total, *ends), context, condition)), dim=2)
    return made[:, :, ends[0] : ends[0] + between]


def double(draw: Draw, codec: Codec, clip: Tensor, context: int, condition: Condition) -> Iterator[Tensor]:
    """Make a new frame between every two of `clip` `(b, 3, f, h, w)` in [-1, 1], window by window.

    Yields:
        `(b, 3, n, h, w)`, 2 f - 1 in sum over n; every other frame is the clip's, bit for bit.

    Raises:
        ValueError: a clip of one frame.
    """
    if clip.shape[2] < 2:
        raise ValueError("the clip has 1 frame, with nothing between it and the next: give 2 or more")
    twice = clip.repeat_interleave(2, dim=2)[:, :, :-1]
    odd = (torch.arange(twice.shape[2]) % 2 == 1).view(1, 1, -1, 1, 1)
    return inpaint(draw, codec, twice, odd, context, condition)


def edit(
    draw: Draw, codec: Codec, clip: Tensor, strength: float, context: int, condition: Condition
) -> Iterator[Tensor]:
    """Noise `clip` to the diffusion time `strength` and draw it from there (Meng et al. 2022, SDEdit, section 3).

    A clip longer than a window is drawn window by window; the last of them moves back to end with the clip.

    Args:
        clip: `(b, 3, f, h, w)` in [-1, 1].
        strength: 0 is the clip, as the codec returns it; 1 keeps nothing of it. What lies between depends on the
            schedule.
        context: made frames that are known to the next window.

    Yields:
        `(b, 3, n, h, w)`, f in sum over n.

    Raises:
        ValueError: a strength outside [0, 1]; a context that fills a window.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is {strength}; give 0, which keeps the clip, to 1, which keeps nothing of it")
    if context >= draw.window:
        raise ValueError(f"context is {context}; windows of {draw.window} frames then have no room for new ones")
    z = codec.encode(clip.to(codec.shift)).mean
    total, size, end = z.shape[2], min(draw.window, z.shape[2]), 0
    while end < total:
        begin = min(max(end - context, 0), total - size)
        window = slice(begin, begin + size)
        known = first_frames(size, end - begin) if end else None
        z[:, :, window] = draw(z[:, :, window].contiguous(), known, condition, strength)
        yield codec.decode(z[:, :, end : begin + size]).to(clip)
        end = begin + size
