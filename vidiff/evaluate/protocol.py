"""The shapes protocol: what a model must do, as numbers that anyone can get again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidiff.metrics.oracle import acceleration, extension_score, label_score, read_shapes


@dataclass(frozen=True)
class ShapesProtocol:
    """How many clips, and how they are extended. The scores of two models compare only under one protocol."""

    per_label: int = 8
    extended: int = 48  # held-out clips that are extended, evenly chosen
    untold: int = 24  # of these, extended once more without telling the model their label
    given: int = 8
    frames: int = 40
    horizon: int = 8
    batch: int = 24  # clips drawn at once


def score_generation(
    generate: Callable[[Sequence[str], int], Tensor], labels: Sequence[str], protocol: ShapesProtocol
) -> tuple[dict[str, Any], Tensor]:
    """Score generated clips.

    Args:
        generate: (label names, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        labels: names of the classes, in the oracle's order.

    Returns:
        scores, and the clips `(n, 3, f, h, w)`.
    """
    wanted = torch.arange(len(labels)).repeat(protocol.per_label)
    parts = wanted.split(protocol.batch)
    clips = torch.cat([generate([labels[i] for i in part], seed) for seed, part in enumerate(parts)])
    reading = read_shapes(clips)
    return {"clips": len(clips), **label_score(reading, wanted), **acceleration(reading)}, clips


def score_extension(
    extend: Callable[[Tensor, Sequence[str] | None, int, int], Tensor],
    clips: Tensor,
    labels: Sequence[str] | None,
    paths: Tensor,
    protocol: ShapesProtocol,
) -> tuple[dict[str, Any], Tensor]:
    """Score how held-out clips are continued.

    Args:
        extend: (given `(b, 3, g, h, w)`, label names, frames, seed) -> `(b, 3, frames, h, w)`.
        clips: real ones, `(n, 3, f, h, w)`.
        labels: what each shows; None to leave the model to see it for itself.
        paths: their true centres `(n, f, 2)` in pixels.

    Returns:
        scores, and the extended clips `(n, 3, protocol.frames, h, w)`.
    """
    given = clips[:, :, : protocol.given]
    made = torch.cat(
        [
            extend(part, labels and labels[seed * protocol.batch :][: len(part)], protocol.frames, seed)
            for seed, part in enumerate(given.split(protocol.batch))
        ]
    )
    score = extension_score(read_shapes(made), paths, protocol.given, protocol.horizon)
    equal = bool(torch.equal(made[:, :, : protocol.given], given))
    return {"clips": len(made), "given_bit_equal": equal, **score}, made


def score_real(video: Tensor, decoded: Tensor, label: Tensor) -> dict[str, Any]:
    """What real clips reach after the codec, which no model on its latents can beat; and the codec's PSNR in dB."""
    reading = read_shapes(decoded)
    error = (video - decoded).square().mean().clamp(min=1e-12)  # no codec at all: 126 dB, and not infinity
    return {
        "psnr": float(10 * torch.log10(4 / error)),
        **label_score(reading, label),
        **acceleration(reading),
    }
