"""A training step, or a forward pass, against the peers: time, FLOPs, share of what the machine can do, memory."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from vidiff.engine.precision import Precision
from vidiff.plan.trace import trace

from .fresh import forget_peak, held, peak, run_fresh
from .networks import (
    MULTIPLIERS,
    SHAPES,
    Loss,
    Pass,
    Shape,
    Side,
    chosen_precision,
    config,
    matching,
    ours,
    work,
)
from .peers import DIM, PEERS
from .timing import flops, in_turns, machine_rates, ratio, spread

FRAMES = (16, 32, 64)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Times training steps against every peer, and looks at how much memory each takes."""
    found = against_peers(args, "train")
    if args.memory:
        found["memory"] = [memory(name, args) for name in tqdm(args.peers, "memory", leave=False, disable=None)]
        print(f"\npeak memory of a step of {by_x(SHAPES[0])}, each in a process of its own, less what it held before")
        for row in found["memory"]:
            print("{peer:<25}{theirs:>9.0f} MiB{ours:>9.0f} MiB of vidiff{ratio:>7.2f}".format(**megabytes(row)))
    return found


def forward(args: argparse.Namespace) -> dict[str, Any]:
    """Times forward passes against every peer, and of vidiff as clips get longer."""
    found = against_peers(args, "forward")
    found["frames"] = longer(args)
    print("\na clip of more frames: how many times as long as of 16, for each frame")
    for row in found["frames"]:
        print(f"{row['kind']:<36}" + "".join(f"{f:>6}: {r:.2f}" for f, r in zip(FRAMES, row["ratios"], strict=True)))
    return found


def against_peers(args: argparse.Namespace, kind: Pass) -> dict[str, Any]:
    """Both sides of each pair by turns, at both shapes."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rates = machine_rates()
    print(
        f"{args.threads} threads; products of matrices {rates['fp32'] / 1e9:.0f} GFLOP/s in fp32, "
        f"{rates['bf16'] / 1e9:.0f} in bf16; copies {rates['copy'] / 1e9:.1f} GB/s"
    )
    rows = []
    for name in args.peers:
        peer = PEERS[name](args.dim, tuple(args.multipliers))
        side = ours(matching(peer.parameters, tuple(args.multipliers)))
        precision = chosen_precision(side, SHAPES[0])
        for shape in SHAPES:
            rows.append(pair((side, peer), shape, kind, precision, args.rounds, rates))
            tell(rows[-1])
    return {"kind": kind, "rates": rates, "rows": rows}


def pair(
    sides: tuple[Side, Side], shape: Shape, kind: Pass, precision: Precision, rounds: int, rates: dict[str, float]
) -> dict[str, Any]:
    """Of vidiff and one peer at one shape.

    Args:
        precision: in which vidiff is timed as well.
        rates: of the machine, as `machine_rates`.
    """
    side, peer = sides
    works: dict[str, Callable[[], object]] = {"ours": work(side, shape, kind), "theirs": work(peer, shape, kind)}
    if precision != "fp32":
        works["chosen"] = work(side, shape, kind, precision)
    counts = {name: flops(works[name]) for name in ("ours", "theirs")}
    seconds = in_turns(works, rounds)
    seconds.setdefault("chosen", seconds["ours"])
    rate = {"ours": rates["fp32"], "theirs": rates["fp32"], "chosen": rates[precision]}
    found: dict[str, Any] = {"peer": peer.name, "shape": list(shape), "precision": precision}
    for name, network in (("ours", side), ("theirs", peer), ("chosen", side)):
        middle, count = statistics.median(seconds[name]), counts["theirs" if name == "theirs" else "ours"]
        found[name] = {
            "settings": network.settings,
            "parameters": network.parameters,
            "seconds": middle,
            "clips_per_second": shape[0] / middle,
            "flops": count,
            "share": count / middle / rate[name],
        }
    found["ratio"] = ratio(seconds["theirs"], seconds["ours"])
    found["ratio_chosen"] = ratio(seconds["theirs"], seconds["chosen"])
    if kind == "train":
        moved = bytes_of(side, shape)
        found["ours"] |= {"bytes": moved, "bandwidth": moved / found["ours"]["seconds"] / rates["copy"]}
    return found


def bytes_of(side: Side, shape: Shape) -> int:
    """That the forward and backward pass of vidiff's network read and write, if every operand comes from memory."""
    plan = side.network.config

    def batch() -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(shape), "noise": torch.zeros(shape)}

    followed = trace(lambda: Loss(ours(plan)), batch)  # type: ignore[arg-type]
    return sum(moved * count for (_, moved), count in followed.work.items())


