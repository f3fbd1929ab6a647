"""What pixels are, everywhere but in files: floats in [-1, 1], the three colours before frames, height and width.

Whoever takes some from outside asks here first. What comes otherwise, as most libraries have it, is refused with the
expression that converts it: taken as it is, it would make nonsense without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FARTHEST = 3.0
"""From 0, of what is given. Resizing overshoots [-1, 1]: the absolute values of bicubic weights add up to 1.25 a side
at most where they shrink and 1.375 where they enlarge, and so to 2.95 where frames went through both."""
COLOURS = 3
CHANNELS = (1, COLOURS, 4)  # grey, colours, and colours with alpha


def check_video(
    video: Tensor,
    name: str = "clip",
    *,
    one: bool = True,
    batch: bool = True,
    finite: bool = True,
    farthest: float = FARTHEST,
) -> None:
    """Refuse what is no `(3, f, h, w)` or `(b, 3, f, h, w)` in [-1, 1].

    Args:
        name: of the argument, in messages.
        one, batch: whether a single clip will do, and a batch of them.
        finite: whether all pixels have to be; else those that are not are not looked at.
        farthest: how far from 0 a pixel may be.

    Raises:
        ValueError: another kind of thing, of numbers, or of layout, with the expression that converts it; values that
            are not finite, or out of range.
    """
    _check(video, name, [*["(3, f, h, w)"] * one, *["(b, 3, f, h, w)"] * batch])
    check_values(video, name, farthest, finite)


def check_picture(picture: Tensor, name: str = "image", farthest: float = FARTHEST) -> None:
    """Refuse what is no `(3, h, w)` or `(b, 3, h, w)` in [-1, 1]. Arguments and errors as of `check_video`."""
    _check(picture, name, ["(3, h, w)", "(b, 3, h, w)"])
    check_values(picture, name, farthest)


def check_values(values: Tensor, name: str, farthest: float = FARTHEST, finite: bool = True) -> None:
    """Refuse what is no floating point, not finite, or out of range. Arguments and errors as of `check_video`."""
    if not values.is_floating_point():
        advice = f"{name}.float() / 127.5 - 1, if they are 0 to 255"
        raise ValueError(f"{name} is of {values.dtype}; expected floating point in [-1, 1]: {advice}")
    if not values.numel():
        return
    values = values.detach() if finite else values.detach().nan_to_num(0, 0, 0)
    low, high = (float(value) for value in values.aminmax())  # NaN, where any is
    if -farthest <= low <= high <= farthest:
        return
    if not values.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite: what made it has diverged, or divided by 0")
    advice = f"{name} / 127.5 - 1, if they are 0 to 255" if low >= 0 else "bring them there"
    raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}; expected [-1, 1]: {advice}")


def _check(x: Tensor, name: str, shapes: Sequence[str]) -> None:
    expected, dims = " or ".join(shapes), [shape.count(",") + 1 for shape in shapes]
    colours = -3 if "f" not in shapes[0] else -4  # where they are, counted from the end
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}; expected a torch tensor {expected} in [-1, 1]")
    if x.ndim not in dims or x.shape[colours] != COLOURS:
        way = _converted(x, name, colours, dims)
        raise ValueError(f"{name} is {tuple(x.shape)}; expected {expected} in [-1, 1]" + (f": {way}" if way else ""))


def _converted(x: Tensor, name: str, colours: int, dims: Sequence[int]) -> str | None:
    """An expression that brings pixels of another layout into ours; None where it cannot be told."""
    shape, way = list(x.shape), name
    if x.ndim < -colours or not x.numel():
        return None
    if shape[colours] not in CHANNELS and shape[-1] in CHANNELS:
        shape.insert(len(shape) + colours, shape.pop())
        way += f".movedim(-1, {colours})"
    elif colours == -4 and shape[-4] != COLOURS and shape[-3] == COLOURS:
        shape[-4], shape[-3] = shape[-3], shape[-4]
        way += ".transpose(-4, -3)"
    if shape[colours] not in CHANNELS:
        return None
    if shape[colours] == 1:
        way += f".repeat_interleave({COLOURS}, {colours})"
    elif shape[colours] == 4:
        way += f"[..., :{COLOURS}{', :' * (-1 - colours)}]"
    if x.ndim not in dims:
        if x.ndim + 1 not in dims:
            return None
        way += "[None]"
    if not x.is_floating_point():
        way += ".float() / 127.5 - 1"
    elif float(x.max()) > FARTHEST:
        way += " / 127.5 - 1"
    return way
