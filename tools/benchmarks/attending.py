"""Attention of a clip: vidiff's layer by every backend, the bare kernel, and the layer of video-diffusion-pytorch."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidiff.nn.attention import BACKENDS, attention, probe
from vidiff.nn.blocks import Attention

from .networks import head_dim
from .peers import video_diffusion
from .timing import CPU, flops, in_turns, machine_rates, ratio, spread

Shape = tuple[int, int, int, int]  # clips, frames, height, width
SHAPES: dict[str, Shape] = {"time": (4, 16, 16, 16), "space": (4, 16, 16, 16), "joint": (4, 16, 4, 4)}


def both(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """The forward and the backward pass."""
    return lambda: run(x).square().sum().backward()


def layer(axis: str, width: int, backend: str, shape: Shape) -> Callable[[], object]:
    clips, frames, height, rows = shape
    module = Attention(width, axis, head_dim(width), backend)
    x = torch.randn(clips * frames, width, height, rows).to(memory_format=torch.channels_last).requires_grad_()
    log_snr = torch.zeros(clips * frames, 1, height, rows)
    around = module.around(log_snr, frames, None)
    return both(lambda x: module(x, log_snr, frames, around=around), x)


def sequences(axis: str, shape: Shape) -> tuple[int, int]:
    """How many, and how long."""
    clips, frames, height, rows = shape
    area = height * rows
    return {"time": (clips * area, frames), "space": (clips * frames, area), "joint": (clips, frames * area)}[axis]


def kernel(axis: str, width: int, shape: Shape) -> Callable[[], object]:
    """Attention alone: no norm, projection or position."""
    count, tokens = sequences(axis, shape)
    qkv = torch.randn(3, count, tokens, 2, width // 2, requires_grad=True)
    return both(lambda qkv: attention(*qkv), qkv)


def peer(axis: str, width: int, shape: Shape) -> Callable[[], object]:
    """As its U-Net has it, with 8 heads of 32 and, over time, rotary positions."""
    vdp = video_diffusion()
    clips, frames, height, rows = shape
    rotary = vdp.RotaryEmbedding(32) if axis == "time" else None
    inner = vdp.Attention(width, heads=8, dim_head=32, rotary_emb=rotary)
    order = {"time": "b (h w) f c", "space": "b f (h w) c"}[axis]
    module = vdp.Residual(vdp.PreNorm(width, vdp.EinopsToAndFrom("b c f h w", order, inner)))
    return both(module, torch.randn(clips, width, frames, height, rows, requires_grad=True))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Times a forward and a backward pass of each, by turns."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rates, rows = machine_rates(), []
    print(f"forward and backward pass, {args.width} channels, fp32, {args.threads} threads")
    for axis, shape in SHAPES.items():
        works = {
            f"vidiff, {name}": layer(axis, args.width, name, shape)
            for name in BACKENDS
            if name != "xformers" and probe(name, CPU, torch.float32, head_dim(args.width)) is None
        }
        first = next(iter(works))
        works["the kernel alone"] = kernel(axis, args.width, shape)
        if axis != "joint":
            works["video-diffusion-pytorch"] = peer(axis, args.width, shape)
        seconds, counts = in_turns(works, args.rounds), {name: flops(work) for name, work in works.items()}
        print(f"\nover {axis}: {sequences(axis, shape)[0]} sequences of {sequences(axis, shape)[1]} tokens")
        for name, column in seconds.items():
            middle = statistics.median(column)
            rows.append(
                {
                    "axis": axis,
                    "sequences": sequences(axis, shape),
                    "name": name,
                    "seconds": middle,
                    "ratio": ratio(column, seconds[first]),
                    "share": counts[name] / middle / rates["fp32"],
                }
            )
            print(f"{name:<25}{1000 * middle:>9.1f} ms{spread(rows[-1]['ratio']):>24} times{rows[-1]['share']:>6.0%}")
    return {"width": args.width, "rates": rates, "rows": rows}


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--width", type=int, default=128, help="channels of the layer")
