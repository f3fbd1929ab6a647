"""The objects of the shapes set: three shapes in four colours, as they are drawn and as the oracle knows them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = ("disc", "square", "triangle")
COLOURS = {  # RGB in [0, 255]: of like luma, and at least 40 degrees of hue apart as seen from the background
    "blue": (50, 90, 240),
    "green": (40, 180, 60),
    "red": (225, 45, 45),
    "yellow": (235, 215, 50),
}
BACKGROUND = (40, 40, 40)
LABELS = tuple(f"{colour}_{shape}" for colour in COLOURS for shape in SHAPES)  # sorted, as class folders are

SQUARE_SIDE = math.sqrt(math.pi)  # all for size 1, that is, an area of pi
TRIANGLE_SIDE = 2 * math.sqrt(math.pi / math.sqrt(3))
TRIANGLE_INRADIUS = TRIANGLE_SIDE / (2 * math.sqrt(3))


def rgb(colour: tuple[int, int, int]) -> Tensor:
    """An RGB triple in [0, 255] as the (3,) float32 in [-1, 1] that a video holds."""
    return torch.tensor(colour) / 127.5 - 1


def coverage(shape: str, centre: Tensor, size: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel n objects of one shape cover: (n, 2), (n,) -> (n, height, width) in [0, 1].

    The share of a pixel inside an edge is taken as 1/2 - the signed distance of its centre to that edge.

    Raises:
        ValueError: an unknown shape.
    """
    x = torch.arange(width) + 0.5 - centre[:, 0, None, None].float()  # n 1 w
    y = (torch.arange(height) + 0.5)[:, None] - centre[:, 1, None, None].float()  # n h 1
    size = size.float()[:, None, None]  # n 1 1
    if shape == "disc":
        outside = torch.sqrt(x * x + y * y) - size
    elif shape == "square":
        outside = torch.maximum(x.abs(), y.abs()) - size * (SQUARE_SIDE / 2)
    elif shape == "triangle":  # points up: two slanted edges mirrored in x, and the base
        outside = torch.maximum(x.abs() * (math.sqrt(3) / 2) - y / 2, y) - size * TRIANGLE_INRADIUS
    else:
        raise ValueError(f"no shape {shape!r}; choose one of {', '.join(SHAPES)}")
    return (0.5 - outside).clamp(0, 1)  # n h w
