"""The kernels as operators of torch, each with its derivative: `norm`, `enter` and `leave`.

An operator says of itself what shapes it gives, so that compilers follow it without running it, and Triton is imported
when one first runs. All compute in float32 and give the type of their input; derivatives have none of their own.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

EPS = 1e-5  # of every norm, as torch's own
TILE = 2048  # numbers that a program holds at once
STEPS = 16  # tiles of one program, at most, where gradients of what rows share are summed
LAST = torch.channels_last


def tiles(rows: int, channels: int) -> tuple[int, int]:
    """Rows of a tile, and its width: powers of 2, as Triton asks for."""
    width = 1 << (channels - 1).bit_length()
    return max(1, min(TILE // width, 1 << (rows - 1).bit_length())), width


def programs(rows: int, channels: int) -> tuple[int, int]:
    """Programs that share `rows` out, and tiles that each goes through, for a derivative."""
    count = math.ceil(rows / tiles(rows, channels)[0])
    steps = min(STEPS, count)
    return math.ceil(count / steps), steps


def order(axis: str, frames: int, area: int) -> tuple[int, int, int]:
    """Tokens of a sequence, and what a frame and a place of it add to a token's number."""
    return {"space": (area, 0, 1), "time": (frames, 1, 0), "joint": (frames * area, area, 1)}[axis]


def on(device: torch.device) -> AbstractContextManager[object]:
    """Inside, kernels start on this device: Triton goes by the thread's current one, and not by what it is given."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@torch.library.custom_op("vidiff::norm", mutates_args=())
def norm(x: Tensor, table: Tensor, modulated: bool) -> Tensor:
    """Layer norm of each voxel over its channels, then a scale; or scale, shift and SiLU.

    Args:
        x: `(n, c, h, w)`.
        table: `(c,)`, the scale; or, modulated, `(n, 2 c)`, rows of which may lie apart: what is added to a scale of 1,
            then the shift.

    Returns:
        `(n, c, h, w)` in channels-last memory.
    """
    from vidiff.nn.fused import kernels

    x, (table, pitch) = x.contiguous(memory_format=LAST), _rows(table)
    y, channels = torch.empty_like(x), x.shape[1]
    groups, rows = _groups(x, modulated)
    height, width = tiles(rows, channels)
    chunks = math.ceil(rows / height)
    with on(x.device):
        kernels.norm[(groups * chunks,)](
            x, table, y, rows, chunks, channels, pitch, EPS=EPS, MODULATED=modulated, ROWS=height, WIDTH=width
        )
    return y


@torch.library.custom_op("vidiff::norm_back", mutates_args=())
def norm_back(grad: Tensor, x: Tensor, table: Tensor, modulated: bool) -> tuple[Tensor, Tensor]:
    """Derivative of `norm`: of `x`, and of `table` as float32 `(groups, programs, 2, c)`, a part from each program."""
    from vidiff.nn.fused import kernels

    grad, x, (table, pitch) = grad.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST), _rows(table)
    of_x, channels = torch.empty_like(x), x.shape[1]
    groups, rows = _groups(x, modulated)
    height, width = tiles(rows, channels)
    chunks, steps = programs(rows, channels)
    of_table = torch.empty(groups, chunks, 2, channels, device=x.device)
    with on(x.device):
        kernels.norm_back[(groups * chunks,)](
            grad, x, table, of_x, of_table, rows, chunks, channels, pitch, steps, EPS=EPS, MODULATED=modulated,
            ROWS=height, WIDTH=width,
        )  # fmt: skip
    return of_x, of_table


def _rows(table: Tensor) -> tuple[Tensor, int]:
    """A table of which numbers of a row lie together, and how far rows lie apart."""
    table = table if table.stride(-1) == 1 else table.contiguous()
    return table, table.stride(0)


def _groups(x: Tensor, modulated: bool) -> tuple[int, int]:
    """How many groups of rows have a scale of their own, and rows of each."""
    n, _, h, w = x.shape
    return (n, h * w) if modulated else (1, n * h * w)


@norm.register_fake
def _(x: Tensor, table: Tensor, modulated: bool) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


@norm_back.register_fake
def _(grad: Tensor, x: Tensor, table: Tensor, modulated: bool) -> tuple[Tensor, Tensor]:
    groups, rows = _groups(x, modulated)
    of_table = torch.empty(groups, programs(rows, x.shape[1])[0], 2, x.shape[1], device=x.device)
    return torch.empty_like(x, memory_format=LAST), of_table


def _norm_keeps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, table, ctx.modulated = inputs
    ctx.save_for_backward(x, table)


def _norm_derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, table = ctx.saved_tensors
    of_x, parts = norm_back(grad, x, table, ctx.modulated)
    of_table = parts.sum(1).flatten(1) if ctx.modulated else parts[0, :, 0].sum(0)
    return of_x, of_table.to(table.dtype), None


norm.register_autograd(_norm_derivative, setup_context=_norm_keeps)


@torch.library.custom_op("vidiff::enter", mutates_args=())
def enter(
    x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor, turn: Tensor, axis: str, frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each head: normed, turned, the clock in the last channel; `vidiff.nn.heads.enter`.

    Args:
        x: `(b f) (3 n d) h w`.
        sharpness: `(d,)`; preference: `(n,)`, which kernels multiply by the root of d; clock: `(b f) 1 h w`; all of
            float32.
        turn: cosines and sines `(2, tokens, d // 2)` in float32.
        axis: "space", "time" or "joint".

    Returns:
        three `(sequences, tokens, n, d)`.
    """
    from vidiff.nn.fused import kernels

    x, clock = x.contiguous(memory_format=LAST), clock.contiguous()
    shape = _sequences(x, len(sharpness), axis, frames)
    q, k, v = (x.new_empty(shape) for _ in range(3))
    rows, (height, width) = clock.numel(), tiles(clock.numel(), len(sharpness))
    with on(x.device):
        kernels.enter[(math.ceil(rows / height) * len(preference),)](
            x, sharpness.contiguous(), preference.contiguous(), clock, turn.contiguous(), q, k, v, rows,
            *_sizes(x, shape, axis, frames), EPS=EPS, TIME=axis == "time", ROWS=height, WIDTH=width,
        )  # fmt: skip
    return q, k, v


