"""Whether the kernels serve: chosen by a probe on the device, as attention's backends are."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.nn import heads
from vidiff.nn.attention import apart
from vidiff.nn.embed import Turn, rotary, turn_by
from vidiff.nn.fused import ops

SETTINGS = ("auto", "plain", "triton")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 8192  # channels of a row, which a program holds whole
CLIPS, FRAMES, SIDE = 2, 8, 16  # of a probe

ABSENT = "Triton is not installed"

log = logging.getLogger(__name__)


class Assumed(NamedTuple):
    """A GPU that is not there, and whether blocks are compiled for it."""

    compiled: bool


_assumed: ContextVar[Assumed | None] = ContextVar("assumed", default=None)


class Found(NamedTuple):
    """What a probe saw: why the kernels cannot be used, if so, and seconds of a forward and a backward pass."""

    refused: str | None
    plain: float = 0.0
    triton: float = 0.0


class Case(NamedTuple):
    """The same by a formula and by kernels; of the inputs, the first alone comes in a network's type."""

    plain: Callable[..., tuple[Tensor, ...]]
    fused: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]


def serves(part: str, x: Tensor, setting: str, *sizes: int) -> bool:
    """Whether `x` goes through the kernels of a part.

    On a CPU the formulas serve, but where Triton's interpreter runs and is asked for (`TRITON_INTERPRET=1`). What is
    compiled takes the formulas, which a compiler fuses with what is around them, unless kernels are asked for. So does
    what has derivatives forwards.

    Args:
        part: "norm", of rows of `sizes` channels; or "attention", of `sizes` heads and their channels.
        setting: "auto", by a probe; "plain" or "triton".

    Raises:
        ValueError: if kernels are asked for on a GPU, and Triton is not installed.
    """
    if setting == "plain" or x.dtype not in TYPES or sizes[-1] > WIDEST:
        return False
    if (assumed := _now()) is not None:
        return setting == "triton" or not (assumed.compiled or torch._C._functorch.is_functorch_wrapped_tensor(x))
    if x.device.type != "cuda":
        return x.device.type == "cpu" and interpreted(setting)
    if torch.compiler.is_compiling():
        return setting == "triton"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    if setting == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ValueError('unet.fused is "triton", but Triton is not installed: pip install triton, or set auto')
        return True
    drawn = not torch.is_grad_enabled()  # where nothing is learned: the same seed is to give the same clip
    return _chosen(part, x.device, x.dtype, sizes, drawn or torch.are_deterministic_algorithms_enabled())


@contextmanager
def assumed_gpu(compiled: bool) -> Iterator[None]:
    """Inside, networks on a CPU do as on a GPU where the kernels are right and faster: to count what that takes.

    Args:
        compiled: as blocks do that are compiled.
    """
    token = _assumed.set(Assumed(compiled))
    try:
        yield
    finally:
        _assumed.reset(token)


def _now() -> Assumed | None:
    """What is assumed; nothing where blocks are compiled, since a compiler cannot read it."""
    return None if torch.compiler.is_compiling() else _assumed.get()


def on_gpu(device: torch.device) -> bool:
    """Whether it is one, or is taken for one."""
    return device.type == "cuda" or _now() is not None


def interpreted(setting: str) -> bool:
    """Whether kernels are asked for, and Triton's interpreter runs them on a CPU."""
    return setting == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _chosen(part: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...], untimed: bool) -> bool:
    """Whether a probe found the kernels right, and faster; where runs are to be the same, right is enough, since times
    differ."""
    found = probe(part, device, dtype, sizes)
    if found.refused is not None:
        log.warning("unet.fused: no kernels for %s on %s in %s (%s)", part, device, dtype, found.refused)
        return False
    faster = untimed or found.triton < found.plain
    log.info(
        "unet.fused: %s of %s on %s in %s by %s (%.2f ms, and %.2f by formulas)",
        part, "x".join(map(str, sizes)), device, dtype, "kernels" if faster else "formulas",
        1000 * found.triton, 1000 * found.plain,
    )  # fmt: skip
    return faster


