"""Longer than a window: strategies by which a video goes on from its own last frames, without end.

All of them are a `Strategy`. Where nothing is past, the first window is drawn alike by all but `Stream`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.diffusion.classifier_guidance import Reconstruction
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.interval import timed
from vidiff.diffusion.known import Known, first_frames, some_frames
from vidiff.diffusion.process import draw_noise
from vidiff.diffusion.schedule import Schedule
from vidiff.draw.strategy import Strategy, check_whole, final
from vidiff.draw.stream import Stream
from vidiff.draw.window import Backwards, Draw, draw_after, windows
from vidiff.sample import State, start
from vidiff.sample.resample import Resampled


@dataclass(frozen=True)
class Clean(Strategy):
    """A video goes on window by window, each from the last `context` frames before it, shown as they are: what the
    model was trained for (Ho et al. 2022, video diffusion models, section 3.1, with a trained clock)."""

    def prepared(self, draw: Draw) -> Draw:
        """How the windows are drawn."""
        return draw

    def go_on(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        draw = self.prepared(draw)
        for window in windows(draw.window, past.shape[2] + frames, context, past.shape[2]):
            shown = condition.at(range(window.first, window.first + draw.window))
            past = draw_after(draw, final(past, window.known), draw.window, shown)
            yield past[:, :, window.known : window.known + window.new]


@dataclass(frozen=True)
class Noisy(Clean):
    """A video goes on window by window, with the context noised a little, which hides the flaws that it gathers (Ho et
    al. 2022, cascaded diffusion models, section 4; Chen et al. 2024, diffusion forcing, section 3.3).

    Args:
        level: the diffusion time of the context; 0 is `Clean`. The model must know it: `tasks.noise` is the largest of
            its training.

    Raises:
        ValueError: a level outside [0, 1).
    """

    level: float = 0.03

    def __post_init__(self) -> None:
        if not 0.0 <= self.level < 1.0:
            raise ValueError(f"level is {self.level}; give 0, which shows the past as it is, to less than 1, all noise")

    def prepared(self, draw: Draw) -> Draw:
        return replace(draw, show=partial(Known, level=self.level))


@dataclass(frozen=True)
class Replace(Clean):
    """A video goes on window by window, with the context shown at the sampler's own time, as to a model that was
    trained on whole clips alone, and each step taken several times (Lugmayr et al. 2022, RePaint, algorithm 1).

    Args:
        resample: times that each step is taken; the cost grows with it.

    Raises:
        ValueError: a number below 1.
    """

    guides: ClassVar[bool] = False

    resample: int = 4

    def __post_init__(self) -> None:
        check_whole("resample", self.resample, 1, "1, which takes each step once, or more")

    def prepared(self, draw: Draw) -> Draw:
        show = partial(Known, replace=True)
        return replace(draw, show=show, sampler=Resampled(draw.sampler, self.resample), history=None)


@dataclass(frozen=True)
class Reconstruct(Clean):
    """A video goes on window by window, with the context shown at the sampler's own time, and what is new pushed to
    where the model's estimate of the context is right (Ho et al. 2022, video diffusion models, eq. 7).

    Args:
        weight: of that push, the paper's `w_r`; 0 is `Replace(1)`. Each step also asks for the network's gradient.

    Raises:
        ValueError: a weight below 0.
    """

    guides: ClassVar[bool] = False

    weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.weight >= 0.0:
            raise ValueError(f"weight is {self.weight}; give 0, which does not push, or more")

    def prepared(self, draw: Draw) -> Draw:
        return replace(draw, show=self._show, history=None)

    def _show(self, denoiser: Denoises, frames: Tensor, mask: Tensor, generator: torch.Generator) -> Denoises:
        pushed = Reconstruction(denoiser, frames, mask, self.weight)
        return Known(pushed, frames, mask, replace=True, generator=generator)


@dataclass(frozen=True)
class Keyframes(Strategy):
    """A video goes on by sparse frames first, which look far back and ahead; then what lies between them, with both
    ends known (Harvey et al. 2022, flexible diffusion modeling of long videos, hierarchy-2).

    A window of key frames continues those of the past, as many as `context` asks for and as there are; it reaches
    `stride` times as far as an ordinary one. The model is told of the stride, so it must have been trained on several.

    Args:
        stride: from key frame to key frame.

    Raises:
        ValueError: a stride below 2; in a call, one that is as long as a window, or that the model was not trained on.
    """

    causal: ClassVar[bool | None] = False

    stride: int = 4

    def __post_init__(self) -> None:
        check_whole("stride", self.stride, 2, "2 or more frames from key frame to key frame")

    def reach(self, context: int) -> int:
        return self.stride * (context - 1) + 1

    def go_on(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        self._check(draw, condition)
        assert condition.stride is not None
        sparse, done, total = replace(condition, stride=self.stride * condition.stride), past.shape[2], 0
        while total < frames:
            past = final(past, self.reach(context))
            keys = past.flip(2)[:, :, :: self.stride][:, :, :context].flip(2)  # the last frame is one
            given = keys.shape[2]
            first = done + total - 1 - self.stride * (given - 1)
            spans = -self.stride if isinstance(draw, Backwards) else self.stride
            shown = sparse.at(range(first, first + self.stride * draw.window, self.stride), spans)
            keys = draw_after(draw, keys, draw.window, shown)[:, :, given:]
            for part in keys.split(max(1, (draw.window - context) // self.stride), dim=2):
                if total < frames:
                    new = self._between(draw, final(past, context), part, condition, done + total)
                    past = final(torch.cat([past, new], dim=2), self.reach(context))
                    yield new[:, :, : frames - total]
                    total += new.shape[2]

    def _between(self, draw: Draw, past: Tensor, keys: Tensor, condition: Condition, done: int) -> Tensor:
        """The frames up to the last of some `keys`, and they themselves, `(b, c, stride * k, h, w)`.

        Args:
            done: frames before those, of which the last are `past`.
        """
        new = self.stride * keys.shape[2]
        past = final(past, draw.window - new)
        given = past.shape[2]
        ahead = keys.new_zeros(*keys.shape[:2], new, *keys.shape[3:])
        places = range(self.stride - 1, new, self.stride)
        ahead[:, :, places] = keys
        known = some_frames(given + new, [*range(given), *(given + key for key in places)])
        shown = condition.at(range(done - given, done + new))
        return draw(torch.cat([past, ahead], dim=2), known, shown)[:, :, given:]

    def _check(self, draw: Draw, condition: Condition) -> None:
        if condition.stride is None:
            raise ValueError(
                "key frames are drawn at a larger stride, but this model knows of one stride alone: train it with "
                f"data.stride=[1,{self.stride}], or choose another strategy"
            )
        reached = self.stride * int(condition.stride.max())
        if draw.longest is not None and reached > draw.longest:
            raise ValueError(
                f"stride is {self.stride}, which is {reached} source frames, but this model was trained up to "
                f"{draw.longest}: give less"
            )
        if self.stride >= draw.window:
            raise ValueError(f"stride is {self.stride}; a window of {draw.window} frames must hold more than that")


@dataclass(frozen=True)
class Rolling(Strategy):
    """One window that rolls on: the clock rises along its frames, and each time that the first unknown one reaches 0 it
    joins the past, and a frame of noise enters at the end (Ruhe et al. 2024, rolling diffusion, section 3).

    It begins with the past and noise, from which the clocks first rise to their places. The model must have been
    trained for clocks that rise along the frames (`tasks.rising`, `tasks.clocks`).

    Args:
        moving: frames that are on their way at once; by default all of a window that are not context. The clock rises
            from one to the next by a share of `1 / moving` of its way.

    Raises:
        ValueError: fewer than 1; in a call, more than a window has besides one of context; a lag, or a video that is
            continued into its past, where clocks would have to fall along the frames.
    """

    moving: int | None = None

    def __post_init__(self) -> None:
        if self.moving is not None:
            check_whole("moving", self.moving, 1, "1 or more frames that are on their way at once")

    def go_on(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        moving = draw.window - context if self.moving is None else self.moving
        self._check(draw, moving)
        pace = ceil(draw.steps / moving)  # steps in which a frame takes the place of the one before it
        times = draw.times(moving * pace)
        keep, done = min(context, draw.window - moving), past.shape[2]
        past = final(past, keep)
        x = torch.cat([past, self._noise(draw, past, moving, times)], dim=2)
        step, state, guided = 0, State(draw.generator), draw.denoiser
        mask, asked = first_frames(0, 0), draw.told(condition.at(range(done - past.shape[2], done + moving)))
        with tqdm(total=frames, disable=not draw.progress, desc="sampling", unit="frame", leave=False) as bar:
            while frames > 0:
                given = past.shape[2]
                if int(mask.sum()) != given:  # else the same, with the same noise in place of what it forgets
                    mask = first_frames(x.shape[2], given).to(x.device)
                    guided = draw.guided(mask, condition)
                    for part in timed(guided):
                        part.span = (0.0, 1.0)  # of clocks that stand at all times at once
                content = torch.cat([past, torch.zeros_like(x[:, :, given:])], dim=2)
                seen = _Seen(draw.show(guided, content, mask, generator=draw.generator))
                t, s = (self._clock(times, given, moving, pace, at).to(x) for at in (step, step + 1))
                left = (len(times) - 2 - self._index(given, moving, pace, step, times)).clamp(min=0)
                state = replace(state, left=left)
                with torch.no_grad(), draw.arithmetic(x.device):
                    x, state = draw.sampler.step(seen, x, t, s, asked, state)
                step += 1
                if step < len(times):
                    continue
                new, rest = seen.x0[:, :, given : given + 1], x[:, :, given + 1 :]
                past = final(torch.cat([past, new], dim=2), keep)
                x = torch.cat([past, rest, self._noise(draw, past, 1, times)], dim=2)
                step, state = step - pace, state.slide(given + 1 - past.shape[2], 1)
                frames, done = frames - 1, done + 1
                asked = draw.told(condition.at(range(done - past.shape[2], done + moving)))
                bar.update()
                yield new

    def _noise(self, draw: Draw, like: Tensor, count: int, times: Tensor) -> Tensor:
        blank = like.new_empty(*like.shape[:2], count, *like.shape[3:])
        return start(draw.denoiser.schedule, draw_noise(blank, draw.generator), times)

    def _clock(self, times: Tensor, given: int, moving: int, pace: int, step: int) -> Tensor:
        """Of each frame, `(1, 1, f, 1, 1)`: each unknown one has come as far as the one before had `pace` steps ago."""
        return times[self._index(given, moving, pace, step, times)]

    def _index(self, given: int, moving: int, pace: int, step: int, times: Tensor) -> Tensor:
        """Where in the grid that is."""
        index = (step - pace * torch.arange(moving)).clamp(0, len(times) - 1)
        return torch.cat([index.new_full((given,), len(times) - 1), index]).view(1, 1, -1, 1, 1)

    def _check(self, draw: Draw, moving: int) -> None:
        if isinstance(draw, Backwards):
            raise ValueError("a rolling window goes forwards in time alone: choose another strategy for backwards=True")
        if draw.lag:
            raise ValueError(f"lag is {draw.lag}, but a rolling window is one lag without end: set lag=0")
        if draw.guide.apg.get("momentum"):
            raise ValueError(
                f"momentum of apg is {draw.guide.apg['momentum']}, but a rolling window moves on from step to step: "
                "leave momentum out, or choose another strategy"
            )
        if moving >= draw.window:
            raise ValueError(
                f"moving is {moving}; give less than {draw.window}, the frames of a window, so that it sees the past"
            )


class _Seen:
    """A denoiser that remembers what it last estimated."""

    def __init__(self, denoiser: Denoises) -> None:
        self.denoiser = denoiser
        self.x0 = torch.empty(0)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        estimate = self.denoiser(x_t, t, condition)
        self.x0 = estimate.x0
        return estimate


def check_whole_latents(temporal: int, strategy: Strategy, backwards: bool = False) -> None:
    """Raises ValueError for what makes no sense where one latent holds `temporal` frames."""
    if isinstance(strategy, Keyframes):
        raise ValueError(
            f"strategy is keyframes, which draws frames that lie apart, but this model's codec makes one latent of "
            f"{temporal} frames in a row: choose another strategy, such as clean or rolling"
        )
    if backwards and type(strategy) is not Clean:
        raise ValueError(
            f"strategy is {type(strategy).__name__.lower()}, but into the past a codec that makes one latent of "
            f"{temporal} frames goes with strategy=clean alone, since what is given depends on what is made there"
        )


STRATEGIES: dict[str, type[Strategy]] = {
    "clean": Clean,
    "noisy": Noisy,
    "replace": Replace,
    "reconstruct": Reconstruct,
    "keyframes": Keyframes,
    "rolling": Rolling,
    "stream": Stream,
}
