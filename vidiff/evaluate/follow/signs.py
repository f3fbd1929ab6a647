"""Actions as small signs to stand between pictures: arrows and a disc that light up, boxes where names tell no way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidiff.data.actions.space import Action, ActionSpace

SIDE = 14  # pixels of a sign
UNLIT, LIT = -0.55, 1.0
WORDS = {  # in an action's name -> its sign
    "left": ("LEFT",),
    "up": ("UP", "FORWARD", "GAS", "ACCELERATE"),
    "down": ("DOWN", "BACKWARD", "BRAKE"),
    "right": ("RIGHT",),
    "press": ("FIRE", "ATTACK", "SHOOT", "JUMP", "USE", "OPEN"),
}


def signs(space: ActionSpace, row: Sequence[float] | None, width: int) -> Tensor:
    """What is done in a frame, `(3, SIDE, width)` in [-1, 1].

    An arrow for each way that the names of actions tell, and a disc for what is pressed; where these do not tell all
    actions of a dimension apart, a box for each number. Of a continuous one, how much of its range.

    Args:
        row: a number for each dimension; None, or what is no number of it, lights nothing.
    """
    values = [math.nan] * len(space.dimensions) if row is None else row
    parts = [part for one, value in zip(space.dimensions, values, strict=True) for part in _of(one, float(value))]
    strip = torch.cat(parts, 1)
    left = (width - strip.shape[1]) // 2  # below 0 where they are cut
    return pad(strip, (left, width - strip.shape[1] - left), value=-1.0).expand(3, -1, -1)


def _of(one: Action, value: float) -> list[Tensor]:
    if one.kind == "continuous":
        share = (value - one.low) / (one.high - one.low)
        bar = torch.full((SIDE, 4 * SIDE), -1.0)
        bar[4:-4, 2:-2] = torch.where((torch.arange(4 * SIDE - 4) + 0.5) / (4 * SIDE - 4) < share, LIT, UNLIT)
        return [bar]
    names = one.names or (("", one.name) if one.count == 2 else ())  # a button by itself is up or down
    ways = [
        tuple(sign for sign, words in WORDS.items() if any(word in name.upper() for word in words)) for name in names
    ]
    if names and len({*ways}) == one.count:
        lit = ways[int(value)] if value in range(one.count) else ()
        return [_drawn(sign, sign in lit) for sign in WORDS if any(sign in way for way in ways)]
    return [_drawn("box", value == number) for number in range(one.count)]


def _drawn(sign: str, lit: bool) -> Tensor:
    """A sign, `(SIDE, SIDE)`."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    if sign == "box":
        shape = (x.abs() < 0.6) & (y.abs() < 0.6)
    elif sign == "press":
        shape = x**2 + y**2 < 0.5
    else:
        along, across = {"left": (-x, y), "right": (x, y), "up": (-y, x), "down": (y, x)}[sign]
        shape = (along > -0.7) & (across.abs() < (0.8 - along) / 2)
    return torch.where(shape, LIT if lit else UNLIT, -1.0)
