"""Seconds that a new frame takes and memory that it needs, by a causal model's stream and by windows.

Weights are random, which takes as long as any; latents are drawn and not decoded, which would take all as long.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.draw.long import Clean
from vidiff.draw.strategy import Strategy
from vidiff.draw.stream import Stream
from vidiff.draw.window import Draw
from vidiff.nn.cache import Cache

from .untrained import draws, untrained


@dataclass(frozen=True)
class Way:
    """A strategy on a model that looks back alone, or ahead as well, and how many frames a new one looks back on."""

    name: str
    strategy: Strategy
    causal: bool
    context: int


def ways(window: int, context: int) -> list[Way]:
    """Windows that look back on as few frames as the recipe's, on more and on most, and streams that do."""
    found = []
    for looked in sorted({context, (context + window) // 2, window - 1}):
        found.append(Way(f"clean, context {looked}", Clean(), False, looked))
        for chunk in (1, 2, 4, 8):
            if looked + chunk <= window:
                found.append(Way(f"stream, context {looked}, chunk {chunk}", Stream(chunk), True, looked))
    return found


def seconds(pieces: Iterator[Tensor], frames: int) -> float:
    """For a new frame: the least of some pieces, since whatever else runs only adds, but for the first, which looks at
    what is past."""
    next(pieces)
    times, done = [], 0
    while done < frames:
        begun = time.perf_counter()
        piece = next(pieces).cpu()
        times.append((time.perf_counter() - begun) / piece.shape[2])
        done += piece.shape[2]
    return min(times)


def held(draw: Draw, past: Tensor, condition: Condition, context: int, frames: int) -> int:
    """Bytes that the record holds of that many frames, for one branch of guidance."""
    cache, clock = Cache(context).copy(grows=True), torch.zeros_like(past[:, :1])
    for begin in range(0, frames, past.shape[2]):
        part = slice(0, min(past.shape[2], frames - begin))
        draw.denoiser.network(past[:, :, part], clock[:, :, part], condition, cache)  # type: ignore[attr-defined]
    return cache.bytes


def stream(args: argparse.Namespace) -> dict[str, object]:
    """Time every way, print a table, and return what it says."""
    torch.set_num_threads(args.threads)
    models = {causal: draws(args, causal, args.device) for causal in (False, True)}
    recipe, draw, past, condition = models[True]
    rows = []
    print(f"{args.config}, windows of {draw.window} frames, {args.steps} steps of {recipe.sampling.sampler['name']},")
    print(f"guidance {args.guidance:g} on label and history, one clip, fp32, {args.device}, {args.threads} threads")
    print(f"{'strategy':<30}{'ms a frame':>12}{'of clean, as far back':>24}{'of clean at its best':>22}")
    for way in ways(draw.window, recipe.sampling.context):
        _, draw, past, condition = models[way.causal]
        with torch.no_grad():
            pieces = way.strategy(draw, past[:, :, : way.context], 10**9, way.context, condition)
            rows.append({"name": way.name, "context": way.context, "seconds": seconds(pieces, args.frames)})
        clean = [row for row in rows if str(row["name"]).startswith("clean")]
        same, best = clean[-1]["seconds"], min(float(row["seconds"]) for row in clean)  # type: ignore[arg-type]
        now = float(rows[-1]["seconds"])  # type: ignore[arg-type]
        print(f"{way.name:<30}{1000 * now:>12.1f}{now / float(same):>24.2f}{now / best:>22.2f}")  # type: ignore[arg-type]
    _, draw, past, condition = models[True]
    with torch.no_grad():
        sizes = {frames: held(draw, past, condition, recipe.sampling.context, frames) for frames in (50, 2000)}
    print(f"the record of a branch holds {sizes[50]:,} bytes at frame 50, {sizes[2000]:,} at frame 2,000")
    return {"rows": rows, "bytes": sizes, "steps": args.steps, "torch": torch.__version__}


def options(command: argparse.ArgumentParser) -> None:
    untrained(command)
    command.add_argument("--frames", type=int, default=32, help="new frames that are timed")
    command.add_argument("--device", default="cpu", help="cpu or cuda")
