"""Random windows of cached latents, a batch at a time, and the text of each beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidiff.data.buckets import group
from vidiff.data.clips import EVERY, Sample, Strides, draw, draw_window, long_enough
from vidiff.data.latents.cache import LatentCache
from vidiff.data.order import Key, seeded
from vidiff.store.error import DataError
from vidiff.store.remote import shown


class Window(NamedTuple):
    """What of a cache is read, as `LatentCache.window` takes it."""

    number: int
    start: int
    frames: int
    stride: int
    mirrored: bool
    crop: int


class LatentDataset(Dataset[Sample]):
    """Random windows of cached latents: `dataset[epoch, index]`, or `dataset.__getitems__(keys)` for a batch of them.

    A batch is {"latent": `(b, frames, p, c, h, w)` as the cache keeps it, mean and std one after the other, or the mean
    alone (p is 1) where every std is 0; "shift", "scale": float32 `(b, c)`, to normalise it by; "label", "stride",
    "key": `(b,)`, as of `ClipDataset`}, and the same of the low resolution as "low", "low_shift" and "low_scale" where
    there is a cache of that. `vidiff.objective.latents` makes normalised latents of it, where the model is. So a batch
    takes one copy, straight from the mapped shards, and half of the memory that it will fill.

    Attributes:
        groups: the indices of windows of equal shape, together.

    Args:
        frames, stride, seed: as for `vidiff.data.clips.ClipDataset`. Of a cache of segments, windows are these.
        statistics: shift and scale `(c,)` by which to normalise; the cache's own if not given.
        lowres: latents of the same files at low resolution, which a super-resolution model is shown.
        lowres_statistics: as `statistics`, of those.
        sizes: as those of the plan by which the cache was made, where they differ.

    Raises:
        DataError: if every file is shorter than a clip, or the two caches are not of the same files.
    """

    def __init__(
        self,
        cache: LatentCache,
        frames: int | Sequence[int],
        stride: Strides = EVERY,
        seed: int = 0,
        statistics: tuple[Tensor, Tensor] | None = None,
        lowres: LatentCache | None = None,
        lowres_statistics: tuple[Tensor, Tensor] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.cache, self.stride, self.seed = cache, stride, seed
        self.frames = [frames] * len(cache) if isinstance(frames, int) else frames
        if cache.segment and ({*self.frames}, stride.least, stride.most) != ({cache.segment}, 1, 1):
            raise ValueError(f"{cache.folder} holds segments of {cache.segment} latents: windows are these at stride 1")
        self.statistics = statistics or cache.statistics
        self.kept = long_enough(cache.frames, frames, stride.least, shown(str(cache.folder)))
        self.groups = group([(self.frames[number], sizes and sizes[number]) for number in self.kept])
        self.lowres = lowres
        if lowres is not None:
            one, other = ((each.frames, each.labels, each.flips, each.crops) for each in (lowres, cache))
            if one != other:
                raise DataError(f"{cache.folder} and {lowres.folder} are not of the same files: remove both, run again")
            self.lowres_statistics = lowres_statistics or lowres.statistics

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: Key) -> Sample:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        """A batch. Raises ValueError where latents of different heights and widths would have to share one."""
        generator = torch.Generator()
        windows = [self.draw(key, seeded(self.seed, *key, generator=generator)) for key in keys]
        shift, scale = self.statistics
        numbers = [window.number for window in windows]
        batch = {
            "latent": gather(self.cache, windows),
            "shift": shift.expand(len(keys), -1),
            "scale": scale.expand(len(keys), -1),
            "label": torch.from_numpy(np.array([self.cache.labels[number] for number in numbers])),
            "stride": torch.from_numpy(np.array([window.stride for window in windows])),
            "key": torch.from_numpy(np.array(numbers)),
        }
        if self.lowres is not None:
            shift, scale = self.lowres_statistics
            batch["low"] = gather(self.lowres, windows)
            batch["low_shift"], batch["low_scale"] = shift.expand(len(keys), -1), scale.expand(len(keys), -1)
        return batch

    def draw(self, key: Key, generator: torch.Generator) -> Window:
        """The window of a sample."""
        number = self.kept[key[1]]
        length, segment, frames = self.cache.frames[number], self.cache.segment, self.frames[number]
        if segment:
            start, step = draw(0, length // segment - 1, generator) * segment, 1
        else:
            start, step = draw_window(length, frames, self.stride, generator)
        crops = self.cache.crops[number]
        crop = draw(0, crops - 1, generator) if crops > 1 else 0
        mirrored = self.cache.flips and draw(0, 1, generator) == 1
        return Window(number, start, frames, step, mirrored, crop)


def gather(cache: LatentCache, windows: Sequence[Window]) -> Tensor:
    """Windows side by side: `(b, frames, p, c, h, w)`, as the cache keeps them."""
    first = cache.window(*windows[0])
    shape = (len(windows), len(first), cache.parts, *first.shape[2:])
    bits = np.empty(shape, np.int16)  # which, unlike torch, takes huge pages where they are: new memory is slow to come
    for row, window in zip(bits, windows, strict=True):
        found = cache.window(*window)
        if found.shape[2:] != row.shape[2:]:
            raise ValueError(
                f"files {windows[0].number} and {window.number} of {cache.folder} have latents of "
                f"{tuple(first.shape[3:])} and {tuple(found.shape[3:])}, which one batch cannot hold"
            )
        if found.shape == row.shape:
            row[...] = found
        else:  # a file whose std is 0, among others
            row[:, :1], row[:, 1:] = found, 0
    return torch.from_numpy(bits).view(cache.dtype)


class Captioned(Dataset[Sample]):
    """A data set of cached clips with the text of each beside it, as "text" and "text_mask".

    Attributes:
        groups: as of the clips.

    Args:
        clips: gives batches by `__getitems__`; they have "key", the numbers of the files in the index.
        text, mask: as an encoder of `vidiff.text` makes them.
        rows: where in these each file of the index has its own.
    """

    def __init__(self, clips: LatentDataset, text: Tensor, mask: Tensor, rows: Sequence[int]) -> None:
        self.clips, self.text, self.mask, self.rows = clips, text, mask, torch.tensor(rows)
        self.groups = clips.groups

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> Sample:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        """A batch."""
        batch = self.clips.__getitems__(keys)
        rows = self.rows[batch["key"]]
        return {**batch, "text": self.text[rows], "text_mask": self.mask[rows]}
