"""How much of a clip moves, as frames of a small model show it, and what that means for the choice of a codec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from vidiff.metrics.motion import moving

SIDE = 64
"""Pixels that the shorter side of the frames has at most for this."""

LITTLE = 0.05
"""Share of the pixels below which what moves is easily lost. In Ms. Pac-Man, Pong and Breakout it is 1.5 to 4 %."""


def share_that_moves(frames: Sequence[np.ndarray]) -> float | None:
    """The share of the pixels that differ from the still background; None for fewer than three frames.

    Args:
        frames: of one size, uint8 `(h, w, 3)`, in order.
    """
    if len(frames) < 3:
        return None
    height, width = frames[0].shape[:2]
    scale = min(1.0, SIDE / min(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = [F.adaptive_avg_pool2d(torch.from_numpy(x).permute(2, 0, 1).float() / 127.5 - 1, size) for x in frames]
    moves, _ = moving(torch.stack(small, dim=1)[None])
    return float(moves.double().mean())


def motion_lines(shares: Sequence[float]) -> list[str]:
    """What is to be said of the shares of a data set's clips, and done about them."""
    if not shares:
        return []
    few, middle = np.quantile(shares, [0.25, 0.5]).tolist()
    lines = [
        f"of {SIDE} px frames {middle:.1%} of the pixels move in the middle one of {len(shares)} clips, {few:.1%} or "
        "less in a quarter of them"
    ]
    if few < LITTLE:
        lines.append(
            "so little is easily lost in latents: for small frames choose an autoencoder that shrinks 4 times, not 8, "
            "with 16 channels and loss.moving=0.8, as the recipe small_vae; training tells what is kept"
        )
    return lines
