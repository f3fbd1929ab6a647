"""Random windows of cached latents, a batch at a time, and what goes with them: text, a low resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidiff.data.buckets import View, group
from vidiff.data.clips import Sample, Samples, change_colours, draw, draw_window, long_enough
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
    part: tuple[slice, slice] = (slice(None), slice(None))


class Beside(Protocol):
    """What batches have beside the latents of a cache, under the names of the fields of `Condition`."""

    def check(self, cache: LatentCache) -> None:
        """Raises DataError unless it is of the files of that cache."""
        ...

    def __call__(self, windows: Sequence[Window]) -> Sample:
        """What goes with each of the windows, as a batch."""
        ...


@dataclass(frozen=True)
class CachedVideo:
    """A further cache of the same files, which a model is shown: for `name`, `name`_shift and `name`_scale of a batch.

    Args:
        name: of the condition's field.
        statistics: shift and scale `(c,)` by which to normalise.
    """

    name: str
    cache: LatentCache
    statistics: tuple[Tensor, Tensor]

    def check(self, cache: LatentCache) -> None:
        if (len(self.cache), self.cache.flips) != (len(cache), cache.flips):
            raise DataError(f"{cache.folder} and {self.cache.folder} are not of the same files: remove both, run again")
        own, other = ([*zip(one.frames, one.crops, strict=True)] for one in (self.cache, cache))
        wrong = [number for number, there in enumerate(other) if there[0] and own[number] != there]
        if wrong:
            raise DataError(
                f"{len(wrong)} of {len(cache)} files are not alike in {cache.folder} and {self.cache.folder}: file "
                f"{wrong[0]} has {other[wrong[0]][0]} frames, and its {self.name} {own[wrong[0]][0]}. Mend or remove "
                "what cannot be decoded, remove both, and run again"
            )

    def __call__(self, windows: Sequence[Window]) -> Sample:
        shift, scale = (value.repeat(len(windows), 1) for value in self.statistics)  # memory of its own, to pin
        return {self.name: gather(self.cache, windows), f"{self.name}_shift": shift, f"{self.name}_scale": scale}


class Texts:
    """The text of each window's file, beside its latents.

    Args:
        text, mask: as an encoder of `vidiff.text` makes them.
        rows: where in these each file of the index has its own.
    """

    def __init__(self, text: Tensor, mask: Tensor, rows: Sequence[int]) -> None:
        self.text, self.mask, self.rows = text, mask, rows

    def check(self, cache: LatentCache) -> None:
        """Raises DataError unless there is a caption for each file."""
        if len(self.rows) != len(cache):
            raise DataError(f"{len(self.rows)} captions for the {len(cache)} files of {cache.folder}: give one each")

    def __call__(self, windows: Sequence[Window]) -> Sample:
        rows = [self.rows[window.number] for window in windows]
        return {"text": self.text[rows], "text_mask": self.mask[rows]}


class Classes:
    """The class of each window's file, in the order in which a model numbers them, which a cache may not have.

    Args:
        labels: the number of each file of the index; -1 for none.
        count: of the classes.
    """

    def __init__(self, labels: Sequence[int], count: int) -> None:
        self.labels, self.count = torch.tensor(labels), count

    def check(self, cache: LatentCache) -> None:
        """Raises DataError unless there is one for each file, and of a class that there is.

        Here, where they enter: a GPU that meets another one is lost to its process.
        """
        if len(self.labels) != len(cache):
            raise DataError(f"{len(self.labels)} labels for the {len(cache)} files of {cache.folder}: give one each")
        wrong = torch.nonzero((self.labels < -1) | (self.labels >= self.count)).flatten().tolist()
        if wrong:
            raise DataError(
                f"file {wrong[0]} of {cache.folder} has label {int(self.labels[wrong[0]])}, but there are {self.count} "
                "classes, numbered from 0 (-1 means none): remove runs/index, and look into the clips again"
            )

    def __call__(self, windows: Sequence[Window]) -> Sample:
        return {"label": self.labels[[window.number for window in windows]]}


class LatentDataset(Samples):
    """Random windows of cached latents.

    A batch is {"latent": `(b, frames, p, c, h, w)` as the cache keeps it, mean and std one after the other, or the mean
    alone (p is 1) where every std is 0; "shift", "scale": float32 `(b, c)`, to normalise it by; "label", "stride",
    "key": `(b,)`, as of `ClipDataset`}, and what there is beside them. `vidiff.objective.latents` makes normalised
    latents of it, where the model is. So a batch takes one copy, straight from the mapped shards, and half of the
    memory that it will fill.

    Args:
        view: of which a cache has settled sizes and flips: shapes only tell what may share a batch. Of a cache of
            segments, windows are these. `jitter` is for one that holds pixels.
        statistics: shift and scale `(c,)` by which to normalise; the cache's own if not given.
        beside: what else a batch has.
        part: side of the random squares of latents that are windows, of a model that sees parts of frames; 0 for whole
            frames.

    Raises:
        DataError: if every file is shorter than a clip, or something beside is not of the same files.
    """

    def __init__(
        self,
        cache: LatentCache,
        view: View,
        seed: int = 0,
        statistics: tuple[Tensor, Tensor] | None = None,
        beside: Sequence[Beside] = (),
        part: int = 0,
    ) -> None:
        self.cache, self.strides, self.seed, self.files = cache, view.strides, seed, len(cache)
        self.part, self.jitter = part, view.jitter
        shapes = view.shapes(self.files)
        self.frames = [shape.frames for shape in shapes]
        if cache.segments and (self.frames, self.strides.least, self.strides.most) != (cache.segments, 1, 1):
            lengths = " and ".join(map(str, sorted({*cache.segments})))
            raise ValueError(f"{cache.folder} holds segments of {lengths} latents: windows are these at stride 1")
        self.statistics = statistics or cache.statistics
        self.kept = long_enough(cache.frames, self.frames, self.strides.least, shown(str(cache.folder)))
        self.groups = group([shapes[number] for number in self.kept])
        self.beside = beside
        for also in beside:
            also.check(cache)

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        """A batch. Raises ValueError where latents of different heights and widths would have to share one."""
        generator = torch.Generator()
        windows, states = list[Window](), list[Tensor]()
        for key in keys:
            windows.append(self.draw(key, seeded(self.seed, *key, generator=generator)))
            states.append(generator.get_state() if self.jitter else torch.empty(0))
        shift, scale = (value.repeat(len(keys), 1) for value in self.statistics)  # memory of its own, to pin
        numbers = [window.number for window in windows]
        batch = {
            "latent": gather(self.cache, windows),
            "shift": shift,
            "scale": scale,
            "label": torch.from_numpy(np.array([self.cache.labels[number] for number in numbers])),
            "stride": torch.from_numpy(np.array([window.stride for window in windows])),
            "key": torch.from_numpy(self.first + np.array(numbers)),
        }
        if self.jitter:
            for clip, state in zip(batch["latent"], states, strict=True):
                generator.set_state(state)
                video = rearrange(clip, "f 1 c h w -> c f h w").float()
                clip.copy_(rearrange(change_colours(video, self.jitter, generator), "c f h w -> f 1 c h w"))
        for part in self.beside:
            batch |= part(windows)
        return batch

    def draw(self, key: Key, generator: torch.Generator) -> Window:
        """The window of a sample."""
        number = self.kept[key[1]]
        length, frames = self.cache.frames[number], self.frames[number]
        if self.cache.segments:
            start, step = draw(0, length // frames - 1, generator) * frames, 1
        else:
            start, step = draw_window(length, frames, self.strides, generator)
        crops = self.cache.crops[number]
        crop = draw(0, crops - 1, generator) if crops > 1 else 0
        mirrored = self.cache.flips and draw(0, 1, generator) == 1
        window = Window(number, start, frames, step, mirrored, crop)
        if not self.part:
            return window
        height, width = self.cache.window(*window).shape[-2:]
        top, left = draw(0, height - self.part, generator), draw(0, width - self.part, generator)
        return window._replace(part=(slice(top, top + self.part), slice(left, left + self.part)))


def gather(cache: LatentCache, windows: Sequence[Window]) -> Tensor:
    """Windows side by side: `(b, frames, p, c, h, w)`, as the cache keeps them."""
    first = cache.window(*windows[0])
    shape = (len(windows), len(first), cache.parts, *first.shape[2:])
    bits = np.empty(shape, np.int16)  # which, unlike torch, takes huge pages where they are: new memory is slow to come
    for row, window in zip(bits, windows, strict=True):
        latent = cache.window(*window)
        if latent.shape[2:] != row.shape[2:]:
            raise ValueError(
                f"files {windows[0].number} and {window.number} of {cache.folder} have latents of "
                f"{tuple(first.shape[3:])} and {tuple(latent.shape[3:])}, which one batch cannot hold"
            )
        if latent.shape == row.shape:
            row[...] = latent
        else:  # a file whose std is 0, among others
            row[:, :1], row[:, 1:] = latent, 0
    return torch.from_numpy(bits).view(cache.dtype)
