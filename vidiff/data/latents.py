"""The latent cache: every file encoded once, as mean and standard deviation, in safetensors shards.

    <out>/<key>/latents-00000.safetensors   "<file>.<mirrored>.mean", "<file>.<mirrored>.std": float16 (c, f, h, w);
                                            a std that is 0 throughout, as of a codec without noise, is left out
                index.json                  lengths, labels, statistics, and the SHA-256 of each shard

A cache stands in a folder named after the hash of all that its content depends on, so a stale one is never read. Shards
are published one by one by renaming, and `index.json` last: an interrupted encoding goes on with the first shard that
is missing, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vidiff.data.chunks import ChunkReader
from vidiff.data.clips import EVERY, Sample, Strides, draw, draw_window, fit_size, long_enough
from vidiff.data.decode import VideoError
from vidiff.data.index import DataError, Index
from vidiff.data.order import Key, seeded

FORMAT = 2  # of a cache: goes up with any change to what is written
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def encode_latents(
    out: Path,
    index: Index,
    encode: Encode,
    size: int,
    key: str,
    flips: bool = False,
    max_broken: float = 0.05,
    patience: float = 60.0,
    shard_bytes: int = 256 << 20,
    chunk: int = 64,
    progress: bool = True,
) -> Path:
    """Encode every frame of every file of an index, unless that has been done.

    Memory holds one chunk of pixels, and the latents of one shard: of `shard_bytes`, and one file more.

    Args:
        out: the cache goes to a folder in this one.
        encode: video `(1, 3, f, h, w)` in [-1, 1] -> raw mean and std, each `(1, c, f, h', w')`.
        size: frames are resized and cropped in the middle to this height and width.
        key: hash of all that the latents depend on: codec, index, size, flips.
        flips: encode the mirrored frames as well.
        max_broken: fraction of files that may fail to decode; each is named, and has length 0 in the cache.
        patience: seconds that decoding a chunk may take; then the decoder is killed, and the file has failed.
        shard_bytes: a shard is closed once it holds this much.
        chunk: frames that are decoded and encoded at once.

    Returns:
        the cache's folder.

    Raises:
        DataError: where too many files no longer decode, or latents are not finite.
    """
    folder = out / f"{key[:16]}-v{FORMAT}"
    if (folder / "index.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    count = len(index.files)
    lengths = [file.frames for file in index.files]
    shards: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    moments = _Moments()
    first = 0
    with tqdm(total=count, desc="latents", unit="file", disable=not progress) as bar, ChunkReader(patience) as reader:
        while first < count:
            path = folder / f"latents-{len(shards):05d}.safetensors"
            facts = _finished(path)
            if facts is None or facts["first"] != first:
                facts = _encode_shard(path, first, index, reader, encode, size, flips, shard_bytes, chunk)
            bar.update(facts["count"])
            for name, reason in facts["broken"].items():
                broken[name] = reason
                lengths[int(name)] = 0
                tqdm.write(f"left out {reason}")
            if len(broken) > max_broken * count or len(broken) == count:
                path.unlink()  # so that its files are tried again
                raise DataError(
                    f"{len(broken)} of {count} files cannot be decoded to their ends, more than "
                    f"data.max_broken={max_broken} allows. Mend or remove them, or raise data.max_broken, and run "
                    f"again; the last was {reason}"
                )
            files = range(first, first + facts["count"])
            with safe_open(path, "pt") as shard:
                for file in files:
                    if lengths[file]:
                        mean = shard.get_tensor(f"{file}.0.mean")
                        noisy = f"{file}.0.std" in shard.keys()  # noqa: SIM118 (a shard is no dictionary)
                        moments.add(mean, shard.get_tensor(f"{file}.0.std") if noisy else torch.zeros_like(mean))
            shards.append({"file": path.name, "first": first, "bytes": path.stat().st_size, "sha256": _sha256(path)})
            first = files.stop
    shift, scale = moments.result()
    content = {
        "key": key,
        "shards": shards,
        "flips": flips,
        "frames": lengths,
        "label": [file.label for file in index.files],
        "shift": shift.tolist(),
        "scale": scale.tolist(),
    }
    with _published(folder / "index.json") as draft:
        draft.write_text(json.dumps(content))
    return folder


def _encode_shard(
    path: Path,
    first: int,
    index: Index,
    reader: ChunkReader,
    encode: Encode,
    size: int,
    flips: bool,
    shard_bytes: int,
    chunk: int,
) -> dict[str, Any]:
    """Writes files `first`, `first + 1`, ... until the shard is full. Returns its facts, as `_finished` reads them."""
    tensors: dict[str, Tensor] = {}
    broken: dict[str, str] = {}
    number, held = first, 0
    while number < len(index.files) and held < shard_bytes:
        try:
            for mirrored in range(1 + flips):
                mean, std = _encode_file(index, number, reader, encode, size, bool(mirrored), chunk)
                made = {"mean": mean, "std": std} if std.any() else {"mean": mean}
                tensors |= {f"{number}.{mirrored}.{part}": tensor for part, tensor in made.items()}
                held += sum(tensor.nbytes for tensor in made.values())
        except VideoError as error:
            broken[str(number)] = str(error)
        number += 1
    facts = {"first": first, "count": number - first, "broken": broken}
    with _published(path) as draft:
        save_file(tensors, draft, metadata={"facts": json.dumps(facts)})
    return facts


def _finished(path: Path) -> dict[str, Any] | None:
    """What a shard of an earlier start holds; None where there is none, or it cannot be read."""
    try:
        with safe_open(path, "pt") as shard:
            return json.loads(shard.metadata()["facts"])
    except (OSError, SafetensorError):
        return None


@contextmanager
def _published(path: Path) -> Iterator[Path]:
    """A draft that takes the name `path` once it is written and on the disk itself; nothing stays of a failed one."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _encode_file(
    index: Index, number: int, reader: ChunkReader, encode: Encode, size: int, mirrored: bool, chunk: int
) -> tuple[Tensor, Tensor]:
    """Mean and std of one file, each `(c, f, h', w')` in float16."""
    parts = []
    file = index.files[number]
    height, width = fit_size(file.height, file.width, size)
    resize = None if (height, width) == (file.height, file.width) else (height, width)
    top, left = (height - size) // 2, (width - size) // 2
    path = index.path(number)
    for video in reader.read(path, file.frames, chunk, resize, index.fps, file.decoder):  # 3 f height width
        video = video[None, :, :, top : top + size, left : left + size]  # 1 3 f size size
        mean, std = encode(video.flip(-1) if mirrored else video)
        parts.append((mean[0].half(), std[0].half()))
    mean, std = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise DataError(
            f"the latents of {index.path(number)} are not finite in float16: has the training of the codec diverged?"
        )
    return mean, std


