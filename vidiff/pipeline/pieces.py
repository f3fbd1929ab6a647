"""Clips that come piece by piece; of a stream, what they are asked to show may change on the way. Enlarged in pieces, a
clip is also enlarged as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.pipeline.model import TOLD, Labels


class Upscales(ABC):
    """What enlarges clips, of any length."""

    @abstractmethod
    def upscale_stream(
        self, parts: Iterable[Tensor], label: Labels = None, count: int = 1, **options: Any
    ) -> Iterator[Tensor]:
        """`upscale` of clips `(count, 3, n, h, w)` that come piece by piece."""

    def upscale(self, clip: Tensor, label: Labels = None, **options: Any) -> Tensor:
        """Enlarge a clip of any length.

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)` in [-1, 1], h and w as the model takes them: `facts.small` of a
                pipeline, `small` of a cascade.
            label: what the clip shows, where there are labels.
            options: as for `upscale_stream`.

        Returns:
            `(b, 3, f, height, width)` in [-1, 1], of the size that the model makes of it.

        Raises:
            ValueError: a model that enlarges nothing; a clip of another size; an option out of range.
        """
        count = 1 if clip.ndim == 4 else len(clip)
        return torch.cat([part.to(clip) for part in self.upscale_stream([clip], label, count, **options)], dim=2)


class Pieces(Iterator[Tensor]):
    """New frames `(b, 3, n, h, w)` in [-1, 1], one piece after the other, as `Pipeline.stream` returns them.

    Args:
        ask: `label`, `text`, `actions`, `control` and `stride` -> the condition that asks for them; raises ValueError
            for what the model does not know.
        asked: what they are at first.
        draw: from what returns the condition that now holds, the pieces.
        changes: whether it may be another one from piece to piece.
    """

    def __init__(
        self,
        ask: Callable[..., Condition],
        asked: dict[str, Any],
        draw: Callable[[Callable[[], Condition]], Iterator[Tensor]],
        changes: bool,
    ) -> None:
        self._ask, self._asked, self._changes = ask, asked, changes
        self._condition = ask(**asked)
        self._pieces = draw(lambda: self._condition)

    def __next__(self) -> Tensor:
        with torch.no_grad():
            return next(self._pieces)

    def set(self, **changed: Any) -> None:
        """Ask for something else from the next piece on; what is not named stays as it is.

        The frames that are looked back on are looked at anew, as if this had been asked for from the first: that costs
        one look at each of them.

        Args:
            changed: `label`, `text`, `actions` and `control`, as `Pipeline.stream` takes them, where None asks for
                none; `stride`, source frames from frame to frame, where None is the model's own.

        Raises:
            ValueError: where the strategy is another than "stream"; another option; what the model does not know, after
                which all is as it was.
        """
        if not self._changes:
            raise ValueError(
                "what is asked for can change with strategy=stream alone, of a model with unet.causal=true"
            )
        names = ("label", *TOLD, "stride")
        unknown = [name for name in changed if name not in names]
        if unknown:
            raise ValueError(f"a stream does not take {unknown[0]!r}; it takes {', '.join(names)}")
        asked = self._asked | changed
        with torch.no_grad():
            self._condition = self._ask(**asked)
        self._asked = asked
