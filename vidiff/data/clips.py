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

from vidiff.data.buckets import group
from vidiff.data.index import Index
from vidiff.data.order import Key, seeded
from vidiff.data.processes import decoding_processes
from vidiff.data.quarantine import Quarantine
from vidiff.data.watchdog import Watch, Watched, WatchedLoader, start_alarm_clock
from vidiff.engine.guard import shield_worker
from vidiff.store.error import DataError, VideoError
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader

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


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number from low to high; where they are equal, nothing is drawn."""
    return low if low == high else low + (high - low) * float(torch.rand((), generator=generator))


def draw_window(length: int, frames: int, stride: Strides, generator: torch.Generator) -> tuple[int, int]:
    """Start and stride of a window of `frames` in a file of `length` frames; long strides only where they fit."""
    longest = min(stride.most, (length - 1) // max(frames - 1, 1)) if frames > 1 else stride.most
    step = draw(stride.least, max(longest, stride.least), generator)
    if stride.share and float(torch.rand((), generator=generator)) < stride.share:
        step = stride.least
    return draw(0, length - (frames - 1) * step - 1, generator), step


def long_enough(lengths: list[int], frames: int | Sequence[int], stride: int, where: str) -> list[int]:
    """Numbers of the files, given their lengths in frames, that hold a clip. Raises DataError if none does.

    Args:
        frames: of a clip, or of each file's clips.
    """
    each = [frames] * len(lengths) if isinstance(frames, int) else frames
    kept = [number for number, length in enumerate(lengths) if length >= (each[number] - 1) * stride + 1]
    least = min(each)
    needed = (least - 1) * stride + 1
    if not kept:
        raise DataError(
            f"a clip of {least} frames at stride {stride} needs {needed} frames, but the longest file in {where} has "
            f"{max(lengths)}: lower data.frames or data.stride"
        )
    if len(kept) < len(lengths):
        short = f"{len(lengths) - len(kept)} of {len(lengths)} files in {where}"
        warnings.warn(f"{short} are left out: a clip needs {needed} frames, and they have fewer", stacklevel=3)
    return kept


def change_colours(video: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation of a whole clip, each times 1 - most to 1 + most, in this order.

    Contrast is about the mean grey of the clip, saturation about the grey of each pixel (ITU-R BT.601), and what leaves
    the range of pixels is cut off. Where `most` is 0, nothing is drawn.

    Args:
        video: `(3, f, h, w)` in [-1, 1].
    """
    if not most:
        return video
    brightness, contrast, saturation = (uniform(1 - most, 1 + most, generator) for _ in range(3))
    weights = video.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    light = ((video + 1) / 2 * brightness).clamp(0, 1)
    middle = (light * weights).sum(0).mean()
    light = (middle + contrast * (light - middle)).clamp(0, 1)
    grey = (light * weights).sum(0, keepdim=True)  # 1 f h w
    return (grey + saturation * (light - grey)).clamp(0, 1) * 2 - 1


