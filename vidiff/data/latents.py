"""The latent cache: every file encoded once, as mean and standard deviation, in safetensors shards.

A cache stands in a folder named after its key, the hash of all that its content depends on, so a stale one is never
read. Shards are published one by one by renaming, and `index.json` last: an interrupted encoding goes on with the first
shard that is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vidiff.data.clips import Sample, draw, draw_window, fit_size, long_enough
from vidiff.data.index import DataError, Index
from vidiff.data.order import Key, seeded
from vidiff.data.video import VideoError, VideoReader

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def encode_latents(
    out: Path,
    index: Index,
    encode: Encode,
    size: int,
    key: str,
    flips: bool = False,
    files_per_shard: int = 64,
    chunk: int = 64,
    progress: bool = True,
) -> Path:
    """Encode every frame of every file of an index, unless that has been done.

    Args:
        out: the cache goes to `out/<first 16 letters of key>`.
        encode: video `(1, 3, f, h, w)` in [-1, 1] -> raw mean and std, each `(1, c, f, h', w')`.
        size: frames are resized and cropped in the middle to this height and width.
        key: hash of all that the latents depend on: codec, index, size.
        flips: encode the mirrored frames as well.
        chunk: frames that are decoded and encoded at once; memory does not grow with the length of a file.

    Returns:
        the cache's folder.

    Raises:
        DataError: where a file of the index no longer decodes.
    """
    folder = out / key[:16]
    if (folder / "index.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    count = len(index.files)
    shards, moments = [], _Moments()
    with tqdm(total=count, desc="latents", unit="file", disable=not progress) as bar:
        for number, first in enumerate(range(0, count, files_per_shard)):
            files = range(first, min(first + files_per_shard, count))
            path = folder / f"latents-{number:05d}.safetensors"
            if not path.is_file():
                tensors = {}
                for file in files:
                    for mirrored in range(1 + flips):
                        mean, std = _encode_file(index, file, encode, size, bool(mirrored), chunk)
                        tensors[f"{file}.{mirrored}.mean"], tensors[f"{file}.{mirrored}.std"] = mean, std
                    bar.update()
                draft = path.with_name(f".{path.name}.partial")
                save_file(tensors, draft)
                draft.replace(path)
            else:
                bar.update(len(files))
            with safe_open(path, "pt") as shard:
                for file in files:
                    moments.add(shard.get_tensor(f"{file}.0.mean"), shard.get_tensor(f"{file}.0.std"))
            shards.append({"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    shift, scale = moments.result()
    facts = {
        "key": key,
        "shards": shards,
        "files_per_shard": files_per_shard,
        "flips": flips,
        "frames": [file.frames for file in index.files],
        "label": [file.label for file in index.files],
        "shift": shift.tolist(),
        "scale": scale.tolist(),
    }
    draft = folder / ".index.json.partial"
    draft.write_text(json.dumps(facts))
    draft.replace(folder / "index.json")
    return folder


def _encode_file(
    index: Index, number: int, encode: Encode, size: int, mirrored: bool, chunk: int
) -> tuple[Tensor, Tensor]:
    """Mean and std of one file, each `(c, f, h', w')` in float16."""
    parts = [encode(video.flip(-1) if mirrored else video) for video in _decoded(index, number, size, chunk)]
    mean, std = (torch.cat(each, dim=2)[0].half().contiguous() for each in zip(*parts, strict=True))
    return mean, std


def _decoded(index: Index, number: int, size: int, chunk: int) -> Iterator[Tensor]:
    """A file's frames in chunks `(1, 3, f, size, size)`; the next one is decoded while one is in use."""
    file, path = index.files[number], index.path(number)
    height, width = fit_size(file.height, file.width, size)
    resize = None if (height, width) == (file.height, file.width) else (height, width)
    top, left = (height - size) // 2, (width - size) // 2
    try:
        with VideoReader(path) as reader, ThreadPoolExecutor(1) as ahead:
            starts = range(0, file.frames, chunk)
            work = [
                (lambda a=a: reader.read(range(a, min(a + chunk, file.frames)), size=resize)) for a in starts
            ]
            pending = ahead.submit(work[0])
            for following in [*work[1:], None]:
                video = pending.result()
                if following:
                    pending = ahead.submit(following)
                yield video[None, :, :, top : top + size, left : left + size]
    except VideoError as error:
        raise DataError(f"a file of the index no longer decodes: {error}. Remove it, and run again") from None


