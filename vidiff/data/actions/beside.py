"""What was done in windows of cached latents, beside these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vidiff.data.actions.space import ActionSpace, stacked
from vidiff.data.clips import Sample
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import Window
from vidiff.store.error import DataError


class ActionsBeside:
    """What led to each frame of a window of latents, as a model is told it: "action" of a batch, `(b, f, slots, w)`.

    Args:
        space: the dimensions.
        rows: of each file of the index, `(frames, a)`.
        slots: the most frames of a file by which a latent follows the one before; w is `space.width`.
        temporal: frames to one latent, the first of a window apart, where windows are encoded as clips of their own; 1
            where each frame has a latent.
        sources: of each file, where it is seen at another rate than its own, its own frame behind each that is seen;
            where more than `slots` of them lie between two that are, the last are told.
    """

    def __init__(
        self,
        space: ActionSpace,
        rows: Sequence[np.ndarray],
        slots: int,
        temporal: int = 1,
        sources: Sequence[np.ndarray] = (),
    ) -> None:
        self.space, self.rows, self.slots = space, [*rows], slots
        self.temporal, self.sources = temporal, [*sources]

    def check(self, cache: LatentCache) -> None:
        """Raises DataError unless there are rows for each file."""
        if len(self.rows) != len(cache):
            raise DataError(f"actions of {len(self.rows)} clips for the {len(cache)} files of {cache.folder}")

    def __call__(self, windows: Sequence[Window]) -> Sample:
        return {"action": torch.stack([self._told(window) for window in windows])}

    def _told(self, window: Window) -> torch.Tensor:
        frames, stride = range(window.frames), window.stride
        if self.temporal > 1:  # windows are segments, and their starts count latents
            start = window.start // window.frames * (1 + self.temporal * (window.frames - 1))
            ends = [start + self.temporal * frame for frame in frames]
            spans = [1 if frame == 0 else self.temporal for frame in frames]
        else:
            ends, spans = [window.start + stride * frame for frame in frames], [stride] * window.frames
        if self.sources:
            behind = self.sources[window.number]
            spans = spans_of(behind, ends, spans)
            ends = behind[ends].tolist()
        first, last = max(0, ends[0] - self.slots + 1), ends[-1] + 1
        told = self.space.encode(self.rows[window.number][first:last])
        return stacked(told, [end - first for end in ends], spans, self.slots)


def spans_of(sources: np.ndarray, ends: Sequence[int], spans: Sequence[int]) -> list[int]:
    """Its own frames of a file by which frames that are seen follow on others.

    Args:
        sources: its own frame behind each that is seen.
        ends: frames that are seen.
        spans: of those that are seen, by how many each follows the one before. Before the first there is nothing.
    """
    befores = (sources[end - span] if end >= span else -1 for end, span in zip(ends, spans, strict=True))
    return [int(sources[end] - before) for end, before in zip(ends, befores, strict=True)]


def most_and_usual(sources: Sequence[np.ndarray], span: int) -> tuple[int, int]:
    """The most frames of their own by which, in files, a frame that is seen follows the one `span` before it, and by
    how many it follows the very one before as a rule (the median); neither is less than 1."""
    far = [int((behind[span:] - behind[:-span]).max()) for behind in sources if len(behind) > span]
    most = max(1, *far, *(int(behind[-1] - behind[0]) for behind in sources if len(behind) <= span))
    gaps = [np.diff(behind) for behind in sources if len(behind) > 1]
    usual = int(np.median(np.concatenate(gaps))) if gaps else 1
    return most, max(1, min(usual, most // span))
