"""Speed, measured against a well-known peer on the machine at hand.

`python tools/benchmark.py train` times a training step (forward, backward, optimizer) of vidiff's U-Net and
of video-diffusion-pytorch's Unet3D: the same levels, as many parameters, the same input, in turns.
`make bench` installs the peer and runs it. By hand: `pip install -e ".[bench]"`, then
`pip install --no-deps video-diffusion-pytorch`.

`python tools/benchmark.py load` times random clips out of video files: docs/loading.md has what it found.

`python tools/benchmark.py latents` times clips out of a latent cache against the same clips out of their video files,
and against a plain copy in memory of as many bytes.

`python tools/benchmark.py stream` times a new frame of a causal model's stream against windows: docs/long.md has what
it found.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import types
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmark_load import load  # beside this file
from benchmark_stream import options as stream_options
from torch import Tensor, nn

from vidiff.cli.command import exit_code
from vidiff.data.buckets import Bucket, View
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import LatentDataset
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.order import Order
from vidiff.diffusion.condition import Condition
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.store.place import place_of
from vidiff.video.writer import write_video

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


def head_dim(width: int) -> int:
    """Channels of a head of `config(width, ...)`: even, at most 64, and as many as divide the width."""
    return max(d for d in range(2, 65, 2) if width % d == 0)


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
        head_dim=head_dim(width),
    )


def matching_width(size: int, multipliers: list[int]) -> int:
    """The width at which vidiff's U-Net has `size` parameters, or nearly: of those within the tolerance, the roundest.

    Raises:
        ValueError: no width comes near enough.
    """

    def size_at(width: int) -> int:
        with torch.device("meta"):
            return parameters(UNet(config(width, multipliers)))

    widths = [width for width in range(8, 1024, 2) if head_dim(width) >= 4]  # a head of two channels is refused
    first = bisect_left(widths, size * (1 - TOLERANCE), key=size_at)
    last = bisect_right(widths, size * (1 + TOLERANCE), key=size_at)
    if first == last:
        raise ValueError(f"no width gives {multipliers} levels {size:,} parameters: choose another --dim")
    return max(widths[first:last], key=lambda width: (width & -width, -abs(size_at(width) - size)))


def ours(size: int, multipliers: list[int]) -> Side:
    """vidiff's U-Net with `size` parameters, or nearly."""
    width = matching_width(size, multipliers)
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


WINDOWS = 64  # of a batch


