"""A video that goes on frame by frame, each at the price of one: finished frames are looked at once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.known import Known, first_frames
from vidiff.draw.strategy import Strategy, check_whole, final
from vidiff.draw.window import Backwards, Draw, check_context
from vidiff.nn.cache import Cache


class Recall(nn.Module):
    """A causal network, called as it is itself, that looks once at the finished frames with which a window begins.

    They are looked at by the first call of a window, as that shows them and together with its new frames, which cannot
    be seen from them: each branch of guidance its own way. Later calls look at the new frames alone, and at what the
    cache keeps of all those before.

    Args:
        network: `(x, log_snr, condition, cache) -> output`.
        cache: an empty one.
    """

    def __init__(self, network: nn.Module, cache: Cache) -> None:
        super().__init__()
        self.network = network
        self.before = self.after = cache  # without the finished frames of this window, and with them
        self.given = 0
        self.said: Tensor | None = None  # of the finished frames, of as many clips as have been asked about

    def begin(self, given: int) -> None:
        """A new window, of which the first `given` frames are finished and those of the last one's that were new."""
        self.before, self.given, self.said = self.after, given, None

    def copy(self) -> Recall:
        """The same memory, which goes its own way from here on."""
        other = Recall(self.network, self.after.copy())
        other.given, other.said = self.given, self.said
        return other

    def forget(self) -> None:
        """All finished frames; the next window is to begin with those that are to be looked back on."""
        self.after = Cache(self.before.window, self.before.sinks)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        clips, frames, given = len(x), x.shape[2], self.given
        if given and (self.said is None or len(self.said) < clips):
            # Sinks stand right before the frames that look back on them: those that are finished come by themselves.
            looked = given if self.before.sinks else frames
            self.after = self.before.copy(grows=True, finished=given)
            whole = self.network(
                x[:, :, :looked], log_snr[:, :, :looked], condition.at(range(looked)), self.after
            )  # b c looked h w
            self.after.grows, self.said = False, whole[:, :, :given].detach()
            if looked == frames:
                return whole
        new = condition.at(range(given, frames))
        output = self.network(x[:, :, given:], log_snr[:, :, given:], new, self.after)
        return output if self.said is None else torch.cat([self.said[:clips], output], dim=2)


