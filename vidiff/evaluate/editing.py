"""Scores of editing with a run of the shapes set: what is hidden or left out must come back where it really was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vidiff.evaluate.shapes import Subject, held_out_shapes, label_numbers
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import Reading, acceleration, label_score, read_shapes
from vidiff.training.windows import evenly
from vidiff.video.reader import read_video
from vidiff.video.writer import sheet

NEAR = 3.0  # pixels from its true place at which an object counts as found again
MARGIN = 2  # pixels around an object that a hiding box covers as well


@dataclass(frozen=True)
class EditingProtocol:
    """How many clips. The scores of two models compare only under one protocol."""

    clips: int = 48  # held-out clips, evenly chosen, or all where there are fewer
    batch: int = 24  # clips edited at once


def hiding_box(paths: Tensor, sizes: Tensor, hidden: range, side: int) -> Tensor:
    """A box for each clip that covers its object in all `hidden` frames: a mask for `Pipeline.inpaint`.

    Args:
        paths: true centres `(b, f, 2)`, (x, y) in pixels.
        sizes: `(b,)`, radius in pixels of the disc with the object's area; a triangle reaches 1.56 times as far.

    Returns:
        bool `(b, 1, f, side, side)`.
    """
    reach = 1.6 * sizes[:, None] + MARGIN
    centres = paths[:, hidden.start : hidden.stop]
    low, high = centres.amin(1) - reach, centres.amax(1) + reach  # b 2
    pixel = torch.arange(side) + 0.5
    inside = (pixel > low[..., None]) & (pixel < high[..., None])  # b 2 side
    box = inside[:, 1, :, None] & inside[:, 0, None, :]  # b side side
    frames = torch.zeros(paths.shape[1], dtype=torch.bool)
    frames[hidden.start : hidden.stop] = True
    return box[:, None, None] & frames[:, None, None]


def score_inpainting(made: Tensor, clips: Tensor, mask: Tensor, paths: Tensor, hidden: range) -> dict[str, Any]:
    """How objects come back that a box hid for some frames.

    Args:
        made: the inpainted clips `(b, 3, f, h, w)`.
        clips: the real ones.
        mask: what was hidden, bool `(b, 1, f, h, w)`.
        paths: true centres `(b, f, 2)`.

    Returns:
        `known_bit_equal`; `near`: fraction of clips whose object is, on average over the hidden frames, within 3 px of
        its true place, a missing one counting as the frame's diagonal; `error`: the median over clips, in pixels.
    """
    reading = read_shapes(made[:, :, hidden.start : hidden.stop])
    error = _distance(reading, paths[:, hidden.start : hidden.stop]).mean(1)  # b
    return {
        "clips": len(made),
        "known_bit_equal": bool(torch.equal(torch.where(mask, 0.0, made), torch.where(mask, 0.0, clips))),
        "near": (error <= NEAR).double().mean().item(),
        "error": error.median().item(),
    }


def score_interpolation(made: Tensor, clips: Tensor, label: Tensor, ends: int) -> dict[str, Any]:
    """How clips are joined from `ends` frames at both ends.

    Args:
        made: `(b, 3, f, h, w)`; clips: the real ones.
        label: `(b,)`, index into the set's labels.

    Returns:
        `known_bit_equal`; `clips_right`, as for generated clips; `acceleration`: median of the whole clips, the seams
        included.
    """
    reading = read_shapes(made)
    same = all(torch.equal(made[:, :, part], clips[:, :, part]) for part in (slice(None, ends), slice(-ends, None)))
    return {"clips": len(made), "known_bit_equal": same, **label_score(reading, label), **acceleration(reading)}


def score_loop(made: Tensor) -> dict[str, Any]:
    """How the last frame of each clip `(b, 3, f, h, w)` joins its first.

    Returns:
        `seam`: the change of the picture from the last frame to the first, over the mean change from one frame to the
        next within the clip, median over clips; 1 is seamless. `step` and `steps_within`: the median way of the
        object's centre in pixels, over the seam and within the clips.
    """
    change = (made[:, :, 1:] - made[:, :, :-1]).abs().mean((1, 3, 4))  # b f-1
    seam = (made[:, :, 0] - made[:, :, -1]).abs().mean((1, 2, 3)) / change.mean(1).clamp(min=1e-6)
    centre = read_shapes(made).centre
    return {
        "clips": len(made),
        "seam": seam.median().item(),
        "step": (centre[:, 0] - centre[:, -1]).norm(dim=-1).median().item(),
        "steps_within": centre.diff(dim=1).norm(dim=-1).median().item(),
    }


def score_editing(
    inpaint: Callable[[Tensor, Tensor], Tensor],
    interpolate: Callable[[Tensor, Tensor, int], Tensor],
    loop: Callable[[Tensor, int], Tensor],
    clips: Tensor,
    label: Tensor,
    paths: Tensor,
    sizes: Tensor,
) -> dict[str, dict[str, Any]]:
    """Inpaint the middle half, interpolate 2 + (f - 4) + 2, and loop the first half of real clips.

    Args:
        inpaint: (clips, mask) -> clips.
        interpolate: (first, last, between) -> clips.
        loop: (clips, between) -> clips.
        clips: `(b, 3, f, h, w)`; label, paths, sizes: the truth about them.
    """
    frames, ends = clips.shape[2], 2
    hidden = range(frames // 4, frames // 4 + frames // 2)
    mask = hiding_box(paths, sizes, hidden, clips.shape[-1])
    half, between = frames // 2, frames - 2 * ends
    return {
        "inpainting": score_inpainting(inpaint(clips, mask), clips, mask, paths, hidden),
        "interpolation": score_interpolation(
            interpolate(clips[:, :, :ends], clips[:, :, -ends:], between), clips, label, ends
        ),
        "loop": score_loop(loop(clips[:, :, :half], frames - half)),
    }


def score_edits(subject: Subject) -> dict[str, Any]:
    """Inpaint, interpolate and loop held-out clips, told their labels. The results go to `samples/evaluated-*`.

    Raises:
        ValueError: a run without the set's labels, and as `held_out_shapes`.
    """
    subject.check_labels()
    protocol, pipeline = EditingProtocol(), subject.pipeline
    held_out = list(held_out_shapes(subject.root, pipeline.size).items())
    chosen = evenly(protocol.clips, len(held_out), middle=True)
    files, truth = zip(*(held_out[i] for i in chosen), strict=True)
    clips = torch.stack([read_video(file, range(pipeline.frames)) for file in files])
    label = label_numbers([clip.label for clip in truth])
    results: dict[str, Tensor] = {}

    def batched(name: str, task: Callable[..., Tensor], *given: Tensor, rest: tuple[Any, ...] = ()) -> Tensor:
        parts = zip(label.split(protocol.batch), *(x.split(protocol.batch) for x in given), strict=True)
        results[name] = torch.cat(
            [
                task(*part, *rest, [LABELS[i] for i in which], seed=seed, progress=True).cpu()
                for seed, (which, *part) in enumerate(parts)
            ]
        )
        return results[name]

    scores = score_editing(
        lambda clips, mask: batched("inpainting", pipeline.inpaint, clips, mask),
        lambda first, last, between: batched("interpolation", pipeline.interpolate, first, last, rest=(between,)),
        lambda clips, between: batched("loop", pipeline.loop, clips, rest=(between,)),
        clips,
        label,
        torch.stack([clip.path(pipeline.frames) for clip in truth]),
        torch.tensor([clip.size for clip in truth]),
    )
    for name, videos in results.items():
        subject.show(name, videos, [sheet(clip) for clip in videos[::4]])
    return {"protocol_editing": asdict(protocol), **scores}


def _distance(reading: Reading, paths: Tensor) -> Tensor:
    """Pixels from the true centres, `(b, f)`; the frame's diagonal where no object is found."""
    distance = (reading.centre - paths).norm(dim=-1).double()
    return torch.where(reading.found, distance, reading.diagonal)
