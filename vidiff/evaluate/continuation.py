"""A video measured while it is being continued, so that no more of it is kept than its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidiff.metrics import drift
from vidiff.metrics import oracle as shapes


@dataclass(frozen=True)
class Seen:
    """What was seen of b clips.

    Attributes:
        looks: of all f frames.
        reading: the same by the oracle of the shapes set; None where that was not asked.
        shown: (b, 3, n, h, w), the frames that were asked for.
        seconds: that making the new frames took.
    """

    looks: drift.Looks
    reading: shapes.Reading | None
    shown: Tensor
    seconds: float


def watch(
    pieces: Iterator[Tensor], given: Tensor, show: Sequence[int], oracle: bool, made: Callable[[int], object]
) -> Seen:
    """Look at clips as they are continued piece by piece.

    Args:
        pieces: new frames, each (b, 3, n, h, w) in [-1, 1].
        given: (b, 3, g, h, w), the frames before them.
        show: numbers of frames to keep, rising; the given ones count.
        oracle: whether to read the clips as of the shapes set.
        made: is told the number of new frames of every piece.
    """
    looks, readings, shown = [drift.look(given)], [shapes.read_shapes(given)] if oracle else [], []
    done, seconds, piece = 0, 0.0, given
    while True:
        shown.append(piece[:, :, [frame - done for frame in show if done <= frame < done + piece.shape[2]]].cpu())
        done, before = done + piece.shape[2], piece[:, :, -1:]
        begun = time.perf_counter()
        piece = next(pieces, given[:, :, :0]).detach().cpu()
        seconds += time.perf_counter() - begun
        if not piece.shape[2]:
            whole = shapes.join_readings(readings) if oracle else None
            return Seen(drift.join(looks), whole, torch.cat(shown, dim=2), seconds)
        looks.append(drift.look(piece, before))
        if oracle:
            readings.append(shapes.read_shapes(piece))
        made(piece.shape[2])


def score(
    seen: Sequence[Seen],
    given: int,
    chunk: int,
    seams: Sequence[int],
    labels: Tensor | None = None,
    paths: Tensor | None = None,
) -> dict[str, Any]:
    """Figures of the new frames of clips that were seen some at a time.

    Args:
        given: frames that they began with, which are not counted: a codec alone makes new ones a little softer.
        chunk: frames of a stretch, see `drift.drift`; the first begins with the first new frame.
        seams: frames at which a window began, the given ones counted.
        labels: (b,) int64, and paths: (b, f, 2), where they were read by the oracle: what they show, and where.

    Returns:
        `seconds`, for a new frame of one clip; `drift`; and `shapes`: `kept_along`, and `extension_score`'s `error`.
    """
    looks = drift.after(drift.join([one.looks for one in seen], dim=0), given)
    count, new = looks.change.shape
    result: dict[str, Any] = {
        "seconds": sum(one.seconds for one in seen) / (count * new),
        "drift": drift.drift(looks, chunk, [seam - given for seam in seams]),
    }
    if labels is not None and paths is not None:
        reading = shapes.join_readings([one.reading for one in seen if one.reading is not None], dim=0)
        along = shapes.extension_score(reading, paths, given, min(8, new))
        result["shapes"] = {
            **shapes.kept_along(reading, labels, chunk, given),
            "error": along["error"],
            "error_by_frame": along["error_by_frame"],
        }
    return result