class ClipDataset(Dataset[Sample]):
    """Random clips of the files of an index: `dataset[epoch, index]`.

    Each is {"video": float32 `(3, frames, height, width)` in [-1, 1], "label": int64, -1 for none, "stride": int64,
    source frames per clip frame, "key": int64, the file's number in the index}. What is drawn depends on (seed, epoch,
    index) alone. A file that fails to decode is named once, and another with clips of the same shape takes its place;
    so is one whose decoder hangs or crashes in a worker of `make_loader`.

    Attributes:
        groups: the indices of clips of equal shape, together.

    Args:
        frames: of a clip, or of each file's clips.
        size: height and width in pixels, or (height, width) of each file's clips; the decoder resizes frames so that
            they just cover it, then it is cropped.
        stride: source frames per clip frame.
        flip: mirror half of the clips.
        max_broken: fraction of files that may fail before training stops.
        jitter: change brightness, contrast and saturation of each clip by up to this share.
        zoom: least and most of a number by which frames are larger than `size` before they are cropped.
        patience: seconds that a worker may take to read a clip before it is killed, and its file left out.
        quarantine: where such a file is listed.

    Raises:
        DataError: if every file is shorter than a clip; while drawing, if too many files have failed, or all of a
            group.
    """

    def __init__(
        self,
        index: Index,
        frames: int | Sequence[int],
        size: int | Sequence[tuple[int, int]],
        stride: Strides = EVERY,
        flip: bool = False,
        seed: int = 0,
        max_broken: float = 0.05,
        patience: float = 60.0,
        quarantine: Quarantine | None = None,
        jitter: float = 0.0,
        zoom: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.index, self.stride, count = index, stride, len(index.files)
        self.frames = [frames] * count if isinstance(frames, int) else frames
        self.sizes = [(size, size)] * count if isinstance(size, int) else size
        self.flip, self.seed, self.max_broken, self.jitter, self.zoom = flip, seed, max_broken, jitter, zoom
        self.kept = long_enough([f.frames for f in index.files], frames, stride.least, str(index.root))
        self.groups = group([(self.frames[number], self.sizes[number]) for number in self.kept])
        self.alike = {self.kept[n]: alike for alike in self.groups for n in alike}  # by number, its group
        self.first = 0  # the number of the first file among all that a loader watches
        self.failed = torch.zeros(len(index.files), dtype=torch.bool).share_memory_()  # by any loader worker
        self.lost = torch.zeros_like(self.failed).share_memory_()  # of those, not to be opened again
        self.watch, self.quarantine = Watch(patience), quarantine

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
            alike = self.alike[number]
            number = self.kept[alike[draw(0, len(alike) - 1, generator)]]

    def read(self, number: int, generator: torch.Generator) -> Sample:
        """One random clip of one file."""
        file = self.index.files[number]
        frames = self.frames[number]
        start, step = draw_window(file.frames, frames, self.stride, generator)
        fit = Fit((file.height, file.width), self.sizes[number], uniform(*self.zoom, generator))
        corner = draw(0, fit.spare[0], generator), draw(0, fit.spare[1], generator)
        mirrored = self.flip and draw(0, 1, generator) == 1
        path = self.index.path(number)
        if self.lost[number]:
            raise VideoError(f"{path}: its decoder hung or crashed")
        with self.watch.over(self.first + number):
            indices = range(start, start + frames * step, step)
            video = fit.crop(self.decode(path, indices, fit.resize, file.decoder), corner)  # 3 f h w
        video = video.flip(-1) if mirrored else video
        return {
            "video": change_colours(video, self.jitter, generator).contiguous(),
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
        number -= self.first
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
        failed, alike = int(self.failed.sum()), [self.kept[place] for place in self.alike[number]]
        many = failed > self.max_broken * len(self.kept)
        if many or self.failed[alike].all():
            why = f"more than data.max_broken={self.max_broken} allows" if many else "all with clips of one shape"
            raise DataError(
                f"{failed} of {len(self.kept)} files failed to decode, {why}; the last was {error}"
            ) from None


def make_loader(dataset: Dataset[Sample], order: Iterable[list[Key]], workers: int) -> Iterable[dict[str, Tensor]]:
    """A loader in the given order, of batches as `torch.utils.data.default_collate` makes them, or as a dataset does
    itself that has `__getitems__`.

    Its workers leave signals to the training, so that it can save. One that hangs or crashes while it reads a clip of
    a `ClipDataset`, or another data set that is `Watched`, is replaced, and the file left out.
    """
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": _as_it_is if hasattr(dataset, "__getitems__") else None,
        "multiprocessing_context": decoding_processes() if workers else None,
        "worker_init_fn": _begin_worker if workers else None,
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": 4 if workers else None,
        # the datasets have their own; without one, the global generator is drawn from
        "generator": torch.Generator(),
    }
    if workers and isinstance(dataset, Watched):
        return WatchedLoader(dataset, order, **options)
    return DataLoader(dataset, batch_sampler=order, **options)


def _as_it_is(batch: Sample) -> Sample:
    return batch


def _begin_worker(worker: int) -> None:
    shield_worker(worker)
    start_alarm_clock()
