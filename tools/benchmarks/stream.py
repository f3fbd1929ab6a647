"""Seconds that a new frame takes and memory that it needs, by a causal model's stream and by windows, and of a world
that is played: there with its decoder.

Weights are random, which takes as long as any. On a CPU time is that of the processor, to which others' work hardly
adds, and the least of some frames is told.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.draw.long import Clean
from vidiff.draw.strategy import Strategy
from vidiff.draw.stream import Stream
from vidiff.draw.window import Draw
from vidiff.engine.parallel import choose_device
from vidiff.nn.cache import Cache

from .untrained import KEYS, draws, untrained, world


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


def seconds(pieces: Iterator[Tensor], frames: int, device: torch.device) -> float:
    """For a new frame: the least of some pieces, since whatever else runs only adds, but for the first, which looks at
    what is past."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    next(pieces)
    times, done = [], 0
    while done < frames:
        begun = clock()
        piece = next(pieces).cpu()
        times.append((clock() - begun) / piece.shape[2])
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
    device = choose_device(args.device)
    models = {causal: draws(args, causal, device) for causal in (False, True)}
    recipe, draw, past, condition = models[True]
    rows = []
    print(f"{args.config}, windows of {draw.window} frames, {args.steps} steps of {recipe.sampling.sampler['name']},")
    print(f"guidance {args.guidance:g} on label and history, one clip, fp32, {device}, {args.threads} threads")
    print(f"{'strategy':<30}{'ms a frame':>12}{'of clean, as far back':>24}{'of clean at its best':>22}")
    for way in ways(draw.window, recipe.sampling.context):
        _, draw, past, condition = models[way.causal]
        with torch.no_grad():
            pieces = way.strategy(draw, past[:, :, : way.context], 10**9, way.context, condition)
            rows.append({"name": way.name, "context": way.context, "seconds": seconds(pieces, args.frames, device)})
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
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, or auto: a GPU where there is one")


def least(work: Callable[[], object], times: int) -> float:
    """Milliseconds of processor time that something takes, at best."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return 1000 * min(found)


@torch.no_grad()
def play(args: argparse.Namespace) -> dict[str, object]:
    """Play a world, print where a frame's time goes, and return that."""
    torch.set_num_threads(args.threads)
    pipe, names = world(args.config, args.seed), KEYS.dimensions[0].names
    generator = torch.Generator().manual_seed(args.seed)
    opening = torch.randn(3, pipe.reach(), *pipe.buckets[0].size, generator=generator).clamp(-1, 1)
    played = pipe.world(opening, seed=args.seed, steps=args.steps)
    network, calls, spent, number = pipe.denoiser.network, list[int](), Counter[int](), count()

    def step() -> None:
        at = next(number)
        calls.clear()
        played.step(names[(at + at // len(names)) % len(names)])  # each key after each other one, within 16

    for _ in range(len(names) ** 2):
        step()
    found = {"frame": least(step, args.frames)}
    begun = [0.0]

    def enter(_: object, given: tuple[Tensor, ...]) -> None:
        calls.append(given[0].shape[2])
        begun[0] = time.process_time()

    def leave(*_: object) -> None:
        spent[len(calls) - 1] = min(spent[len(calls) - 1] or 1e9, time.process_time() - begun[0])

    hooks = [network.register_forward_pre_hook(enter), network.register_forward_hook(leave)]
    for _ in range(args.frames):
        step()
    for hook in hooks:
        hook.remove()
    for at, frames in enumerate(calls):
        found[f"call {at + 1} of the network, {frames} frame{'s' * (frames > 1)}"] = 1000 * spent[at]
    latent = pipe.codec.encode(played.frame[None, :, None]).mean
    found["decoder"] = least(lambda: pipe.codec.decode(latent), args.frames)
    print(f"{args.config}, random weights, fp32, {args.threads} threads; milliseconds of processor time")
    for name, value in found.items():
        print(f"{name:<36}{value:>8.1f}")
    print(f"at most {1000 * args.threads / found['frame']:.1f} frames a second")
    return {"ms": found, "config": str(args.config), "torch": torch.__version__}


def play_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=Path("configs/breakout_student.yaml"), help="of a world")
    command.add_argument("--steps", type=int, help="evaluations a frame; by default the recipe's")
    command.add_argument("--frames", type=int, default=30, help="new frames that are timed")
