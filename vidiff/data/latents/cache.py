"""Reading a latent cache that `vidiff.data.latents.encode` has written."""

from __future__ import annotations

import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.data.latents.shard import DTYPES, Shard
from vidiff.store.copies import Copies, local_copy
from vidiff.store.error import DataError, Unreachable
from vidiff.store.files import sha256
from vidiff.store.plain import read_json
from vidiff.store.remote import is_url, shown


class LatentCache:
    """Reads a cache. Shards are mapped into memory when first touched, in each process anew.

    One that lies elsewhere, by URL, is read through copies: a shard is fetched when it is first touched, and its hash
    compared. While training draws from all of a cache at random, that many copies should fit.

    Args:
        folder: the cache's own, or its URL, as fsspec opens it.
        copies: where shards of a URL are kept.

    Attributes:
        statistics: shift and scale `(c,)` of the raw latents.
        frames, labels: of each file, as numbered in the index; 0 frames for one that could not be decoded.
        segments: of each file, how many of its latent frames are one clip to the codec; empty where each frame is one.
        crops: how many there are of each file.
        flips: whether there are mirrored frames.
        dtype: of what is kept.
        parts: 2, mean and std; 1 where every std is 0.

    Raises:
        DataError: if the folder is no finished cache, or a shard is missing or cut short.
        vidiff.store.error.Unreachable: a store that does not answer.
    """

    def __init__(self, folder: Path | str, copies: Copies | None = None) -> None:
        self.folder, self.copies = folder, copies
        if is_url(folder) and copies is None:
            raise ValueError(f"{shown(str(folder))} is elsewhere: give copies, a folder to keep its shards in")
        try:
            with self.local("index.json") as path:
                facts = read_json(path)
        except Unreachable:
            raise
        except (OSError, ValueError):
            advice = "copy one there" if copies else "remove it, and train again to make it"
            raise DataError(f"{shown(str(folder))} is not a finished latent cache: {advice}") from None
        self.facts = facts
        self.frames: list[int] = facts["frames"]
        self.labels: list[int] = facts["label"]
        segment = facts.get("segment", 0)  # that of every file, or one for each
        each = segment if isinstance(segment, list) else [segment] * len(self.frames)
        self.segments: list[int] = each if any(each) else []
        self.crops: list[int] = facts["crops"]
        self.flips: bool = facts["flips"]
        self.dtype = DTYPES[facts["dtype"]]
        self.parts = 1 + facts["noisy"]
        self.statistics = (torch.tensor(facts["shift"]), torch.tensor(facts["scale"]))
        self._firsts = [shard["first"] for shard in facts["shards"]]
        self._open: dict[int, Shard] = {}
        for shard in facts["shards"] if copies is None else ():
            path = Path(folder) / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise self._damaged(shard["file"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self.frames)

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file of the cache on this machine; what is mapped inside the block may be read after it."""
        return (
            nullcontext(Path(self.folder) / name)
            if self.copies is None
            else local_copy(f"{self.folder}/{name}", self.copies)
        )

    def damaged(self, rank: int = 0, world: int = 1) -> list[str]:
        """Reads the shards, or this process's part of them: names of those that differ from what was written.

        About 1 GB a second with each of 8 threads, or as fast as the disk.
        """

        def found(shard: dict[str, Any]) -> str:
            with self.local(shard["file"]) as path:
                return sha256(path)

        shards = self.facts["shards"][rank::world]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            hashes = threads.map(found, shards)
            return [shard["file"] for shard, hash in zip(shards, hashes, strict=True) if hash != shard["sha256"]]

    def verify(self) -> None:
        """Raises DataError where a shard differs from what was written."""
        for name in self.damaged():
            raise self._damaged(name)

    def window(
        self,
        number: int,
        start: int,
        frames: int,
        stride: int = 1,
        mirrored: bool = False,
        crop: int = 0,
        part: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> np.ndarray:
        """The bits of a window of file `number`, int16 `(frames, p, c, h, w)`, where they lie; p is 1 without a std.

        Of its latents, those in the rows and columns of `part`.

        Raises ValueError for a window that the file does not hold, or mirrored frames or a crop that were not encoded.
        """
        stop = start + (frames - 1) * stride + 1
        if start < 0 or stop > self.frames[number]:
            raise ValueError(f"frames {start} to {stop - 1} of file {number} asked for; it has {self.frames[number]}")
        if mirrored and not self.flips:
            raise ValueError(f"{self.folder} holds no mirrored frames: it was made without data.flip")
        if not 0 <= crop < self.crops[number]:
            raise ValueError(f"crop {crop} of file {number} asked for; {self.folder} has {self.crops[number]} of it")
        place = bisect_right(self._firsts, number) - 1
        shard = self._open.get(place) or self._opened(place)
        return shard.window(number, crop, mirrored, start, frames, stride)[..., part[0], part[1]]

    def read(
        self, number: int, start: int, frames: int, stride: int = 1, mirrored: bool = False, crop: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Raw mean and std of a window of file `number`, each `(c, frames, h, w)` in float32. Raises as `window`."""
        bits = self.window(number, start, frames, stride, mirrored, crop)
        latent = torch.from_numpy(bits.transpose(1, 2, 0, 3, 4).copy()).view(self.dtype).float()  # p c f h w
        return (latent[0], latent[1]) if len(latent) == 2 else (latent[0], torch.zeros_like(latent[0]))

    def _opened(self, place: int) -> Shard:
        facts = self.facts["shards"][place]
        if self.copies is not None:  # a copy that has been removed takes up room as long as it is mapped
            most = self.copies.limit // (4 * max(shard["bytes"] for shard in self.facts["shards"]))
            while len(self._open) >= max(most, 1):
                del self._open[next(iter(self._open))]
        try:
            with self.local(facts["file"]) as path:
                if self.copies is not None and sha256(path) != facts["sha256"]:
                    raise ValueError
                shard = self._open[place] = Shard(path)
        except Unreachable:
            raise
        except (OSError, ValueError):
            raise self._damaged(facts["file"]) from None
        return shard

    def _damaged(self, name: str) -> DataError:
        advice = "copy it there again" if self.copies else "remove it, and run again; nothing else is encoded anew"
        return DataError(f"{shown(f'{self.folder}/{name}')} is missing or damaged: {advice}")
