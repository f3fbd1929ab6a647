"""Clips from a latent cache, against the same clips out of their video files, and against a copy in memory."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidiff.data.buckets import Bucket, View
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import LatentDataset
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.order import Order
from vidiff.store.place import place_of
from vidiff.video.writer import write_video

from .timing import clock

FRAMES = 16
WINDOWS = 64  # of a batch


def latents(args: argparse.Namespace) -> dict[str, object]:
    """Time a latent cache, print what was found, and return it."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        decoding = against_decoding(Path(name), args)
        print(
            "clips of {frames} frames of {size} px, H.264, and their latents of 4x{side}x{side}, mean and std; "
            "one process\n"
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
        clips: list[int] = []
        seconds = clock(
            lambda loader=loader, clips=clips, n=batches: clips.extend(len(next(loader)["key"]) for _ in range(n))
        )
        speeds.append(sum(clips) / seconds)
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


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--size", type=int, default=256, help="of frames in pixels; latents have an eighth of it")
    command.add_argument("--files", type=int, default=8, help="videos that are decoded")
    command.add_argument(
        "--megabytes", type=int, default=512, help="of the cache that is read; more than the CPU's own"
    )
    command.add_argument("--batch", type=int, default=16, help="MiB of a batch")
    command.add_argument("--scratch", type=Path, help="folder for videos and caches, of 2 GB, which are removed again")
