"""The kernels, in Triton: rows of voxels, each read once, computed in float32 and written once.

A clip `(b f) c h w` in channels-last memory is rows of c channels, in the order b f h w. Attention over time wants its
rows in the order b h w f, that over space or both as they are; `TIME` says which. Nothing is added by atomics, so
results are the same at each run: gradients of what many rows share are left as a sum for each program, and added later.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _normed(x, size, inside, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows without mean and of unit variance, and by what they were multiplied."""
    mean = tl.sum(x, 1) / size
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / size + EPS)
    return centred * rstd[:, None], rstd


@triton.jit
def _norm_back(grad, normed, rstd, size):  # type: ignore[no-untyped-def]
    """Derivative of `_normed`."""
    mean, along = tl.sum(grad, 1) / size, tl.sum(grad * normed, 1) / size
    return (grad - mean[:, None] - normed * along[:, None]) * rstd[:, None]


@triton.jit
def _turned(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Neighbouring channels as complex numbers, times cos + i sin."""
    real, imaginary = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
    return tl.reshape(tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos), (ROWS, WIDTH))


@triton.jit
def _gains(table, group, column, wide, channels, pitch, MODULATED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scale and shift of a group of rows: of `(groups, 2 c)`, whose rows lie `pitch` apart, scales
    being added to 1; of `(c,)`, a scale alone."""
    if MODULATED:
        at = table + group * pitch + column
        scale = 1.0 + tl.load(at, mask=wide, other=0.0).to(tl.float32)
        shift = tl.load(at + channels, mask=wide, other=0.0).to(tl.float32)
    else:
        scale = tl.load(table + column, mask=wide, other=0.0).to(tl.float32)
        shift = scale * 0.0
    return scale[None, :], shift[None, :]


@triton.jit
def norm(  # type: ignore[no-untyped-def]
    x,
    table,
    y,
    rows,
    chunks,
    channels,
    pitch,
    EPS: tl.constexpr,
    MODULATED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Layer norm, scale and shift of `rows` rows a group, and SiLU where they are modulated."""
    group = (tl.program_id(0) // chunks).to(tl.int64)
    row, column = (tl.program_id(0) % chunks) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    wide = column < channels
    inside = (row < rows)[:, None] & wide[None, :]
    at = (group * rows + row)[:, None] * channels + column[None, :]
    normed, _ = _normed(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), channels, inside, EPS)
    scale, shift = _gains(table, group, column, wide, channels, pitch, MODULATED)
    result = normed * scale + shift
    if MODULATED:
        result = result * tl.sigmoid(result)
    tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_back(  # type: ignore[no-untyped-def]
    grad,
    x,
    table,
    of_x,
    of_table,
    rows,
    chunks,
    channels,
    pitch,
    STEPS,
    EPS: tl.constexpr,
    MODULATED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Derivative of `norm`; `of_table`: `(programs, 2, c)`, of scales and shifts."""
    group = (tl.program_id(0) // chunks).to(tl.int64)
    column = tl.arange(0, WIDTH)
    wide = column < channels
    scale, shift = _gains(table, group, column, wide, channels, pitch, MODULATED)
    of_scale, of_shift = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for step in range(STEPS):
        row = ((tl.program_id(0) % chunks) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & wide[None, :]
        at = (group * rows + row)[:, None] * channels + column[None, :]
        normed, rstd = _normed(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), channels, inside, EPS)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if MODULATED:
            result = normed * scale + shift
            sigmoid = tl.sigmoid(result)
            slope = slope * sigmoid * (1.0 + result * (1.0 - sigmoid))
        of_scale += tl.sum(slope * normed, 0)
        of_shift += tl.sum(slope, 0)
        slope = _norm_back(slope * scale, normed, rstd, channels)
        tl.store(of_x + at, slope.to(of_x.dtype.element_ty), mask=inside)
    here = of_table + tl.program_id(0).to(tl.int64) * 2 * channels + column
    tl.store(here, of_scale, mask=wide)
    tl.store(here + channels, of_shift, mask=wide)


@triton.jit
def _places(row, frames, area, by_frame, by_place, TIME: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of rows in the order b f h w: those in attention's order, and which tokens of their sequences they are."""
    frame, place = (row // area) % frames, row % area
    to = row
    if TIME:
        to = ((row // (area * frames)) * area + place) * frames + frame
    return to, frame * by_frame + place * by_place


@triton.jit
def _angles(turn, token, pair, tokens, pairs, inside):  # type: ignore[no-untyped-def]
    """Cosines and sines of tokens, from `(2, tokens, pairs)`."""
    at = turn + token[:, None] * pairs + pair[None, :]
    mask = inside[:, None] & (pair < pairs)[None, :]
    return tl.load(at, mask=mask, other=0.0), tl.load(at + tokens * pairs, mask=mask, other=0.0)


@triton.jit
def enter(  # type: ignore[no-untyped-def]
    x,
    sharpness,
    preference,
    clock,
    turn,
    q,
    k,
    v,
    rows,
    heads,
    size,
    frames,
    area,
    tokens,
    by_frame,
    by_place,
    EPS: tl.constexpr,
    TIME: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Rows of 3 x heads x size to queries, keys and values of a head: normed, turned, the clock in the last channel."""
    head, row = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column, pair = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 2)
    wide, last = column < size, (column == size - 1)[None, :]
    inside = (row < rows)[:, None] & wide[None, :]
    to, token = _places(row, frames, area, by_frame, by_place, TIME)
    cos, sin = _angles(turn, token, pair, tokens, size // 2, row < rows)
    source = (row * 3 * heads + head)[:, None] * size + column[None, :]
    target = (to * heads + head)[:, None] * size + column[None, :]
    sharp = tl.load(sharpness + column, mask=wide, other=0.0).to(tl.float32)[None, :]

    normed, _ = _normed(tl.load(x + source, mask=inside, other=0.0).to(tl.float32), size, inside, EPS)
    result = _turned(normed * sharp, cos, sin, ROWS, WIDTH)
    preferred = tl.load(preference + head).to(tl.float32) * tl.sqrt_rn(size * 1.0)
    result = tl.where(last, preferred, result)
    tl.store(q + target, result.to(q.dtype.element_ty), mask=inside)

    source += heads * size
    normed, _ = _normed(tl.load(x + source, mask=inside, other=0.0).to(tl.float32), size, inside, EPS)
    result = _turned(normed * sharp, cos, sin, ROWS, WIDTH)
    result = tl.where(last, tl.load(clock + row, mask=row < rows, other=0.0).to(tl.float32)[:, None], result)
    tl.store(k + target, result.to(k.dtype.element_ty), mask=inside)

    source += heads * size
    result = _turned(tl.load(x + source, mask=inside, other=0.0).to(tl.float32), cos, sin, ROWS, WIDTH)
    tl.store(v + target, result.to(v.dtype.element_ty), mask=inside)


@triton.jit
def enter_back(  # type: ignore[no-untyped-def]
    of_q,
    of_k,
    of_v,
    x,
    sharpness,
    turn,
    of_x,
    of_sharpness,
    of_preference,
    of_clock,
    rows,
    heads,
    size,
    frames,
    area,
    tokens,
    by_frame,
    by_place,
    STEPS,
    EPS: tl.constexpr,
    TIME: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Derivative of `enter`; sharpness `(programs, size)`, preference `(programs,)`, clock `(rows, heads)`."""
    head, first = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64) * STEPS * ROWS
    column, pair = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 2)
    wide, last = column < size, (column == size - 1)[None, :]
    sharp = tl.load(sharpness + column, mask=wide, other=0.0).to(tl.float32)[None, :]
    sharps, preferred = tl.zeros((WIDTH,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & wide[None, :]
        to, token = _places(row, frames, area, by_frame, by_place, TIME)
        cos, sin = _angles(turn, token, pair, tokens, size // 2, row < rows)
        source = (row * 3 * heads + head)[:, None] * size + column[None, :]
        target = (to * heads + head)[:, None] * size + column[None, :]

        slope = tl.load(of_q + target, mask=inside, other=0.0).to(tl.float32)
        preferred += tl.sum(tl.where(last, slope, 0.0), 1)
        slope = _turned(tl.where(last, 0.0, slope), cos, -sin, ROWS, WIDTH)
        normed, rstd = _normed(tl.load(x + source, mask=inside, other=0.0).to(tl.float32), size, inside, EPS)
        sharps += tl.sum(slope * normed, 0)
        slope = _norm_back(slope * sharp, normed, rstd, size)
        tl.store(of_x + source, slope.to(of_x.dtype.element_ty), mask=inside)

        source += heads * size
        slope = tl.load(of_k + target, mask=inside, other=0.0).to(tl.float32)
        tl.store(of_clock + row * heads + head, tl.sum(tl.where(last, slope, 0.0), 1), mask=row < rows)
        slope = _turned(tl.where(last, 0.0, slope), cos, -sin, ROWS, WIDTH)
        normed, rstd = _normed(tl.load(x + source, mask=inside, other=0.0).to(tl.float32), size, inside, EPS)
        sharps += tl.sum(slope * normed, 0)
        slope = _norm_back(slope * sharp, normed, rstd, size)
        tl.store(of_x + source, slope.to(of_x.dtype.element_ty), mask=inside)

        source += heads * size
        slope = _turned(tl.load(of_v + target, mask=inside, other=0.0).to(tl.float32), cos, -sin, ROWS, WIDTH)
        tl.store(of_x + source, slope.to(of_x.dtype.element_ty), mask=inside)
    tl.store(of_sharpness + tl.program_id(0).to(tl.int64) * size + column, sharps, mask=wide)
    tl.store(of_preference + tl.program_id(0), tl.sum(preferred, 0) * tl.sqrt_rn(size * 1.0))


@triton.jit
def leave(  # type: ignore[no-untyped-def]
    x,
    turn,
    y,
    rows,
    heads,
    size,
    frames,
    area,
    tokens,
    by_frame,
    by_place,
    BACKWARD: tl.constexpr,
    TIME: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Rows of a head from attention's order into that of clips, turned; or, as its derivative, the other way round."""
    head, row = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column, pair = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 2)
    inside = (row < rows)[:, None] & (column < size)[None, :]
    to, token = _places(row, frames, area, by_frame, by_place, TIME)
    cos, sin = _angles(turn, token, pair, tokens, size // 2, row < rows)
    clip = (row * heads + head)[:, None] * size + column[None, :]
    sequence = (to * heads + head)[:, None] * size + column[None, :]
    if BACKWARD:
        result = _turned(tl.load(x + clip, mask=inside, other=0.0).to(tl.float32), cos, -sin, ROWS, WIDTH)
        tl.store(y + sequence, result.to(y.dtype.element_ty), mask=inside)
    else:
        result = _turned(tl.load(x + sequence, mask=inside, other=0.0).to(tl.float32), cos, sin, ROWS, WIDTH)
        tl.store(y + clip, result.to(y.dtype.element_ty), mask=inside)