@dataclass
class _Moments:
    """Streaming mean and variance of z = mean + std * noise, per channel, in float64."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Takes in one file, `(c, f, h, w)`."""
        mean, std = mean.double().flatten(1), std.double().flatten(1)
        self.count += mean.shape[1]
        self.total = self.total + mean.sum(1)
        self.squares = self.squares + (mean.square() + std.square()).sum(1)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(c,)`; 1 for a channel that never changes."""
        centre = torch.as_tensor(self.total) / self.count
        variance = torch.as_tensor(self.squares) / self.count - centre.square()
        return centre.float(), torch.where(variance > 1e-8, variance, 1.0).sqrt().float()


class LatentCache:
    """Reads a cache. Shards are mapped into memory when first touched, in each process anew.

    Attributes:
        statistics: shift and scale `(c,)` of the raw latents.
        frames, labels: of each file, as numbered in the index; 0 frames for one that could not be decoded.

    Raises:
        DataError: if the folder is no finished cache, or a shard is missing or cut short.
    """

    def __init__(self, folder: Path) -> None:
        try:
            facts = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError):
            raise DataError(f"{folder} is not a finished latent cache: remove it, and train again to make it") from None
        self.folder, self.facts = folder, facts
        self.frames: list[int] = facts["frames"]
        self.labels: list[int] = facts["label"]
        self.flips: bool = facts["flips"]
        self.statistics = (torch.tensor(facts["shift"]), torch.tensor(facts["scale"]))
        self._firsts = [shard["first"] for shard in facts["shards"]]
        self._open: dict[int, Any] = {}
        for shard in facts["shards"]:
            path = folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise self._damaged(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self.frames)

    def verify(self) -> None:
        """Reads every shard, and raises DataError where one differs from what was written. About 1 GB a second."""
        for shard in self.facts["shards"]:
            if _sha256(self.folder / shard["file"]) != shard["sha256"]:
                raise self._damaged(self.folder / shard["file"])

    def read(
        self, number: int, start: int, frames: int, stride: int = 1, mirrored: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Raw mean and std of a window of file `number`, each `(c, frames, h, w)` in float32.

        Raises ValueError for a window that the file does not hold, or mirrored frames that were not encoded.
        """
        stop = start + (frames - 1) * stride + 1
        if start < 0 or stop > self.frames[number]:
            raise ValueError(f"frames {start} to {stop - 1} of file {number} asked for; it has {self.frames[number]}")
        if mirrored and not self.flips:
            raise ValueError(f"{self.folder} holds no mirrored frames: it was made without data.flip")
        shard = bisect_right(self._firsts, number) - 1
        if shard not in self._open:
            path = self.folder / self.facts["shards"][shard]["file"]
            try:
                self._open[shard] = safe_open(path, "pt")
            except (OSError, SafetensorError):
                raise self._damaged(path) from None
        held = self._open[shard]
        names = [f"{number}.{int(mirrored)}.{part}" for part in ("mean", "std")]
        parts = [held.get_slice(name)[:, start:stop][:, ::stride].float() for name in names if name in held.keys()]  # noqa: SIM118
        mean, std = parts if len(parts) == 2 else (parts[0], torch.zeros_like(parts[0]))
        return mean, std

    def _damaged(self, path: Path) -> DataError:
        return DataError(f"{path} is missing or damaged: remove {self.folder}, and run again to encode it anew")


class LatentDataset(Dataset[Sample]):
    """Random windows of cached latents, normalised to zero mean and unit variance per channel: `dataset[epoch, index]`.

    Each is {"mean", "std": float32 `(c, frames, h, w)`, "label", "stride", "key": as of `ClipDataset`}, and "lowres",
    like "mean", of the same frames, where there is a cache of those.

    Args:
        frames, stride, seed: as for `vidiff.data.clips.ClipDataset`.
        statistics: shift and scale `(c,)` by which to normalise; the cache's own if not given.
        lowres: latents of the same files at low resolution, which a super-resolution model is shown.
        lowres_statistics: as `statistics`, of those.

    Raises:
        DataError: if every file is shorter than a clip, or the two caches are not of the same files.
    """

    def __init__(
        self,
        cache: LatentCache,
        frames: int,
        stride: Strides = EVERY,
        seed: int = 0,
        statistics: tuple[Tensor, Tensor] | None = None,
        lowres: LatentCache | None = None,
        lowres_statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.cache, self.frames, self.stride, self.seed = cache, frames, stride, seed
        self.shift, self.scale = (x.view(-1, 1, 1, 1) for x in statistics or cache.statistics)
        self.kept = long_enough(cache.frames, frames, stride.least, str(cache.folder))
        self.lowres = lowres
        if lowres is not None:
            if (lowres.frames, lowres.labels, lowres.flips) != (cache.frames, cache.labels, cache.flips):
                raise DataError(f"{cache.folder} and {lowres.folder} are not of the same files: remove both, run again")
            self.low_shift, self.low_scale = (x.view(-1, 1, 1, 1) for x in lowres_statistics or lowres.statistics)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, key: Key) -> Sample:
        generator = seeded(self.seed, *key)
        number = self.kept[key[1]]
        start, step = draw_window(self.cache.frames[number], self.frames, self.stride, generator)
        mirrored = self.cache.flips and draw(0, 1, generator) == 1
        mean, std = self.cache.read(number, start, self.frames, step, mirrored)
        more: Sample = {}
        if self.lowres is not None:
            low, _ = self.lowres.read(number, start, self.frames, step, mirrored)
            more["lowres"] = (low - self.low_shift) / self.low_scale
        return {
            "mean": (mean - self.shift) / self.scale,
            "std": std / self.scale,
            "label": torch.tensor(self.cache.labels[number]),
            "stride": torch.tensor(step),
            "key": torch.tensor(number),
            **more,
        }
