"""Speed, measured against a well-known peer on the machine at hand.

`python tools/benchmark.py train` times a training step (forward, backward, optimizer) of vidiff's U-Net and
of video-diffusion-pytorch's Unet3D: the same levels, as many parameters, the same input, in turns.
`make bench` installs the peer and runs it. By hand: `pip install -e ".[bench]"`, then
`pip install --no-deps video-diffusion-pytorch`.

`python tools/benchmark.py load` times random clips out of video files: docs/loading.md has what it found.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
import types
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmark_load import load  # beside this file
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.nn.unet import UNet, UNetConfig

CLIPS, CHANNELS, FRAMES, SIZE = 4, 4, 16, 16
TOLERANCE = 0.02  # by which the numbers of parameters may differ


@dataclass(frozen=True)
class Side:
    """One of the networks compared: how it was built, and how it predicts the noise in `(b, c, f, h, w)`."""

    name: str
    settings: str
    network: nn.Module
    predict: Callable[[Tensor], Tensor]

    def steps(self, x: Tensor, noise: Tensor) -> Callable[[], float]:
        """A function that trains for one step and returns the seconds it took."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

        def step() -> float:
            start = time.perf_counter()
            loss = (self.predict(x) - noise).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return time.perf_counter() - start

        return step


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def peer(dim: int, multipliers: list[int]) -> Side:
    """video-diffusion-pytorch's Unet3D. Raises ImportError if it is not installed."""
    # The package imports torchvision to read GIFs, which nothing here does: a stand-in is enough.
    hidden = sys.modules.pop("torchvision", None)
    stand_in = types.ModuleType("torchvision")
    stand_in.utils = types.ModuleType("utils")
    stand_in.transforms = types.SimpleNamespace(ToTensor=lambda: None)  # called once, for a default argument
    sys.modules["torchvision"] = stand_in
    try:
        from video_diffusion_pytorch import Unet3D
    finally:
        del sys.modules["torchvision"]
        if hidden is not None:
            sys.modules["torchvision"] = hidden
    network = Unet3D(dim=dim, dim_mults=tuple(multipliers), channels=CHANNELS)
    t = torch.arange(CLIPS) * 250  # diffusion time, one of 1000 steps a clip
    return Side("Unet3D", f"dim {dim}, {multipliers}", network, lambda x: network(x, t))


def config(width: int, multipliers: list[int]) -> UNetConfig:
    """vidiff's usual plan: joint attention at the lowest level, attention over time above it."""
    lowest = len(multipliers) - 1
    return UNetConfig(
        channels=CHANNELS,
        width=width,
        multipliers=multipliers,
        blocks=[2] * len(multipliers),
        temporal_attention=list(range(lowest)),
        joint_attention=[lowest],
        head_dim=max(d for d in range(2, 65, 2) if width % d == 0),
    )


def ours(size: int, multipliers: list[int]) -> Side:
    """vidiff's U-Net with `size` parameters, or nearly: of the widths within the tolerance, the roundest."""

    def size_at(width: int) -> int:
        with torch.device("meta"):
            return parameters(UNet(config(width, multipliers)))

    widths = range(8, 1024, 2)
    first = bisect_left(widths, size * (1 - TOLERANCE), key=size_at)
    last = bisect_right(widths, size * (1 + TOLERANCE), key=size_at)
    if first == last:
        raise ValueError(f"no width gives {multipliers} levels {size:,} parameters: choose another --dim")
    width = max(widths[first:last], key=lambda width: (width & -width, -abs(size_at(width) - size)))
    network = UNet(config(width, multipliers))
    log_snr = torch.linspace(-4, 4, CLIPS)[:, None, None, None, None].expand(-1, 1, FRAMES, SIZE, SIZE)
    return Side("vidiff", f"width {width}, {multipliers}", network, lambda x: network(x, log_snr, Condition()))


def train(args: argparse.Namespace) -> dict[str, object]:
    """Time both sides, print a table, and return what it says."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    other = peer(args.dim, args.multipliers)
    sides = [ours(parameters(other.network), args.multipliers), other]
    x, noise = torch.randn(2, CLIPS, CHANNELS, FRAMES, SIZE, SIZE)

    steps = [side.steps(x, noise) for side in sides]
    for step in steps:
        step()  # the first allocates memory and the optimizer's state
    seconds = [[step() for step in steps] for _ in range(args.rounds)]

    speeds = [CLIPS / statistics.median(column) for column in zip(*seconds, strict=True)]
    ratios = sorted(theirs / our for our, theirs in seconds)
    ratio = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    print(f"a training step, {CLIPS}x{CHANNELS}x{FRAMES}x{SIZE}x{SIZE}, fp32, {args.threads} threads")
    print(f"{'network':<9}{'settings':<28}{'parameters':>12}{'clips/s':>9}")
    for side, speed in zip(sides, speeds, strict=True):
        print(f"{side.name:<9}{side.settings:<28}{parameters(side.network):>12,}{speed:>9.2f}")
    print("ratio {median:.2f} ({min:.2f} to {max:.2f})".format(**ratio), f"over {args.rounds} rounds")
    print(f"peak memory of the process {peak / 2**20:.0f} MiB")
    return {
        "input": list(x.shape),
        "threads": args.threads,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "networks": [
            {
                "name": side.name,
                "settings": side.settings,
                "parameters": parameters(side.network),
                "clips_per_second": speed,
            }
            for side, speed in zip(sides, speeds, strict=True)
        ],
        "ratio": ratio,
        "peak_memory_bytes": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="a training step against video-diffusion-pytorch's Unet3D")
    command.add_argument("--dim", type=int, default=64, help="width of the peer; vidiff's is searched to match")
    command.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 4], help="of both, one a level")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--rounds", type=int, default=9, help="steps of each side that are timed")
    command.add_argument("--seed", type=int, default=0, help="of weights and input")
    command.add_argument("--json", type=Path, help="write the figures here as well")
    command = commands.add_parser("load", help="random clips out of video files, against plain PyAV and torchcodec")
    command.add_argument("--data", type=Path, help="folder that keeps the files; made anew where none is given")
    command.add_argument("--rounds", type=int, default=9, help="times that each reader reads a set of clips")
    command.add_argument("--clips", type=int, default=8, help="of a set")
    command.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    try:
        result = {"train": train, "load": load}[args.command](args)
    except ImportError as error:
        parser.error(f"{error.name} is not installed; `make bench` installs what the comparison needs")
    except ValueError as error:
        parser.error(str(error))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