@dataclass(frozen=True)
class Stream(Strategy):
    """A video goes on by a few frames at a time, and what a causal network made of finished frames is kept, so that
    they are looked at once and not at every step (Yin et al. 2025, CausVid; Huang et al. 2025, self forcing).

    A frame looks back on `context` frames, and costs the same however many there have been. Where what is asked for
    changes, the frames that are looked back on are looked at anew with what is now asked (Yang et al. 2025, LongLive,
    KV recache).

    Args:
        chunk: frames that are drawn at once; 1 can react to most, more cost less each.
        level: the diffusion time at which finished frames are shown; 0 shows them as they are. The model must know it,
            as for `Noisy`.
        sinks: the first frames of the video, or of those that it continues, which all are to look back on besides.

    Raises:
        ValueError: an option out of range; in a call, more frames than the model was trained on, a model that looks
            ahead, or a video that is continued into its past.
    """

    causal: ClassVar[bool | None] = True

    chunk: int = 1
    level: float = 0.0
    sinks: int = 0

    def __post_init__(self) -> None:
        check_whole("chunk", self.chunk, 1, "1 or more frames that are drawn at once")
        check_whole("sinks", self.sinks, 0, "0, or the first frames that all look back on")
        if not 0.0 <= self.level < 1.0:
            raise ValueError(f"level is {self.level}; give 0, which shows the past as it is, to less than 1, all noise")

    def reach(self, context: int) -> int:
        return context + self.sinks

    def __call__(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        """As any strategy; the first frames, too, are drawn `chunk` at a time."""
        yield from self.run(draw, past, frames, context, lambda: condition)

    def run(
        self, draw: Draw, past: Tensor, frames: int, context: int, asked: Callable[[], Condition], first: int = 0
    ) -> Iterator[Tensor]:
        """As the call, with a condition that may change.

        Args:
            asked: the condition that now holds; it is called before each chunk.
            first: the number of the first frame of `past`, where the condition is of frames before it as well.
        """
        going, done = self.begin(replace(draw, progress=False), past, context, first), 0
        with tqdm(total=frames, disable=not draw.progress, desc="sampling", unit="frame", leave=False) as bar:
            while done < frames:
                part = going.next(asked().at)[:, :, : frames - done]
                done += part.shape[2]
                bar.update(part.shape[2])
                yield part

    def begin(self, draw: Draw, past: Tensor, context: int, first: int = 0) -> Going:
        """A video that is to go on chunk by chunk. Arguments and errors are those of `run` and of a call."""
        self._check(draw, context)
        assert isinstance(draw.denoiser, Denoiser)
        seen = Recall(draw.denoiser.network, Cache(context, self.sinks))
        shown = final(past, self.reach(context))
        first += past.shape[2] - shown.shape[2]
        return Going(replace(draw, show=partial(Known, level=self.level)), self, context, seen, shown, first)

    def _check(self, draw: Draw, context: int) -> None:
        check_context(context, draw.window)
        self.check(getattr(getattr(draw.denoiser, "network", None), "causal", False))
        if isinstance(draw, Backwards):
            raise ValueError("a stream goes forwards in time alone: choose another strategy for backwards=True")
        if context + self.sinks + self.chunk > draw.window:
            raise ValueError(
                f"chunk is {self.chunk}, context {context} and sinks {self.sinks}, but the model sees {draw.window} "
                "frames at once: give fewer of one of them"
            )


class Going:
    """A video by the strategy `Stream`, as far as it has come.

    Args:
        draw: of the model as it is.
        strategy: by which it goes on, `context` frames looked back on.
        seen: the model's network, with the memory of what has been looked at.
        past: finished frames, `(b, c, p, h, w)`, none of which has been looked at yet.
        first: the number of the first of these.

    Attributes:
        done: the number of the next frame.
    """

    def __init__(self, draw: Draw, strategy: Stream, context: int, seen: Recall, past: Tensor, first: int = 0) -> None:
        self.strategy, self.context, self.seen = strategy, context, seen
        assert isinstance(draw.denoiser, Denoiser)
        model = draw.denoiser
        self.draw = replace(draw, denoiser=Denoiser(seen, model.schedule, model.prediction, model.variance))
        self.kept, self.numbers = past[:, :, :0], list[int]()  # the frames that are looked back on, and which they are
        self.new, self.done = past, first + past.shape[2]  # finished, and not yet looked at
        self.asked: Condition | None = None  # of the frames that have been looked at

    def next(self, told: Callable[[Sequence[int]], Condition]) -> Tensor:
        """The next frames, `(b, c, chunk, h, w)`.

        Args:
            told: numbers of frames -> what these are asked to be. Where that is another than before of frames that have
                been looked at, they are looked at anew.
        """
        chunk, given, fresh = self.strategy.chunk, self.new, [*range(self.done - self.new.shape[2], self.done)]
        changed = self.asked is not None and not told(self.numbers).same(self.asked)
        self.kept, self.numbers = self._looked_back_on(torch.cat([self.kept, given], dim=2), self.numbers + fresh)
        if changed:
            self.seen.forget()
            given, fresh = self.kept, self.numbers
        self.seen.begin(len(fresh))
        known = first_frames(len(fresh) + chunk, len(fresh)) if fresh else None
        blank = given.new_zeros(*given.shape[:2], chunk, *given.shape[3:])
        shown = told([*fresh, *range(self.done, self.done + chunk)])
        self.new = self.draw(torch.cat([given, blank], dim=2), known, shown)[:, :, len(fresh) :]
        self.done, self.asked = self.done + chunk, told(self.numbers)
        return self.new

    def copy(self) -> Going:
        """The same video, which goes its own way from here on, with the same noise if it is asked for the same."""
        other, model = copy(self), self.draw.denoiser
        assert isinstance(model, Denoiser)
        other.seen = self.seen.copy()
        seen = Denoiser(other.seen, model.schedule, model.prediction, model.variance)
        other.draw = replace(self.draw.copy(), denoiser=seen)
        return other

    def _looked_back_on(self, frames: Tensor, numbers: list[int]) -> tuple[Tensor, list[int]]:
        """Of frames `(b, c, f, h, w)` in order, the first and the last, and their numbers."""
        count, sinks = len(numbers), self.strategy.sinks
        places = [place for place in range(count) if place < sinks or place >= count - self.context]
        return frames[:, :, places], [numbers[place] for place in places]
