"""Clips of pixels: random windows of files, decoded in worker processes."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidiff.data.index import DataError, Index, VideoFile
from vidiff.data.order import Key, Order, seeded
from vidiff.data.video import VideoError, read_video
from vidiff.engine.guard import shield_worker

Sample = dict[str, Tensor]


def draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_window(length: int, frames: int, stride: tuple[int, int], generator: torch.Generator) -> range:
    """Where `frames` lie in a file of `length`, at a stride between the two given, or as long as the file allows."""
    longest = (length - 1) // (frames - 1) if frames > 1 else stride[1]
    step = min(draw(*stride, generator), longest)
    start = draw(0, length - (frames - 1) * step - 1, generator)
    return range(start, start + frames * step, step)


def long_enough(lengths: Sequence[int], frames: int, where: object) -> list[int]:
    """Numbers of the files that hold a clip. Warns of others; raises DataError if no file does."""
    kept = [number for number, length in enumerate(lengths) if length >= frames]
    if not kept:
        raise DataError(
            f"a clip of {frames} frames is longer than every file in {where}; the longest has {max(lengths)}: "
            f"set data.frames to that or less"
        )
    if short := len(lengths) - len(kept):
        warnings.warn(f"{where}: {short} of {len(lengths)} files have under {frames} frames: left out", stacklevel=3)
    return kept


def fit_size(file: VideoFile, size: int) -> tuple[int, int]:
    """Height and width of a file's frames once the shorter side is `size`."""
    scale = size / min(file.height, file.width)
    return max(size, round(file.height * scale)), max(size, round(file.width * scale))


class ClipDataset(Dataset[Sample]):
    """Random clips of the files of an index.

    Item `(epoch, index)` is `{"video": (3, f, size, size) in [-1, 1], "label", "stride", "key"}`, the last being
    the file's number in the index. What is drawn depends on (seed, epoch, index) alone. A file that fails to decode is
    named once, and a clip of another takes its place.

    Args:
        frames: of a clip. Shorter files are left out.
        size: height and width in pixels; the decoder resizes the shorter side to it, then a square is cropped.
        stride: least and most source frames per clip frame; less where the file is too short for it.
        flip: mirror half of the clips.
        max_broken: fraction of the files that may fail to decode; one may in any case, but not all.

    Raises:
        DataError: if every file is shorter than a clip; when reading, if more files fail than `max_broken` allows.
    """

    def __init__(
        self,
        index: Index,
        frames: int,
        size: int,
        stride: tuple[int, int] = (1, 1),
        flip: bool = False,
        seed: int = 0,
        max_broken: float = 0.05,
    ) -> None:
        self.index, self.frames, self.size, self.stride = index, frames, size, stride
        self.flip, self.seed, self.max_broken = flip, seed, max_broken
        self.kept = long_enough([file.frames for file in index.files], frames, index.root)
        self.failed: set[int] = set()

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: Key) -> Sample:
        generator = seeded(self.seed, *key)
        number = self.kept[key[1]]
        while True:
            try:
                return self.read(number, generator)
            except VideoError as error:
                self.note_failure(number, error)
            number = self.kept[draw(0, len(self.kept) - 1, generator)]

    def read(self, number: int, generator: torch.Generator) -> Sample:
        """A random clip of one file. Raises VideoError."""
        file = self.index.files[number]
        window = draw_window(file.frames, self.frames, self.stride, generator)
        height, width = fit_size(file, self.size)
        top, left = draw(0, height - self.size, generator), draw(0, width - self.size, generator)
        mirrored = self.flip and draw(0, 1, generator) == 1
        video = read_video(self.index.path(number), window, size=(height, width))
        video = video[..., top : top + self.size, left : left + self.size]  # 3 f size size
        return {
            "video": (video.flip(-1) if mirrored else video).contiguous(),
            "label": torch.tensor(file.label),
            "stride": torch.tensor(window.step),
            "key": torch.tensor(number),
        }

    def note_failure(self, number: int, error: VideoError) -> None:
        """Names the file, the first time. Raises DataError once too many have failed in this process."""
        if number not in self.failed:
            self.failed.add(number)
            warnings.warn(f"{error}; clips of other files take its place", stacklevel=3)
        if len(self.failed) > min(max(1, self.max_broken * len(self.kept)), len(self.kept) - 1):
            raise DataError(
                f"{len(self.failed)} of {len(self.kept)} files failed to decode, more than "
                f"data.max_broken={self.max_broken} allows: mend or remove them, or raise data.max_broken. "
                f"The last was {error}"
            )


def make_loader(dataset: Dataset[Sample], order: Order, workers: int) -> DataLoader[Any]:
    """A loader without end, in the given order, which does not depend on the number of workers.

    Workers come from a fork server, since a decoder hangs in a process that was forked from one that has used it. They
    leave signals to the training, so that it can save.
    """
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        multiprocessing_context=multiprocessing.get_context("forkserver") if workers else None,
        worker_init_fn=shield_worker if workers else None,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
