"""What a reader sees of a scoring: real and made clips side by side, made clips beside the training clips nearest to
them, and a page with both and all numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.evaluate.card import Card, Comparison, write_card
from vidiff.report.page import bullets
from vidiff.report.run import write_report
from vidiff.video.writer import grid, sheet, write_image, write_video

SHOWN = 8
"""Clips of each set that are shown."""


def write_page(
    folder: Path,
    card: Card,
    real: Tensor,
    made: Tensor,
    nearest: tuple[Tensor, Callable[[range], Tensor]] | None,
    fps: float,
    comparison: Comparison | None = None,
    further: Mapping[str, str] | None = None,
) -> Path:
    """Write card.json, scores.json, report.html and what it shows into a folder.

    Args:
        real, made: the first SHOWN clips or fewer of each, `(b, 3, f, h, w)`.
        nearest: for the clips of `made`, numbers `(b, k)` of the nearest training clips, and what reads a range.
        further: sections besides: heading -> HTML.

    Returns:
        the page's path.
    """
    write_card(folder / "card.json", card)
    told: dict[str, Any] = {"mind": list(card.cautions)} if card.cautions else {}
    told |= {"scores": dict(card.scores), "left out": dict(card.left_out), "protocol": dict(card.protocol)}
    told |= {"made": dict(card.made)}
    if comparison is not None:
        told["comparison"] = asdict(comparison)
    (folder / "scores.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / "environment.json").write_text(json.dumps(dict(card.measured), indent=1) + "\n")
    media = [folder / "real-left-made-right.mp4"]
    sides = [grid(x, columns=2) for x in (real, made)]
    height = max(side.shape[2] for side in sides)
    sides = [torch.nn.functional.pad(side, (0, 0, 0, height - side.shape[2]), value=-1) for side in sides]
    bar = torch.ones(3, real.shape[2], height, 4)
    write_video(media[0], torch.cat([sides[0], bar, sides[1]], 3), fps=fps)
    if nearest is not None:
        rows = []
        for clip, numbers in zip(made, nearest[0].tolist(), strict=True):
            known = torch.cat([nearest[1](range(n, n + 1)) for n in numbers])
            rows.append(torch.cat([sheet(x[:, :: max(1, x.shape[1] // 4)]) for x in (clip, *known)], dim=2))
        media.append(folder / "made-then-nearest-training-clips.png")
        write_image(media[1], torch.cat(rows, dim=1))
    sections = {"Mind": bullets(card.cautions), **(further or {})}
    return write_report(folder, f"Scores of {card.made['source']}", media, sections)
