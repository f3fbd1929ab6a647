"""Where things are in the frames of a game, found by their colour and by where they can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from vidiff.pixels import check_video

SIDE = 64
"""Places and their errors are in pixels of frames of this width and height, whatever the frames' own."""

# Of Breakout, in pixels as the Atari draws it: 160 wide, 210 high.
WIDTH, HEIGHT = 160, 210
WALLS = (8, 152)  # columns between which the field lies
PADDLE_ROWS, PADDLE_WIDTH = (188, 194), 16  # the paddle's own four rows, and one around them that resizing blurs it to
BALL_ROWS = ((37, 52), (96, 187))  # black but for the ball: above the bricks, and from below them to above the paddle
PADDLE_LEAST = (
    0.05  # mean redness: about half of that of one half hidden by the right wall, 0.09; real ones have to 0.3
)
BALL_LEAST = 0.35  # summed redness: half of what a ball has as a rule; real frames have 0.4 to 1.3, or below 0.05


@dataclass(frozen=True)
class Thing:
    """What an oracle finds.

    Args:
        near: distance, in pixels of frames of SIDE, within which it counts as where it should be.
    """

    near: float


@dataclass(frozen=True)
class Oracle:
    """Reads the places of things from frames that show an environment whole, whatever their size.

    Args:
        read: video `(b, 3, f, h, w)` in [-1, 1] -> by name `(b, f, k)`, places in pixels of frames of SIDE from the
            left (and from the top), NaN where nothing is found.
        things: by name.
    """

    read: Callable[[Tensor], dict[str, Tensor]]
    things: dict[str, Thing]


def breakout(video: Tensor) -> dict[str, Tensor]:
    """Of Breakout: `paddle`, `(b, f, 1)`, the middle of what is seen of it; and `ball`, `(b, f, 2)`, as x and y.

    Both are red, as is nothing else where they can be. The ball is looked for where the field is black: not among the
    bricks, and not beside or below the paddle.
    """
    check_video(video, "video", one=False)
    red = video.double()
    red = ((red[:, 0] - red[:, 1:].amax(1)) / 2).clamp(min=0)  # b f h w
    return {"paddle": _paddle(red), "ball": _ball(red)}


ORACLES = {"ALE/Breakout-v5": Oracle(breakout, {"paddle": Thing(2.0), "ball": Thing(3.0)})}
"""By the name of the environment."""


def _paddle(red: Tensor) -> Tensor:
    height, width = red.shape[-2:]
    top, bottom = (round(row * height / HEIGHT) for row in PADDLE_ROWS)
    left, right = _between(WALLS, width / WIDTH)
    profile = red[:, :, top:bottom, left:right].mean(2)  # b f w
    wide = max(1, round(PADDLE_WIDTH * width / WIDTH)) // 2 * 2 + 1
    smooth = avg_pool1d(profile, wide, 1, wide // 2)
    peak, middle = smooth.max(-1, keepdim=True)
    column = torch.arange(right - left)
    own = profile * ((column - middle).abs() <= 0.55 * PADDLE_WIDTH * width / WIDTH + 3 * width / WIDTH)
    place = (own * (column + left + 0.5)).sum(-1, keepdim=True) / own.sum(-1, keepdim=True).clamp(min=1e-9)
    return torch.where(peak >= PADDLE_LEAST, place * SIDE / width, torch.nan)


def _ball(red: Tensor) -> Tensor:
    height, width = red.shape[-2:]
    field = torch.zeros(height, width, dtype=red.dtype)
    left, right = _between(WALLS, width / WIDTH)
    for rows in BALL_ROWS:
        top, bottom = _between(rows, height / HEIGHT)
        field[top:bottom, left:right] = 1
    red = red * field
    across = 2 * round(1.5 * width / SIDE) - 1  # 3 pixels of 64
    mass = avg_pool2d(red, across, 1, across // 2) * across**2 * (SIDE / width) * (SIDE / height)
    peak, where = mass.flatten(2).max(-1)  # b f
    at = torch.stack([where % width, where // width], -1)[..., None, None]  # b f 2 1 1
    grid = torch.stack([torch.arange(width).expand(height, -1), torch.arange(height)[:, None].expand(-1, width)])
    close = ((grid - at).abs() <= 3 * width / SIDE).all(2)  # b f h w
    own = red * close
    total = own.sum((2, 3)).clamp(min=1e-9)
    place = torch.einsum("bfhw, khw -> bfk", own, grid.double() + 0.5) / total[..., None]
    scale = torch.tensor([SIDE / width, SIDE / height], dtype=red.dtype)
    return torch.where(peak[..., None] >= BALL_LEAST, place * scale, torch.nan)


def _between(ends: tuple[int, int], scale: float) -> tuple[int, int]:
    """Whole pixels within two ends, each a hair inside."""
    return -int(-ends[0] * scale // 1), int(ends[1] * scale)
