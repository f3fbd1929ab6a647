"""Reading a latent cache that `vidiff.data.encode` has written."""

from __future__ import annotations

import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.data.index import DataError
from vidiff.data.latent_shard import DTYPES, Shard, sha256
from vidiff.data.plain import read_json


class LatentCache:
    """Reads a cache. Shards are mapped into memory when first touched, in each process anew.

    Attributes:
        statistics: shift and scale `(c,)` of the raw latents.
        frames, labels: of each file, as numbered in the index; 0 frames for one that could not be decoded.
        crops: how many there are of each file.
        flips: whether there are mirrored frames.
        dtype: of what is kept.
        parts: 2, mean and std; 1 where every std is 0.

    Raises:
        DataError: if the folder is no finished cache, or a shard is missing or cut short.
    """

    def __init__(self, folder: Path) -> None:
        try:
            facts = read_json(folder / "index.json")
        except (OSError, ValueError):
            raise DataError(f"{folder} is not a finished latent cache: remove it, and train again to make it") from None
        self.folder, self.facts = folder, facts
        self.frames: list[int] = facts["frames"]
        self.labels: list[int] = facts["label"]
        self.crops: list[int] = facts["crops"]
        self.flips: bool = facts["flips"]
        self.dtype = DTYPES[facts["dtype"]]
        self.parts = 1 + facts["noisy"]
        self.statistics = (torch.tensor(facts["shift"]), torch.tensor(facts["scale"]))
        self._firsts = [shard["first"] for shard in facts["shards"]]
        self._open: dict[int, Shard] = {}
        for shard in facts["shards"]:
            path = folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise self._damaged(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self.frames)

    def damaged(self, rank: int = 0, world: int = 1) -> list[str]:
        """Reads the shards, or this process's part of them: names of those that differ from what was written.

        About 1 GB a second with each of 8 threads, or as fast as the disk.
        """
        shards = self.facts["shards"][rank::world]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            hashes = threads.map(lambda shard: sha256(self.folder / shard["file"]), shards)
            return [shard["file"] for shard, found in zip(shards, hashes, strict=True) if found != shard["sha256"]]

    def verify(self) -> None:
        """Raises DataError where a shard differs from what was written."""
        for name in self.damaged():
            raise self._damaged(self.folder / name)

    def window(
        self, number: int, start: int, frames: int, stride: int = 1, mirrored: bool = False, crop: int = 0
    ) -> np.ndarray:
        """The bits of a window of file `number`, int16 `(frames, p, c, h, w)`, where they lie; p is 1 without a std.

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
        shard = self._open.get(place)
        if shard is None:
            path = self.folder / self.facts["shards"][place]["file"]
            try:
                shard = self._open[place] = Shard(path)
            except (OSError, ValueError):
                raise self._damaged(path) from None
        return shard.window(number, crop, mirrored, start, frames, stride)

    def read(
        self, number: int, start: int, frames: int, stride: int = 1, mirrored: bool = False, crop: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Raw mean and std of a window of file `number`, each `(c, frames, h, w)` in float32. Raises as `window`."""
        bits = self.window(number, start, frames, stride, mirrored, crop)
        latent = torch.from_numpy(bits.transpose(1, 2, 0, 3, 4).copy()).view(self.dtype).float()  # p c f h w
        return (latent[0], latent[1]) if len(latent) == 2 else (latent[0], torch.zeros_like(latent[0]))

    def _damaged(self, path: Path) -> DataError:
        return DataError(f"{path} is missing or damaged: remove it, and run again; nothing else is encoded anew")