def tell(row: dict[str, Any]) -> None:
    print(f"\n{by_x(row['shape'])}, fp32" + f", vidiff also in {row['precision']}" * (row["precision"] != "fp32"))
    print(f"{'network':<25}{'settings':<46}{'parameters':>12}{'clips/s':>9}{'GFLOP':>8}{'of rate':>9}")
    for name in ("ours", "theirs"):
        side, label = row[name], "vidiff" if name == "ours" else row["peer"]
        print(
            f"{label:<25}{side['settings']:<46}{side['parameters']:>12,}{side['clips_per_second']:>9.2f}"
            f"{side['flops'] / 1e9:>8.0f}{side['share']:>9.0%}"
        )
    print(f"ratio {spread(row['ratio'])}; in the precision it chooses {spread(row['ratio_chosen'])}", flush=True)


def by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def memory(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of a training step of a peer, and of vidiff's network of its size."""
    shared = {"peer": name, "dim": args.dim, "multipliers": args.multipliers, "threads": args.threads}
    found = {who: run_fresh("benchmarks.steps:peak_of_step", who=who, **shared) for who in ("ours", "theirs")}
    return {"peer": name, **found, "ratio": found["ours"] / found["theirs"]}


def megabytes(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: row[name] / 2**20 for name in ("ours", "theirs")}


def peak_of_step(who: str, peer: str, dim: int, multipliers: list[int], threads: int) -> int:
    """Bytes of weights, optimizer and three training steps, at most; in a fresh process."""
    torch.set_num_threads(threads)
    with torch.device("meta"):  # which loads all modules, and no weights
        side = PEERS[peer](dim, tuple(multipliers))
        plan = matching(side.parameters, tuple(multipliers))
    forget_peak()
    before = held()
    side = ours(plan) if who == "ours" else PEERS[peer](dim, tuple(multipliers))
    step = work(side, SHAPES[0], "train")
    for _ in range(3):
        step()
    return peak() - before


def longer(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time of a frame as clips get longer, over that at 16 frames; with joint attention, and without."""
    plan = config(args.dim, tuple(args.multipliers), (2,) * len(args.multipliers))
    apart = replace(plan, joint_attention=[], temporal_attention=list(range(len(args.multipliers))))
    rows = []
    for kind, chosen in (("attention over time alone", apart), ("joint attention at the lowest level", plan)):
        side = ours(chosen)
        works = {str(f): work(side, (1, 4, f, 16, 16), "forward") for f in FRAMES}
        counts = [flops(works[str(f)]) for f in FRAMES]
        seconds = in_turns(works, args.rounds)
        ratios = [ratio(seconds[str(f)], seconds["16"])["median"] * FRAMES[0] / f for f in FRAMES]
        rows.append(
            {
                "kind": kind,
                "frames": list(FRAMES),
                "seconds": [statistics.median(seconds[str(f)]) for f in FRAMES],
                "ratios": ratios,
                "flops": [count / counts[0] * FRAMES[0] / f for count, f in zip(counts, FRAMES, strict=True)],
            }
        )
    return rows


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help="of these")
    command.add_argument("--dim", type=int, default=DIM, help="width of the peers; vidiff's is searched to match")
    command.add_argument("--multipliers", type=int, nargs="+", default=list(MULTIPLIERS), help="of all, one a level")