# A compiler would else follow the probe.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def probe(part: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> Found:
    """Try the kernels of a part, forward and backward, beside the formulas in float32; then time both."""
    if importlib.util.find_spec("triton") is None:
        return Found(ABSENT)
    given, times = CASES[part](sizes), [0.0, 0.0]
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    with apart(device):
        for case in given:
            exact = [x.to(device) for x in case.inputs]
            inputs = [exact[0].to(dtype), *exact[1:]]
            try:
                got = run(case.fused, inputs)
            except Exception as error:  # whatever it is that kernels die of, it is a reason to do without
                says = (str(error).strip() or "no reason given").splitlines()[0]
                return Found(f"{type(error).__name__}: {says}")
            for value, wanted in zip(got, run(case.plain, exact), strict=True):
                if value.shape != wanted.shape:
                    return Found("they give a result of another shape")
                gap = float((value.float() - wanted).abs().max() / wanted.abs().max())
                if not gap <= tolerance:
                    return Found(f"they differ from the formulas by {gap:.1e} of the largest value")
            for number, way in enumerate((case.plain, case.fused)):
                times[number] += _seconds(functools.partial(run, way, inputs), device)
    return Found(None, *times)


def run(way: Callable[..., tuple[Tensor, ...]], given: list[Tensor]) -> list[Tensor]:
    """Results, and gradients of all that is given."""
    inputs = [x.detach().clone().requires_grad_() for x in given]
    results = way(*inputs)
    loss = torch.stack([x.float().square().sum() for x in results]).sum()
    return [*(x.detach() for x in results), *torch.autograd.grad(loss, inputs)]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the quickest of a few; what is slow the first time has been done before."""
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def _draw(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def norm_cases(sizes: tuple[int, ...]) -> list[Case]:
    """Modulated, and scaled alone."""
    (channels,) = sizes
    x = _draw(CLIPS * FRAMES, channels, SIDE, SIDE)

    def modulated(x: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        scale, shift = table.to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        return (F.silu(torch.addcmul(shift, _layer_norm(x), scale + 1)),)

    def scaled(x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return (_layer_norm(x, scale.to(x.dtype)),)

    return [
        Case(modulated, lambda x, table: (ops.norm(x, table, True),), (x, _draw(CLIPS * FRAMES, 2 * channels))),
        Case(scaled, lambda x, scale: (ops.norm(x, scale, False),), (x, _draw(channels))),
    ]


def _layer_norm(x: Tensor, scale: Tensor | None = None) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], scale, eps=ops.EPS).permute(0, 3, 1, 2)


def attention_cases(sizes: tuple[int, ...]) -> list[Case]:
    """The way in and the way out, over each axis."""
    number, channels = sizes
    x = _draw(CLIPS * FRAMES, 3 * number * channels, SIDE, SIDE)
    given = x, _draw(channels), _draw(number), _draw(CLIPS * FRAMES, 1, SIDE, SIDE)
    axes = {"space": (SIDE, SIDE), "time": (FRAMES,), "joint": (FRAMES, SIDE, SIDE)}
    return [_around(heads.Layout(axis, FRAMES, SIDE, SIDE), axes[axis], given) for axis in axes]


def _around(layout: heads.Layout, tokens: tuple[int, ...], given: tuple[Tensor, ...]) -> Case:
    @functools.cache
    def turn(device: torch.device) -> Turn:
        return turn_by(rotary(tokens, len(given[1]), device), True)

    def plain(x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor) -> tuple[Tensor, ...]:
        there, back = turn(x.device)
        q, k, v = heads.enter(x, sharpness, preference, clock, there, layout)
        return q, k, heads.leave(v, back, layout, x.dtype)

    def fused(x: Tensor, sharpness: Tensor, preference: Tensor, clock: Tensor) -> tuple[Tensor, ...]:
        there, back = turn(x.device)
        q, k, v = ops.enter(x, sharpness, preference, clock, there, layout.axis, layout.frames)
        return q, k, ops.leave(v, back, *layout)

    return Case(plain, fused, given)


CASES: dict[str, Callable[[tuple[int, ...]], list[Case]]] = {"norm": norm_cases, "attention": attention_cases}
