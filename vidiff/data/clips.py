"""Data sets, the batches that loaders make of them, and the one that decodes: random windows of files, as pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from vidiff.data.buckets import Strides, View, group
from vidiff.data.index import Index
from vidiff.data.order import JointOrder, Key, Order, seeded
from vidiff.data.quarantine import Quarantine
from vidiff.data.workers import DecodingProcesses, Loader, Watch, Watched, WatchedLoader, start_alarm_clock
from vidiff.store.error import DamageError, DataError, VideoError
from vidiff.store.place import Place
from vidiff.video.fit import Fit
from vidiff.video.reader import Manner

Sample = dict[str, Tensor]
"""A sample, or a batch of them: tensors by name. What conditions a model has the name of its field of `Condition`."""

PATCHY = 16  # windows that are found damaged, one after the other, before a file has failed


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


def long_enough(
    lengths: list[int],
    frames: int | Sequence[int],
    stride: int,
    where: str,
    lower: str = "data.frames or data.stride",
) -> list[int]:
    """Numbers of the files, given their lengths in frames, that hold a clip. Raises DataError if none does.

    Args:
        frames: of a clip, or of each file's clips.
        lower: what asks for less, in words of whoever is told.
    """
    wanted = [frames] * len(lengths) if isinstance(frames, int) else frames
    kept = [number for number, length in enumerate(lengths) if length >= (wanted[number] - 1) * stride + 1]
    least = min(wanted)
    needed = (least - 1) * stride + 1
    if not kept:
        raise DataError(
            f"a clip of {least} frames at stride {stride} needs {needed} frames, but the longest file in {where} has "
            f"{max(lengths)}: lower {lower}"
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


class Samples(Dataset[Sample]):
    """A data set of windows of files, which come in batches: `dataset.__getitems__([(epoch, index), ...])`.

    What is drawn depends on the seed, the epoch and the index alone.

    Attributes:
        groups: the indices of samples of equal shape, together.
        files: number of the files that it draws from.
        first: "key" of the first of them: its number among all files that a loader draws from.
    """

    groups: list[list[int]]
    files: int
    first: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __getitem__(self, key: Key) -> Sample:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        """A batch, of one group."""
        raise NotImplementedError

    def order(self, batch: int, seed: int, rank: int = 0, world: int = 1, start: int = 0) -> Iterable[list[Key]]:
        """The order in which a training draws samples. Arguments as of `Order`."""
        return Order(self.groups, batch, seed, rank, world, start)


class ClipDataset(Samples):
    """Random clips of the files of an index: `dataset[epoch, index]`.

    Each is {"video": float32 `(3, frames, height, width)` in [-1, 1], "label": int64, -1 for none, "stride": int64,
    source frames per clip frame, "key": int64, the file's number}. A file that fails to decode is named once, and
    another with clips of the same shape takes its place; so is one whose decoder hangs or crashes in a worker of
    `make_loader`.

    Args:
        view: what is seen of the files; the decoder resizes frames so that they just cover the clip's size, then they
            are cropped.
        max_broken: fraction of files that may fail before training stops.
        patience: seconds that a worker may take to read a clip before it is killed, and its file left out.
        quarantine: where such a file is listed.

    Raises:
        DataError: if every file is shorter than a clip; while drawing, if too many files have failed, or all of a
            group.
    """

    def __init__(
        self,
        index: Index,
        view: View,
        seed: int = 0,
        max_broken: float = 0.05,
        patience: float = 60.0,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.index, self.view, self.files = index, view, len(index.files)
        self.shapes = view.shapes(self.files)
        self.seed, self.max_broken = seed, max_broken
        lengths = [file.frames for file in index.files]
        self.kept = long_enough(lengths, [s.frames for s in self.shapes], view.strides.least, index.root)
        self.groups = group([self.shapes[number] for number in self.kept])
        self.alike = {self.kept[n]: alike for alike in self.groups for n in alike}  # by number, its group
        self.failed = torch.zeros(self.files, dtype=torch.bool).share_memory_()  # by any loader worker
        self.lost = torch.zeros_like(self.failed).share_memory_()  # of those, not to be opened again
        self.damaged = torch.zeros_like(self.failed).share_memory_()  # in windows that the index does not know of
        self.watch, self.quarantine = Watch(patience), quarantine

    def __getitem__(self, key: Key) -> Sample:
        generator = seeded(self.seed, *key)
        number = self.kept[key[1]]
        tries = 0
        while True:
            try:
                return self.read(number, generator)
            except DamageError as error:
                tries += 1
                if tries < PATCHY:
                    self.note_damage(number, error)
                else:
                    self.note_failure(number, error)
            except VideoError as error:
                self.note_failure(number, error)
            alike = self.alike[number]
            number = self.kept[alike[draw(0, len(alike) - 1, generator)]]

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        return default_collate([self[key] for key in keys])

    def read(self, number: int, generator: torch.Generator) -> Sample:
        """One random clip of one file."""
        file = self.index.files[number]
        frames, view = self.shapes[number].frames, self.view
        start, step = draw_window(file.frames, frames, view.strides, generator)
        fit = Fit((file.height, file.width), self.shapes[number].size, uniform(*view.zoom, generator))
        corner = draw(0, fit.spare[0], generator), draw(0, fit.spare[1], generator)
        mirrored = view.flip and draw(0, 1, generator) == 1
        if self.lost[number]:
            raise VideoError(f"{file.place}: its decoder hung or crashed")
        with file.place.held() as here, self.watch.over(self.first + number):
            indices = range(start, start + frames * step, step)
            video = fit.crop(self.decode(here, indices, fit.resize, self.index.manner(file)), corner)  # 3 f h w
        video = video.flip(-1) if mirrored else video
        return {
            "video": change_colours(video, view.jitter, generator).contiguous(),
            "label": torch.tensor(file.label),
            "stride": torch.tensor(step),
            "key": torch.tensor(self.first + number),
        }

    def decode(self, place: Place, indices: Sequence[int], size: tuple[int, int] | None, manner: Manner) -> Tensor:
        """Frames of a file, `(3, f, h, w)`."""
        with manner.open(place) as reader:
            return reader.read(indices, size)

    def lose(self, number: int, reason: str) -> None:
        """Leave out a file whose decoder ended a worker. Raises DataError once too many files have failed."""
        number -= self.first
        clip = self.index.files[number]
        self.lost[number] = True
        if self.quarantine:
            self.quarantine.add(clip, reason)
        self.note_failure(number, VideoError(f"{clip.place}: {reason}"))

    def note_damage(self, number: int, error: DamageError) -> None:
        """Names a file at the first of its windows that is damaged: another window may be whole."""
        if not self.damaged[number]:
            self.damaged[number] = True
            warnings.warn(f"another clip is drawn wherever a damaged one's turn comes: {error}", stacklevel=3)

    def note_failure(self, number: int, error: VideoError) -> None:
        """Names a file at its first failure. Raises DataError once too many have failed."""
        if not self.failed[number]:
            self.failed[number] = True
            warnings.warn(f"another clip is drawn wherever this file's turn comes: {error}", stacklevel=3)
        failed, alike = int(self.failed.sum()), [self.kept[index] for index in self.alike[number]]
        many = failed > self.max_broken * len(self.kept)
        if many or self.failed[alike].all():
            why = f"more than data.max_broken={self.max_broken} allows" if many else "all with clips of one shape"
            raise DataError(
                f"{failed} of {len(self.kept)} files failed to decode, {why}; the last was {error}"
            ) from None


class Joint(Samples):
    """Clips and pictures, which are clips of one frame, as one data set: the samples of the clips come first.

    Their files are counted, and their decoders watched, together.

    Args:
        share: of the batches that are of pictures, for `vidiff.data.order.JointOrder`.
    """

    def __init__(self, clips: Samples, pictures: Samples, share: float) -> None:
        self.clips, self.pictures, self.share = clips, pictures, share
        self.kinds = clips.groups, [[index + len(clips) for index in group] for group in pictures.groups]
        self.groups = [*self.kinds[0], *self.kinds[1]]
        self.files, pictures.first = clips.files + pictures.files, clips.files
        if isinstance(clips, ClipDataset) and isinstance(pictures, ClipDataset):
            self.watch = pictures.watch = clips.watch

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        before = len(self.clips)
        if keys[0][1] < before:
            return self.clips.__getitems__(keys)
        return self.pictures.__getitems__([(epoch, index - before) for epoch, index in keys])

    def order(self, batch: int, seed: int, rank: int = 0, world: int = 1, start: int = 0) -> Iterable[list[Key]]:
        return JointOrder(self.kinds, self.share, batch, seed, rank, world, start)

    def lose(self, number: int, reason: str) -> None:
        """Leave out a file whose decoder ended a worker, as `ClipDataset` does."""
        dataset = self.clips if number < self.clips.files else self.pictures
        assert isinstance(dataset, ClipDataset)
        dataset.lose(number, reason)


def make_loader(dataset: Samples, order: Iterable[list[Key]], workers: int) -> Iterable[Sample]:
    """A loader of a data set's batches in the given order.

    Its workers leave signals to the training, so that it can save. One that hangs or crashes while it reads a clip of
    a `ClipDataset`, or another data set that is `Watched`, is replaced, and the file left out.
    """
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": _as_it_is,
        "multiprocessing_context": DecodingProcesses() if workers else None,
        "worker_init_fn": start_alarm_clock if workers else None,
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": 4 if workers else None,
        # the datasets have their own; without one, the global generator is drawn from
        "generator": torch.Generator(),
    }
    if workers and isinstance(dataset, Watched):
        return WatchedLoader(dataset, order, **options)
    return Loader(dataset, batch_sampler=order, **options)


def _as_it_is(batch: Sample) -> Sample:
    return batch
