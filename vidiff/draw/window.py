"""Windows: how a video is walked over by them, and how one is drawn, by the sampler and the model as it is guided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from vidiff.diffusion.classifier_guidance import Classifier
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.known import Held, Known, first_frames
from vidiff.diffusion.process import add_noise, draw_noise, expand_time
from vidiff.draw.guide import Guide
from vidiff.nn.cast import low_weights
from vidiff.sample import DDIM, Sampler, invert, start


@dataclass(frozen=True)
class Window:
    """Frames of a video that are drawn at once.

    Args:
        first: the number of the first of them.
        known: how many there were before, at the beginning of the window.
        new: how many follow, which it adds.
    """

    first: int
    known: int
    new: int

    @property
    def begin(self) -> int:
        """The number of the first new frame."""
        return self.first + self.known

    @property
    def end(self) -> int:
        """The number of the frame after its last."""
        return self.first + self.known + self.new


def windows(
    size: int,
    frames: int | Callable[[int], int],
    context: int,
    done: int = 0,
    *,
    unit: int = 1,
    back: bool = False,
) -> Iterator[Window]:
    """Walk over a video window by window, each looking back on the last frames before those that it adds.

    Args:
        size: frames that fit a window.
        frames: of the whole video. Or, of one that comes piece by piece, what reads on until a number of frames is
            there, or else to its end, and returns how many there are.
        context: how many frames each window looks back on, as far as there are that many.
        done: frames that are there from the start.
        unit: known frames are a multiple of it, and one more.
        back: the last window moves back to end with the video, and knows more; else it may end before it is full.

    Raises:
        ValueError: where the context fills a window.
    """
    check_context(context, size)
    while True:
        known = min(done, context)
        known -= (known - 1) % unit if known else 0
        there = frames(done - known + size) if callable(frames) else frames
        if there <= done:
            return
        new = min(size - known, there - done)
        if back:
            known = min(size - new, done)
        yield Window(done - known, known, new)
        done += new


def spans(known: Sequence[bool], size: int, context: int, unit: int = 1, ahead: int | None = None) -> Iterator[Window]:
    """Walk over a video of which some frames are known, so that each stretch of unknown ones is led to what follows it.

    As `windows`, where nothing is known. But a window that would end within a stretch, and not see the known frames
    after it, adds fewer frames, so that the last of the stretch come in one window with known frames behind it: `ahead`
    of these, but in no more than half of the room that the context leaves.

    Args:
        known: whether each frame is known.
        size, context, unit: as of `windows`.
        ahead: known frames behind a stretch that are looked at; by default as many as the context.

    Raises:
        ValueError: where the context fills a window.
    """
    check_context(context, size)
    total, done, ahead = len(known), 0, context if ahead is None else ahead
    while done < total:
        given = min(done, context)
        given -= (given - 1) % unit if given else 0
        end = min(done - given + size, total)
        if end < total and not known[end - 1]:
            after = next((n for n in range(end, total) if known[n]), total)  # the first known frame after the stretch
            seen = next((n for n in range(after, total) if not known[n]), total) - after
            room = size - context
            last = max(room - min(seen, ahead, room // 2), 1)  # frames of the stretch in the window that ends it
            begin = next((n + 1 for n in range(end - 1, done - 1, -1) if known[n]), done)
            if after < total:
                end = max(min(end, after - last), begin, done + 1)
        yield Window(done - given, given, end - done)
        done = end


def check_context(context: int, size: int) -> None:
    """Raises ValueError where `context` frames fill a window of `size`."""
    if context >= size:
        raise ValueError(f"context is {context}; windows of {size} frames then have no room for new ones")


@dataclass(frozen=True)
class Source:
    """A window of a clip that is to be drawn anew from its own noise.

    Args:
        frames: its latents, `(b, c, f, h, w)`.
        condition: what it shows.
        iterations: evaluations of the model, a step, by which its noise is found.
    """

    frames: Tensor
    condition: Condition
    iterations: int


@dataclass(frozen=True)
class Draw:
    """A way of drawing latents: everything but what is asked for.

    Args:
        denoiser: a trained model.
        sampler: any of `vidiff.sample.SAMPLERS`.
        steps: times at which the sampler asks the denoiser.
        guidance: scale of classifier-free guidance on label and text; 1 is the plain model.
        window: frames that the model makes at once.
        generator: where all noise comes from.
        progress: show a bar.
        lag: steps by which each new frame follows the one before, which is then cleaner and guides it; 0 draws all at
            once.
        history: where frames are known, scale of guidance on them, label and text at once, in place of `guidance`.
        dtype: of the network's arithmetic, under autocast.
        replace: show a known part of a frame at the time of the rest of it, for a model trained on whole frames alone
            (Lugmayr et al. 2022, RePaint, eq. 8); frames that are wholly known are shown clean all the same.
        guide: what guidance does besides its scales.
        classifier: of noised latents; its gradient then stands for the label, which the model is not told.
        classifier_scale: of that gradient; 0 tells the model the label after all.
        show: `(denoiser, frames, mask, generator=...) -> denoiser`, how wholly known frames are shown to the model.
        longest: stride between frames that the model was trained up to, in source frames; None where it is not known.
        grid: how the times of the sampler's steps are spaced.
        distilled: the model is a student, which is told the scale of guidance.
        half: log-SNR at which the model knows half of a clip of which nothing is given (`half_known`), which the times
            of such draws follow; None where that was not measured.
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
    guide: Guide = field(default_factory=Guide)
    classifier: Classifier | None = None
    classifier_scale: float = 0.0
    show: Callable[..., Denoises] = Known
    longest: int | None = None
    grid: Grid = field(default_factory=Grid)
    distilled: bool = False
    half: float | None = None

    def copy(self) -> Draw:
        """The same, with noise of its own, which begins as what is still to come of this one's."""
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        return replace(self, generator=generator)

    def times(self, count: int | None = None, free: bool = False) -> Tensor:
        """The falling times of a draw, `(steps,)`, or `(count,)`; `free` if it begins from noise and knows no frame.
        Raises ValueError as `Grid`."""
        grid = self.grid.measured(self.half) if free else self.grid
        return grid(self.denoiser.schedule, self.steps if count is None else count)

    def told(self, condition: Condition) -> Condition:
        """What the network is told: not the label, where a classifier stands for it."""
        judged = self.classifier is not None and self.classifier_scale
        return condition.without("label") if judged else condition

    def guided(self, known: Tensor | None, condition: Condition) -> Denoises:
        """The model as it is guided to `condition` in a window of which the frames of `known` are known."""
        asked = self.told(condition)
        denoiser: Denoises
        if self.distilled:
            denoiser = self.guide.told(self.denoiser, self.guidance, self.history, known)
        else:
            denoiser = self.guide.scaled(self.denoiser, asked, self.guidance, self.history, known, self.generator)
        if self.classifier is not None and condition.label is not None:
            denoiser = self.guide.judged(denoiser, self.classifier, condition.label, self.classifier_scale)
        return self.guide.bounded(denoiser)

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """The context in which the network computes: its weights are cast once, and not at each step."""
        network = self.denoiser if isinstance(self.denoiser, nn.Module) else nn.Module()
        autocast = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        with low_weights(network, device, self.dtype), autocast:
            yield

    def __call__(
        self,
        frames: Tensor,
        known: Tensor | None,
        condition: Condition,
        strength: float = 1.0,
        doubt: Tensor | None = None,
    ) -> Tensor:
        """Draw one window of latents.

        Args:
            frames: `(b, c, f, h, w)`; gives the shape, and the content wherever `known` is true.
            known: bool, broadcastable to `(b, 1, f, h, w)`; None where nothing is known.
            strength: the time at which drawing begins, from the noised `frames` (Meng et al. 2022, SDEdit, section 3);
                from the grid's first time on, it begins from pure noise, and before its last, nothing is drawn.
            doubt: of what is not known for sure, by how much `frames` may be off; infinite where they tell nothing.
                Broadcastable as `known`; None where all doubt is infinite.

        Returns:
            `(b, c, f, h, w)`, bit for bit `frames` where known.
        """
        schedule = self.denoiser.schedule
        times, partial = self._from(strength, free=known is None and doubt is None and strength >= 1.0)
        if not len(times):
            return frames
        denoiser, clocks = self._shown(frames, known, condition, times)
        if doubt is not None:
            until = torch.where(doubt.isfinite(), schedule.time_of(-2 * doubt.log()), 1.0).to(frames)
            until = until if known is None else until.where(~known.to(until.device), 1.0)
            at_once = self.replace and until.shape[3:] != (1, 1)
            denoiser = Held(denoiser, frames, until, replace=at_once, generator=self.generator)
        noise = draw_noise(frames, self.generator)
        if partial:
            begin = schedule.clock(expand_time(times[0], frames), condition)
            x = add_noise(schedule, frames, noise, begin).to(frames.dtype)
        else:
            x = start(schedule, noise, clocks, condition)
        with self.arithmetic(frames.device):
            return self.sampler(denoiser, x, self.told(condition), clocks, self.generator, progress=self.progress)

    def again(
        self, frames: Tensor, known: Tensor | None, condition: Condition, strength: float, source: Source
    ) -> Tensor:
        """Draw one window anew from the noise out of which the model makes it, as the plain model and DDIM have it.

        Args:
            frames, known, condition, strength: as for a call; the sampler is DDIM, whatever the draw's own.
            source: what is there now.

        Returns:
            `(b, c, f, h, w)`, bit for bit `frames` where known; and all over what `source` holds, as far as the
            inversion has converged, where that is `frames` and `condition` as well, and guidance is 1.
        """
        times, _ = self._from(strength)
        if not len(times):
            return frames
        plain = replace(self, history=None, classifier_scale=0.0)
        if not self.distilled:  # a student knows no scale but those that it was told
            plain = replace(plain, guidance=1.0, guide=self.guide.unscaled)
        denoiser, clocks = plain._shown(source.frames, known, source.condition, times)
        with self.arithmetic(frames.device):
            x = invert(denoiser, source.frames, source.condition, clocks, source.iterations, self.progress)
        denoiser, _ = self._shown(frames, known, condition, times)
        with self.arithmetic(frames.device):
            return DDIM()(denoiser, x, self.told(condition), clocks, progress=self.progress)

    def _from(self, strength: float, free: bool = False) -> tuple[Tensor, bool]:
        """The falling times of a draw that begins at the time `strength`, none where that comes too late for any; and
        whether it begins later than from pure noise."""
        times = self.times(free=free)
        begin = times.new_tensor(strength)
        if begin <= times[-1]:
            return times[:0], True
        partial = bool(begin < times[0])
        return (torch.cat([begin[None], times[times < begin]]) if partial else times), partial

    def _shown(
        self, frames: Tensor, known: Tensor | None, condition: Condition, times: Tensor
    ) -> tuple[Denoises, Tensor]:
        """The guided model, shown what is known, and the times of the frames."""
        if self.lag:
            given = torch.zeros(1, dtype=torch.bool) if known is None else known.flatten(3).all(3).all(0).flatten()
            times = lagged(times, given.cpu().expand(frames.shape[2]), self.lag)
        known = None if known is None else known.to(frames.device)
        part: Tensor | None = None
        if known is not None and self.replace:
            whole = known.flatten(3).all(3)[..., None, None]  # b 1 f 1 1
            part = known if bool((known != whole).any()) else None
            known = whole if bool(whole.any()) else None
        denoiser = self.guided(known, condition)
        if known is not None:
            denoiser = self.show(denoiser, frames, known, generator=self.generator)
        if part is not None:
            denoiser = Known(denoiser, frames, part, replace=True, generator=self.generator)
        return denoiser, times