def latents(args: argparse.Namespace) -> dict[str, object]:
    """Time a latent cache, print what was found, and return it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        decoding = against_decoding(Path(name), args)
        print(
            "clips of {frames} frames of {size} px, H.264, and their latents of 4x{side}x{side}, mean and std; "
            "one process, one thread\n"
            "decoded            {decoded:>10,.1f} clips/s\n"
            "from the cache     {cached:>10,.1f} clips/s, {ratio:,.0f} times as many".format(**decoding)
        )
        print(f"random windows of a cache of {args.megabytes} MiB, in the page cache, in batches of {args.batch} MiB")
        print(f"{'a clip':>10}{'dataset':>12}{'memcpy':>12}{'ratio':>8} (median of rounds){'2 workers':>14}")
        copying = []
        for channels, noisy in ((4, False), (4, True), (16, True)):
            found = against_memcpy(Path(name) / f"{channels}{noisy}", channels, noisy, args)
            copying.append(found)
            print(
                "{kib:>6} KiB{dataset:>7.2f} GB/s{memcpy:>7.2f} GB/s{ratio:>8.2f} ({median:.2f})"
                "{workers:>22.2f} GB/s".format(**found)
            )
    return {"decoding": decoding, "copying": copying, "torch": torch.__version__}


def against_decoding(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Clips a second out of video files, and out of their latents."""
    size, files = args.size, []
    rows, columns = torch.meshgrid(torch.linspace(0, 9, size), torch.linspace(0, 7, size), indexing="ij")
    generator = torch.Generator().manual_seed(args.seed)
    for number in range(args.files):
        waves = [torch.sin(rows + number + t / 5) * torch.cos(columns - t / 7) for t in range(4 * FRAMES)]
        video = torch.stack(waves).expand(3, -1, -1, -1)
        grain = 0.05 * torch.randn(video.shape, generator=generator)
        write_video(folder / f"{number}.mp4", 0.8 * video + grain, fps=24)
        place = place_of(folder / f"{number}.mp4")
        files.append(Clip(f"{number}.mp4", place, 0, frames=4 * FRAMES, fps=24, height=size, width=size))
    index = Index(str(folder), files, ["a"])
    cache = encoded(folder, index, 4, True, size // 8)
    orders = [Order([range(args.files)], each, args.seed) for each in (args.files, WINDOWS)]
    speeds = []
    for dataset, order, batches in (
        (ClipDataset(index, View(Bucket(FRAMES, size, size)), args.seed), orders[0], 2),
        (LatentDataset(cache, View(Bucket(FRAMES, size, size)), args.seed), orders[1], 200),
    ):
        loader = iter(make_loader(dataset, order, workers=0))
        next(loader)
        start = time.perf_counter()
        clips = sum(len(next(loader)["key"]) for _ in range(batches))
        speeds.append(clips / (time.perf_counter() - start))
    found = {"frames": FRAMES, "size": size, "side": size // 8, "decoded": speeds[0], "cached": speeds[1]}
    return {**found, "ratio": speeds[1] / speeds[0]}


def against_memcpy(folder: Path, channels: int, noisy: bool, args: argparse.Namespace) -> dict[str, float]:
    """Bytes a second of batches that a data set gives, and of copies of windows that lie in memory already."""
    clip, side = 4 * FRAMES, args.size // 8
    frame = (1 + noisy) * channels * side * side  # numbers
    windows = max(1, (args.batch << 20) // (2 * FRAMES * frame))
    count = max(2, (args.megabytes << 20) // (2 * clip * frame))
    folder.mkdir()
    write_video(folder / "clip.mp4", torch.zeros(3, clip, 16, 16), fps=24)
    file = Clip("clip.mp4", place_of(folder / "clip.mp4"), 0, frames=clip, fps=24, height=16, width=16)
    cache = encoded(folder, Index(str(folder), [file] * count, ["a"]), channels, noisy, side)
    dataset = LatentDataset(cache, View(Bucket(FRAMES, args.size, args.size)))
    memory = np.random.default_rng(args.seed).integers(0, 99, (count * clip, frame), dtype=np.int16)
    target = np.empty((windows, FRAMES, frame), np.int16)
    loader = iter(make_loader(dataset, Order([range(count)], windows, args.seed), workers=0))
    places = np.random.default_rng(args.seed).integers(0, len(memory) - FRAMES, (args.rounds + 1, windows))

    def copy(number: int) -> None:
        for place, start in enumerate(places[number].tolist()):
            target[place] = memory[start : start + FRAMES]

    def deliver(number: int) -> None:
        next(loader)

    for work in (copy, deliver):
        work(0)
    for number in range(count):
        dataset.cache.window(number, 0, clip).sum()  # into the page cache, and mapped, as after an epoch
    times = [[clock(partial(work, n)) for work in (deliver, copy)] for n in range(1, args.rounds + 1)]
    shared = iter(make_loader(dataset, Order([range(count)], windows, args.seed), workers=2))
    for _ in range(16):
        next(shared)
    working = min(clock(lambda: [next(shared) for _ in range(16)]) / 16 for _ in range(4))
    size = windows * FRAMES * frame * 2 / 1e9
    fastest = [size / min(column) for column in zip(*times, strict=True)]  # what else runs here only slows either down
    return {
        "kib": FRAMES * frame * 2 // 1024,
        "dataset": fastest[0],
        "memcpy": fastest[1],
        "ratio": fastest[0] / fastest[1],
        "median": statistics.median(memcpy / ours for ours, memcpy in times),
        "workers": size / working,
    }


def encoded(folder: Path, index: Index, channels: int, noisy: bool, side: int) -> LatentCache:
    """A cache of latents of the usual size, by a codec that takes no time: their values make no difference."""

    def encode(video: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.randn(1, channels, video.shape[2], side, side)
        return mean, torch.full_like(mean, float(noisy))

    size, per_pixel = (index.files[0].height, index.files[0].width), 4 * channels * side**2 / index.files[0].height ** 2
    plan = Plan(index, [size] * len(index.files), {}, per_pixel=per_pixel)
    found = encode_latents(folder / "latents", plan, encode, progress=False)
    assert found is not None
    return LatentCache(found)


def clock(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="a training step against video-diffusion-pytorch's Unet3D")
    command.set_defaults(measure=train)
    command.add_argument("--dim", type=int, default=64, help="width of the peer; vidiff's is searched to match")
    command.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 4], help="of both, one a level")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--rounds", type=int, default=9, help="steps of each side that are timed")
    command.add_argument("--seed", type=int, default=0, help="of weights and input")
    command.add_argument("--json", type=Path, help="write the figures here as well")
    command = commands.add_parser("load", help="random clips out of video files, against plain PyAV and torchcodec")
    command.set_defaults(measure=load)
    command.add_argument("--data", type=Path, help="folder that keeps the files; made anew where none is given")
    command.add_argument("--rounds", type=int, default=9, help="times that each reader reads a set of clips")
    command.add_argument("--clips", type=int, default=8, help="of a set")
    command.add_argument("--json", type=Path, help="write the figures here as well")
    command = commands.add_parser("latents", help="clips from a latent cache against decoding, and against memcpy")
    command.set_defaults(measure=latents)
    command.add_argument("--size", type=int, default=256, help="of frames in pixels; latents have an eighth of it")
    command.add_argument("--files", type=int, default=8, help="videos that are decoded")
    command.add_argument(
        "--megabytes", type=int, default=512, help="of the cache that is read; more than the CPU's own"
    )
    command.add_argument("--batch", type=int, default=16, help="MiB of a batch")
    command.add_argument("--rounds", type=int, default=200, help="in each of which both sides deliver a batch")
    command.add_argument("--scratch", type=Path, help="folder for videos and caches, of 2 GB, which are removed again")
    command.add_argument("--seed", type=int, default=0, help="of windows and values")
    command.add_argument("--json", type=Path, help="write the figures here as well")
    stream_options(commands.add_parser("stream", help="a stream's new frame against a window's"))
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> None:
    try:
        result = args.measure(args)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; `make bench` installs what the comparison needs") from None
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(measure, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