@dataclass
class _Moments:
    """Streaming mean and variance of z = mean + std * noise, per channel, in float64."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, mean: Tensor, std: Tensor) -> None:
        mean, std = mean.double().flatten(1), std.double().flatten(1)
        self.count += mean.shape[1]
        self.total = self.total + mean.sum(1)
        self.squares = self.squares + (mean.square() + std.square()).sum(1)

    def result(self) -> tuple[Tensor, Tensor]:
        centre = torch.as_tensor(self.total) / self.count
        variance = torch.as_tensor(self.squares) / self.count - centre.square()
        return centre.float(), variance.clamp(min=1e-12).sqrt().float()


class LatentCache:
    """Reads a cache. Shards are mapped into memory when first touched, in each process anew.

    Attributes:
        statistics: shift and scale `(c,)` of the raw latents.
        frames, labels: of each file.

    Raises:
        DataError: if the folder is no finished cache.
    """

    def __init__(self, folder: Path) -> None:
        try:
            facts = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError):
            raise DataError(
                f"{folder} is not a finished latent cache: remove it, and train again to make it"
            ) from None
        self.folder, self.facts = folder, facts
        self.frames: list[int] = facts["frames"]
        self.labels: list[int] = facts["label"]
        self.flips: bool = facts["flips"]
        self.statistics = (torch.tensor(facts["shift"]), torch.tensor(facts["scale"]))
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self.frames)

    def read(
        self, number: int, start: int, frames: int, stride: int = 1, mirrored: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Raw mean and std of a window of file `number`, each `(c, frames, h, w)` in float32."""
        shard, _ = divmod(number, self.facts["files_per_shard"])
        if shard not in self._open:
            self._open[shard] = safe_open(self.folder / self.facts["shards"][shard]["file"], "pt")
        stop = start + (frames - 1) * stride + 1
        names = (f"{number}.{int(mirrored)}.{part}" for part in ("mean", "std"))
        mean, std = (self._open[shard].get_slice(name)[:, start:stop][:, ::stride].float() for name in names)
        return mean, std


class LatentDataset(Dataset[Sample]):
    """Random windows of cached latents, normalised to zero mean and unit variance per channel.

    Args:
        frames, stride, seed: as for `vidiff.data.clips.ClipDataset`.
        statistics: by which to normalise; the cache's own if not given.
    """

    def __init__(
        self,
        cache: LatentCache,
        frames: int,
        stride: tuple[int, int] = (1, 1),
        seed: int = 0,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.cache, self.frames, self.stride, self.seed = cache, frames, stride, seed
        self.shift, self.scale = (x.view(-1, 1, 1, 1) for x in statistics or cache.statistics)
        self.kept = long_enough(cache.frames, frames, stride[0], str(cache.folder))

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: Key) -> Sample:
        generator = seeded(self.seed, *key)
        number = self.kept[key[1]]
        start, step = draw_window(self.cache.frames[number], self.frames, self.stride, generator)
        mirrored = self.cache.flips and draw(0, 1, generator) == 1
        mean, std = self.cache.read(number, start, self.frames, step, mirrored)
        return {
            "mean": (mean - self.shift) / self.scale,
            "std": std / self.scale,
            "label": torch.tensor(self.cache.labels[number]),
            "stride": torch.tensor(step),
            "key": torch.tensor(number),
        }