class Backwards(Draw):
    """A `Draw` of latents given and returned from the last frame to the first; the model sees them forwards."""

    def __call__(
        self,
        frames: Tensor,
        known: Tensor | None,
        condition: Condition,
        strength: float = 1.0,
        doubt: Tensor | None = None,
    ) -> Tensor:
        known, doubt = (None if x is None else x.flip(2) for x in (known, doubt))
        condition = condition.at(range(frames.shape[2] - 1, -1, -1))
        return super().__call__(frames.flip(2), known, condition, strength, doubt).flip(2)


def draw_after(draw: Draw, past: Tensor, size: int, condition: Condition) -> Tensor:
    """Draw a window of `size` frames that begins with `past` `(b, c, p, h, w)`, where p may be 0."""
    given = past.shape[2]
    frames = past.new_zeros(*past.shape[:2], size, *past.shape[3:])
    frames[:, :, :given] = past
    return draw(frames, first_frames(size, given) if given else None, condition)


class OneByOne:
    """A video that goes on frame by frame with any model: each is drawn anew together with those that it looks back on.

    Args:
        draw: of the model.
        past: finished frames, `(b, c, p, h, w)`, one at least.
        context: how many of them each looks back on.
        first: the number of the first of them.

    Attributes:
        numbers: of the frames that are looked back on.
        done: the number of the next frame.

    Raises:
        ValueError: a context that fills a window.
    """

    def __init__(self, draw: Draw, past: Tensor, context: int, first: int = 0) -> None:
        check_context(context, draw.window)
        self.draw, self.context, self.done = draw, context, first + past.shape[2]
        self.kept = past[:, :, -context:]

    @property
    def numbers(self) -> list[int]:
        return [*range(self.done - self.kept.shape[2], self.done)]

    def next(self, told: Callable[[Sequence[int]], Condition]) -> Tensor:
        """The next frame, `(b, c, 1, h, w)`; `told` says of frames, by number, what they are asked to be."""
        given = self.kept.shape[2]
        whole = draw_after(self.draw, self.kept, given + 1, told([*self.numbers, self.done]))
        self.kept, self.done = whole[:, :, -self.context :], self.done + 1
        return whole[:, :, given:]

    def copy(self) -> OneByOne:
        """The same video, which goes its own way from here on, with the same noise if it is asked for the same."""
        other = copy(self)
        other.draw = self.draw.copy()
        return other


def lagged(times: Tensor, known: Tensor, lag: int) -> Tensor:
    """A clock for each frame: the grid `times`, begun `lag` steps later by each unknown frame than by the one before.

    The rolling draw of Ruhe et al. 2024 (rolling diffusion, section 3), within one window. A model must have been
    trained for clocks that rise along the frames (`tasks.rising`).

    Args:
        times: `(n + 1,)`, falling.
        known: bool `(f,)`; known frames have the clock of the first unknown one, which no one looks at.
        lag: with as many as there are steps, or more, a frame begins when the one before is done.

    Returns:
        `(n + lag * (u - 1) + 1, f)` for u unknown frames.
    """
    rank, lag = ((~known).cumsum(0) - 1).clamp(min=0), min(lag, len(times) - 1)  # f
    step = torch.arange(len(times) + lag * int(rank.max()))[:, None] - lag * rank  # steps f
    return times[step.clamp(0, len(times) - 1)]
