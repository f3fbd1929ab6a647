"""Clips that a trained run makes to be scored: one for each real clip, with its label, and seeds that batches fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


class Maker(Protocol):
    """What is asked of a `vidiff.Pipeline`, which the evaluation does not import."""

    labels: tuple[str, ...]

    def generate(self, frames: int, **options: Any) -> Tensor: ...

    def extend(self, clip: Tensor, frames: int, **options: Any) -> Tensor: ...

    def stream(self, frames: int, **options: Any) -> Iterator[Tensor]: ...

    def settings(self, **given: Any) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Made:
    """Makes clips for real ones.

    Args:
        names: the real clips' labels, None for none. Where the run does not know them all, none is asked for.
        frames: of a clip.
        options: `guidance`, `steps` and `sampler`, None for the run's own.
        captions: `names` are what the clips show in words, and not labels.
    """

    run: Maker
    names: Sequence[str | None]
    frames: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    captions: bool = False

    def read(self, which: range) -> Tensor:
        """Clips `which`: `(b, 3, f, h, w)`, the same whatever else is made."""
        return self.run.generate(self.frames, count=len(which), **self._asked(which), **self._drawn(which, 0)).cpu()

    def extend(self, which: range, given: Tensor, attempt: int) -> Tensor:
        """The real clips `which` continued from their first frames, with other noise at each attempt."""
        return self.run.extend(given, self.frames, **self._asked(which), **self._drawn(which, attempt)).cpu()

    def onward(self, which: range, given: Tensor, frames: int) -> Iterator[Tensor]:
        """New frames of the real clips `which` after those given, up to `frames` in all, piece by piece."""
        return self.run.stream(frames, clip=given, **self._asked(which), **self._drawn(which, 0))

    def how(self, source: str, **weights: Any) -> dict[str, Any]:
        """For a card; `weights` as `engine.checkpoint.describe_weights` tells them, where more is known than a name."""
        settings = self.run.settings(**self.options)
        chosen = {name: settings[name] for name in ("weights", "sampler", "steps", "guidance")}
        return chosen | weights | {"source": source, "seed": self.seed}

    def _asked(self, which: range) -> dict[str, Any]:
        names = list(self.names[which.start : which.stop])
        if self.captions:
            return {"text": names}
        known = self.run.labels and set(self.names) <= set(self.run.labels)
        return {"label": names if known else None}

    def _drawn(self, which: range, attempt: int) -> dict[str, Any]:
        return {**self.options, "seed": 1_000_003 * self.seed + 10_007 * attempt + which.start}
