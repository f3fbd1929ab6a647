"""Clips of pixels: random windows of files, decoded in worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidiff.data.decode import VideoError
from vidiff.data.index import DataError, Index
from vidiff.data.order import Key, seeded
from vidiff.data.processes import decoding_processes
from vidiff.data.quarantine import Quarantine
from vidiff.data.video import VideoReader
from vidiff.data.watchdog import Watch, WatchedLoader, start_alarm_clock
from vidiff.engine.guard import shield_worker

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class Strides:
    """Source frames per clip frame: any number from `least` to `most`, but `least` for at least a `share` of clips."""

    least: int = 1
    most: int = 1
    share: float = 0.0


EVERY = Strides()


def draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_window(length: int, frames: int, stride: Strides, generator: torch.Generator) -> tuple[int, int]:
    """Start and stride of a window of `frames` in a file of `length` frames; long strides only where they fit."""
    longest = min(stride.most, (length - 1) // max(frames - 1, 1)) if frames > 1 else stride.most
    step = draw(stride.least, max(longest, stride.least), generator)
    if stride.share and float(torch.rand((), generator=generator)) < stride.share:
        step = stride.least
    return draw(0, length - (frames - 1) * step - 1, generator), step


def long_enough(lengths: list[int], frames: int, stride: int, where: str) -> list[int]:
    """Numbers of the files, given their lengths in frames, that hold a clip. Raises DataError if none does."""
    needed = (frames - 1) * stride + 1
    kept = [number for number, length in enumerate(lengths) if length >= needed]
    if not kept:
        raise DataError(
            f"a clip of {frames} frames at stride {stride} needs {needed} frames, but the longest file in {where} has "
            f"{max(lengths)}: lower data.frames or data.stride"
        )
    if len(kept) < len(lengths):
        short = f"{len(lengths) - len(kept)} of {len(lengths)} files in {where}"
        warnings.warn(f"{short} are left out: a clip needs {needed} frames, and they have fewer", stacklevel=3)
    return kept


def fit_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a frame once its shorter side is `size`, in pixels; the other is rounded."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


class ClipDataset(Dataset[Sample]):
    """Random clips of the files of an index: `dataset[epoch, index]`.

    Each is {"video": float32 `(3, frames, size, size)` in [-1, 1], "label": int64, -1 for none, "stride": int64, source
    frames per clip frame, "key": int64, the file's number in the index}. What is drawn depends on (seed, epoch, index)
    alone. A file that fails to decode is named once, and another takes its place; so is one whose decoder hangs or
    crashes in a worker of `make_loader`.

    Args:
        frames: of a clip.
        size: height and width in pixels; the decoder resizes the shorter side to it, then a square is cropped.
        stride: source frames per clip frame.
        flip: mirror half of the clips.
        max_broken: fraction of files that may fail before training stops.
        patience: seconds that a worker may take to read a clip before it is killed, and its file left out.
        quarantine: where such a file is listed.

    Raises:
        DataError: if every file is shorter than a clip; while drawing, if too many files have failed.
    """

    def __init__(
        self,
        index: Index,
        frames: int,
        size: int,
        stride: Strides = EVERY,
        flip: bool = False,
        seed: int = 0,
        max_broken: float = 0.05,
        patience: float = 60.0,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.index, self.frames, self.size, self.stride = index, frames, size, stride
        self.flip, self.seed, self.max_broken = flip, seed, max_broken
        self.kept = long_enough([f.frames for f in index.files], frames, stride.least, str(index.root))
        self.failed = torch.zeros(len(index.files), dtype=torch.bool).share_memory_()  # by any loader worker
        self.lost = torch.zeros_like(self.failed).share_memory_()  # of those, not to be opened again
        self.watch, self.quarantine = Watch(patience), quarantine

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: Key) -> Sample:
        generator = seeded(self.seed, *key)
        place = key[1]
        while True:
            number = self.kept[place]
            try:
                return self.read(number, generator)
            except VideoError as error:
                self.note_failure(number, error)
            place = draw(0, len(self.kept) - 1, generator)

    def read(self, number: int, generator: torch.Generator) -> Sample:
        """One random clip of one file."""
        file = self.index.files[number]
        start, step = draw_window(file.frames, self.frames, self.stride, generator)
        height, width = fit_size(file.height, file.width, self.size)
        top, left = draw(0, height - self.size, generator), draw(0, width - self.size, generator)
        mirrored = self.flip and draw(0, 1, generator) == 1
        resize = None if (height, width) == (file.height, file.width) else (height, width)
        path = self.index.path(number)
        if self.lost[number]:
            raise VideoError(f"{path}: its decoder hung or crashed")
        with self.watch.over(number):
            indices = range(start, start + self.frames * step, step)
            video = self.decode(path, indices, resize, file.decoder)  # 3 f height width
        video = video[..., top : top + self.size, left : left + self.size]  # 3 f size size
        return {
            "video": (video.flip(-1) if mirrored else video).contiguous(),
            "label": torch.tensor(file.label),
            "stride": torch.tensor(step),
            "key": torch.tensor(number),
        }

    def decode(self, path: Path, indices: Sequence[int], size: tuple[int, int] | None, decoder: str) -> Tensor:
        """Frames of a file, `(3, f, h, w)`."""
        with VideoReader(path, self.index.fps, decoder) as reader:
            return reader.read(indices, size)

    def lose(self, number: int, reason: str) -> None:
        """Leave out a file whose decoder ended a worker. Raises DataError once too many files have failed."""
        path = self.index.path(number)
        self.lost[number] = True
        if self.quarantine:
            self.quarantine.add(path, reason)
        self.note_failure(number, VideoError(f"{path}: {reason}"))

    def note_failure(self, number: int, error: VideoError) -> None:
        """Names a file at its first failure. Raises DataError once too many have failed."""
        if not self.failed[number]:
            self.failed[number] = True
            warnings.warn(f"another clip is drawn wherever this file's turn comes: {error}", stacklevel=3)
        failed = int(self.failed.sum())
        if failed == len(self.kept) or failed > self.max_broken * len(self.kept):
            raise DataError(
                f"{failed} of {len(self.kept)} files failed to decode, more than data.max_broken={self.max_broken} "
                f"allows; the last was {error}"
            ) from None


def make_loader(dataset: Dataset[Sample], order: Iterable[list[Key]], workers: int) -> Iterable[dict[str, Tensor]]:
    """A loader in the given order, of batches as `torch.utils.data.default_collate` makes them.

    Its workers leave signals to the training, so that it can save. One that hangs or crashes while it reads a clip of
    a `ClipDataset` is replaced, and the file left out.
    """
    options: dict[str, Any] = {
        "num_workers": workers,
        "multiprocessing_context": decoding_processes() if workers else None,
        "worker_init_fn": _begin_worker if workers else None,
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": 4 if workers else None,
        # the datasets have their own; without one, the global generator is drawn from
        "generator": torch.Generator(),
    }
    if workers and isinstance(dataset, ClipDataset):
        return WatchedLoader(dataset, order, **options)
    return DataLoader(dataset, batch_sampler=order, **options)


def _begin_worker(worker: int) -> None:
    shield_worker(worker)
    start_alarm_clock()