@torch.library.custom_op("vidiff::enter_back", mutates_args=())
def enter_back(
    grads: list[Tensor], x: Tensor, sharpness: Tensor, turn: Tensor, axis: str, frames: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of `enter`: of `x`; of sharpness and preference `(programs, n, d)` and `(programs, n)`, a part from
    each program; of the clock `(rows, n)`, a part from each head."""
    from vidiff.nn.fused import kernels

    x = x.contiguous(memory_format=LAST)
    shape = _sequences(x, len(sharpness), axis, frames)
    rows, heads, size = x.shape[0] * x.shape[2] * x.shape[3], *shape[2:]
    (height, width), (count, steps) = tiles(rows, size), programs(rows, size)
    of_x, of_sharpness = torch.empty_like(x), torch.empty(count, heads, size, device=x.device)
    of_preference, of_clock = (torch.empty(number, heads, device=x.device) for number in (count, rows))
    with on(x.device):
        kernels.enter_back[(count * heads,)](
            *(grad.contiguous() for grad in grads), x, sharpness.contiguous(), turn.contiguous(), of_x, of_sharpness,
            of_preference, of_clock, rows, *_sizes(x, shape, axis, frames), steps, EPS=EPS, TIME=axis == "time",
            ROWS=height, WIDTH=width,
        )  # fmt: skip
    return of_x, of_sharpness, of_preference, of_clock


def _sequences(x: Tensor, size: int, axis: str, frames: int) -> tuple[int, int, int, int]:
    """Sequences, tokens, heads and their channels of `(b f) (3 n d) h w`."""
    area = x.shape[2] * x.shape[3]
    tokens = order(axis, frames, area)[0]
    return x.shape[0] * area // tokens, tokens, x.shape[1] // (3 * size), size


def _sizes(x: Tensor, shape: tuple[int, ...], axis: str, frames: int) -> tuple[int, ...]:
    """What kernels of attention are told besides the rows."""
    area = x.shape[2] * x.shape[3]
    return (*shape[2:], frames, area, *order(axis, frames, area))


@enter.register_fake
def _(
    x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor, turn: Tensor, axis: str, frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _sequences(x, len(sharpness), axis, frames)
    return x.new_empty(shape), x.new_empty(shape), x.new_empty(shape)


@enter_back.register_fake
def _(
    grads: list[Tensor], x: Tensor, sharpness: Tensor, turn: Tensor, axis: str, frames: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, heads, size = _sequences(x, len(sharpness), axis, frames)
    rows = x.shape[0] * x.shape[2] * x.shape[3]
    count = programs(rows, size)[0]
    parts = ((count, heads, size), (count, heads), (rows, heads))
    of_sharpness, of_preference, of_clock = (torch.empty(part, device=x.device) for part in parts)
    return torch.empty_like(x, memory_format=LAST), of_sharpness, of_preference, of_clock


def _enter_keeps(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, sharpness, _, clock, turn, ctx.axis, ctx.frames = inputs
    ctx.clock = clock.shape
    ctx.save_for_backward(x, sharpness, turn)


def _enter_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    x, sharpness, turn = ctx.saved_tensors
    of_x, sharp, preferred, clock = enter_back(list(grads), x, sharpness, turn, ctx.axis, ctx.frames)
    of_clock = clock.sum(1).view(ctx.clock) if ctx.needs_input_grad[3] else None
    return of_x, sharp.sum((0, 1)), preferred.sum(0), of_clock, None, None, None


enter.register_autograd(_enter_derivative, setup_context=_enter_keeps)


@torch.library.custom_op("vidiff::leave", mutates_args=())
def leave(x: Tensor, turn: Tensor, axis: str, frames: int, height: int, width: int) -> Tensor:
    """Attention's result `(sequences, tokens, n, d)`, turned, as `(b f) (n d) h w` in channels-last memory;
    `vidiff.nn.heads.leave`.

    Args:
        turn: as that of `enter`, the other way round.
    """
    y = _clip(x, frames, height, width, axis)
    _leave(x.contiguous(), turn, y, (axis, frames, height * width), x.shape, False)
    return y


@torch.library.custom_op("vidiff::leave_back", mutates_args=())
def leave_back(grad: Tensor, turn: Tensor, axis: str, frames: int, size: int) -> Tensor:
    """Derivative of `leave`: the like of its input, of heads with `size` channels."""
    x = grad.new_empty(_entering(grad, axis, frames, size))
    area = grad.shape[2] * grad.shape[3]
    _leave(grad.contiguous(memory_format=LAST), turn, x, (axis, frames, area), x.shape, True)
    return x


def _leave(
    given: Tensor, turn: Tensor, made: Tensor, place: tuple[str, int, int], shape: torch.Size, backward: bool
) -> None:
    from vidiff.nn.fused import kernels

    (axis, frames, area), (sequences, tokens, heads, size) = place, shape
    height, width = tiles(sequences * tokens, size)
    with on(made.device):
        kernels.leave[(math.ceil(sequences * tokens / height) * heads,)](
            given, turn.contiguous(), made, sequences * tokens, heads, size, frames, area, *order(axis, frames, area),
            BACKWARD=backward, TIME=axis == "time", ROWS=height, WIDTH=width,
        )  # fmt: skip


def _clip(x: Tensor, frames: int, height: int, width: int, axis: str) -> Tensor:
    sequences, tokens, heads, size = x.shape
    shape = sequences * tokens // (height * width), heads * size, height, width
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)


def _entering(grad: Tensor, axis: str, frames: int, size: int) -> tuple[int, int, int, int]:
    n, channels, h, w = grad.shape
    tokens = order(axis, frames, h * w)[0]
    return n * h * w // tokens, tokens, channels // size, size


@leave.register_fake
def _(x: Tensor, turn: Tensor, axis: str, frames: int, height: int, width: int) -> Tensor:
    return _clip(x, frames, height, width, axis)


@leave_back.register_fake
def _(grad: Tensor, turn: Tensor, axis: str, frames: int, size: int) -> Tensor:
    return grad.new_empty(_entering(grad, axis, frames, size))


def _leave_keeps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, turn, ctx.axis, ctx.frames, _, _ = inputs
    ctx.size = x.shape[-1]
    ctx.save_for_backward(turn)


def _leave_derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x = leave_back(grad, ctx.saved_tensors[0], ctx.axis, ctx.frames, ctx.size)
    return of_x, None, None, None, None, None


leave.register_autograd(_leave_derivative, setup_context=_leave_keeps)
