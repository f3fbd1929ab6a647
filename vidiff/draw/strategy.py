"""What every strategy for long videos is: a way in which a video goes on from its own last frames, without end.

They draw windows as `Draw` does, keep no more of the past than they look back on, and have one call:
`strategy(draw, past, frames, context, condition)` yields new latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.draw.window import Draw, check_context, draw_after


class Strategy:
    """A way in which a video goes on; subclasses give `go_on`.

    Attributes:
        guides: whether guidance on the frames that are continued makes sense.
        causal: which models it is for: True for those that look back alone (`unet.causal`), False for those that look
            ahead as well, None for both.
    """

    guides: ClassVar[bool] = True
    causal: ClassVar[bool | None] = None

    def reach(self, context: int) -> int:
        """Frames of the past that are looked back on, where `context` is asked for."""
        return context

    def check(self, causal: bool) -> None:
        """Raises ValueError for a model that the strategy is not for; `causal` says whether it looks back alone."""
        name = type(self).__name__.lower()
        if self.causal and not causal:
            raise ValueError(
                f"strategy is {name}, for networks that look back alone, and this model's looks ahead: "
                "train one with unet.causal=true, as `vidiff train shapes_causal` does, or choose another strategy"
            )
        if self.causal is False and causal:
            raise ValueError(
                f"strategy is {name}, which draws frames by what comes after them, and this model looks back alone "
                "(unet.causal): choose another strategy"
            )

    def __call__(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        """Draw `frames` latent frames that continue `past`.

        Args:
            past: `(b, c, p, h, w)`; p may be 0, and only the last `reach(context)` frames are looked at.
            context: frames on which each window looks back.
            condition: of frames, where it has any, those of `past` and then those of the new ones.

        Yields:
            `(b, c, n, h, w)`, `frames` in sum over n. Memory does not grow with `frames`.

        Raises:
            ValueError: a context that fills a window, and what a strategy cannot do.
        """
        check_context(context, draw.window)
        if not past.shape[2]:
            size = min(draw.window, frames)
            past = draw_after(draw, past, size, condition.at(range(size)))
            yield past
            frames -= past.shape[2]
        if frames > 0:
            yield from self.go_on(draw, past, frames, context, condition)

    def go_on(self, draw: Draw, past: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
        """As the call, where there is a past, and room in a window."""
        raise NotImplementedError


def check_whole(name: str, value: int, least: int, expected: str) -> None:
    """Refuse an option that is no whole number from `least` on. Raises ValueError."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value}; give {expected}")


def final(frames: Tensor, count: int) -> Tensor:
    """The last `count` of `(b, c, f, h, w)`, or all where there are fewer."""
    return frames[:, :, max(frames.shape[2] - count, 0) :]
