"""Super-resolution runs one after the other, each of which enlarges what the one before has made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from vidiff.data.buckets import shrunk
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.pipeline.model import Labels, Texts
from vidiff.pipeline.pieces import Upscales
from vidiff.pipeline.pipeline import Pipeline


class Cascade(Upscales):
    """Super-resolution models that enlarge a clip together (Ho et al. 2022, cascaded diffusion models, section 2).

    Args:
        stages: the first is given the clip, and each further one what the one before has made of it.
        names: what errors call each of them.

    Raises:
        ValueError: no stages; one that enlarges nothing, or clips of another size than it is given.
    """

    def __init__(self, stages: Sequence[Pipeline], names: Sequence[str] = ()) -> None:
        if not stages:
            raise ValueError("stages is empty: give a run that enlarges clips, such as `vidiff train shapes_sr` makes")
        self.stages = tuple(stages)
        self.names = tuple(names) or tuple(f"stage {number}" for number, _ in enumerate(stages, 1))
        with _named(self.names[0]):
            assert stages[0].facts.small  # raises for a run that enlarges nothing
        self.size = self.enlarged(self.small)

    @classmethod
    def from_pretrained(cls, runs: Sequence[str | Path], **options: Any) -> Cascade:
        """Load a cascade's runs, the first stage first; options as of `Pipeline.from_pretrained`."""
        return cls([Pipeline.from_pretrained(run, **options) for run in runs], list(map(str, runs)))

    @property
    def small(self) -> tuple[int, int]:
        """Height and width in pixels of what it enlarges, of the first of the sizes where there are several."""
        facts = self.stages[0].facts
        return shrunk(facts.buckets, facts.enlarges)[0].size

    def enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what it makes of clips of `size`. Raises ValueError for one that a stage doesn't take."""
        for name, stage in zip(self.names, self.stages, strict=True):
            with _named(name):
                size = stage.facts.enlarged(size)
        return size

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of the first stage that has any; empty for stages without."""
        return next((tuple(stage.labels) for stage in self.stages if stage.labels), ())

    @property
    def reads(self) -> bool:
        """Whether a stage reads text."""
        return any(stage.text is not None for stage in self.stages)

    @property
    def factor(self) -> int:
        """By which all stages together enlarge height and width."""
        return prod(stage.facts.enlarges for stage in self.stages)

    def upscale_stream(
        self,
        parts: Iterable[Tensor],
        label: Labels = None,
        count: int = 1,
        *,
        text: Texts = None,
        level: float | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """`upscale` of clips that come piece by piece, in memory that does not grow with their length.

        Args:
            parts: `(count, 3, n, h, w)`; n may vary.
            label, text: what the clips show, for the stages that have labels or text; an error where none has.
            level: the time to which the given clips are noised, by default the first stage's own; the further stages
                keep to theirs, since it hides the flaws of those before them.
            options: `steps`, `sampler`, `grid`, `seed`, `context` and others, for every stage, as for
                `Pipeline.upscale_stream`.

        Yields:
            `(count, 3, n, *size)` in [-1, 1], as many frames in sum over n.
        """
        stream: Iterable[Tensor] = parts
        for number, stage in enumerate(self.stages):
            told: dict[str, Any] = {
                "label": label if stage.labels or not self.labels else None,
                "text": text if stage.text is not None or not self.reads else None,
                "level": None if number else level,
            }
            stream = stage.upscale_stream(stream, count=count, **told, **options)
        yield from stream

    def bicubic(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Clips `(b, 3, f, *size)` shrunk to what the first stage is given, and that enlarged by interpolation."""
        small = shrink(video, self.factor)
        return small, enlarge(small, self.factor)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Has errors begin with the name of a stage."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
