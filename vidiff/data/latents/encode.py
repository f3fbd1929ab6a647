"""Writing a latent cache: every file encoded once, by one process or by many.

    <out>/<key>/latents-00000.safetensors   see `vidiff.data.latents.shard`
                index.json                  lengths, labels, statistics, what the key is a hash of, and the SHA-256 of
                                            each shard

A cache stands in a folder named after the hash of all that its content depends on, so a stale one is never read. Which
files a shard holds is planned beforehand: any process can make any shard, and two that make the same one write the same
bytes. Shards are published one by one by renaming, and `index.json` last, by whoever finds all of them: an interrupted
encoding goes on with the shards that are missing, and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.data.latents.chunks import ChunkReader
from vidiff.data.latents.shard import DTYPES, Spool, clear, facts_of, latent_name, publishing, turn, write_shard
from vidiff.data.latents.spec import Plan
from vidiff.store.error import DataError, Unreachable, VideoError
from vidiff.store.files import claimed, sha256, sweep
from vidiff.store.plain import read_json

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
SUMMED = 1 << 22  # numbers of a file that are added up at once: in float64, in memory


@dataclass(frozen=True)
class Share:
    """Which shards a process makes: number `part`, `part + parts`, and so on, together with `world` processes.

    Each of these begins at another place, and goes on with what no other one is at.
    """

    part: int = 0
    parts: int = 1
    rank: int = 0
    world: int = 1

    def order(self, shards: int) -> list[int]:
        """Numbers of the shards to make, the first ones first."""
        mine = list(range(self.part, shards, self.parts))
        begin = self.rank * len(mine) // self.world
        return mine[begin:] + mine[:begin]


ALL = Share()


def encode_latents(
    out: Path,
    plan: Plan,
    encode: Encode,
    share: Share = ALL,
    max_broken: float = 0.05,
    patience: float = 60.0,
    chunk: int = 64,
    progress: bool = True,
) -> Path | None:
    """Encode every frame of every file of a plan, unless that has been done.

    Memory holds two chunks of pixels, and the latents of one shard, of each file a few MB: what is more of a long film
    waits on the disk. Several processes may call this at once: none makes a shard that another is making, where the
    file system has locks. Shards that are missing from a finished cache, or cut short, are named and made again.

    Args:
        out: the cache goes to a folder in this one.
        encode: video `(1, 3, f, h, w)` in [-1, 1] -> raw mean and std, each `(1, c, f, h', w')`.
        share: the shards that are this call's to make.
        max_broken: fraction of files that may fail to decode; each is named, and has length 0 in the cache.
        patience: seconds that decoding a chunk may take; then the decoder is killed, and the file has failed.
        chunk: frames that are decoded and encoded at once, where the plan knows no segments.

    Returns:
        the cache's folder; None where shards of others are missing yet.

    Raises:
        DataError: where too many files no longer decode, or latents are not finite.
        vidiff.store.error.Unreachable: a file is elsewhere, and cannot be fetched now. What is encoded stays.
    """
    folder = plan.folder(out)
    if _finished(folder):
        clear(folder)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tqdm(total=len(plan.index.files), desc="latents", unit="file", disable=not progress) as bar,
        ChunkReader(patience) as reader,
    ):
        encoding = _Encoding(folder, plan, encode, reader, chunk, max_broken, bar)
        encoding.make(share.order(len(encoding.shards)))
        while not encoding.finish():
            if share.parts > 1:
                return None
            encoding.make(share.order(len(encoding.shards)))
    return folder


def _finished(folder: Path) -> bool:
    """Whether a cache is finished, and all there. What is not as it was written is named and removed."""
    lost = _lost(folder)
    if lost:
        with claimed(turn(folder / "index.json")):
            discard(folder, _lost(folder) or [])  # unless another process has seen it, too
    return lost == []


def _lost(folder: Path) -> list[str] | None:
    """Names of the files of a finished cache that are missing, or not as long as they were; None if it is not one."""
    try:
        shards = read_json(folder / "index.json")["shards"]
        sizes = {path.name: path.stat().st_size for path in folder.glob("latents-*")}
        return [shard["file"] for shard in shards if sizes.get(shard["file"]) != shard["bytes"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError):
        return ["index.json"]


def discard(folder: Path, damaged: list[str]) -> None:
    """Open a finished cache again: damaged files of it are named and removed, and `encode_latents` makes them anew."""
    for name in damaged:
        tqdm.write(f"{folder / name} is missing or damaged: it is made again")
        (folder / "index.json").unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)


class _Encoding:
    """The work on one cache."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        encode: Encode,
        reader: ChunkReader,
        chunk: int,
        max_broken: float,
        bar: tqdm,
    ) -> None:
        self.folder, self.plan, self.encode, self.reader = folder, plan, encode, reader
        self.chunk, self.max_broken, self.bar = chunk, max_broken, bar
        self.shards, self.dtype = plan.shards(), DTYPES[plan.dtype]

    def path(self, shard: int) -> Path:
        return self.folder / f"latents-{shard:05d}.safetensors"

    def facts(self, shard: int) -> dict[str, Any] | None:
        """What a shard says of itself; None if it is not there, or cut short."""
        found = facts_of(self.path(shard))
        files = self.shards[shard]
        return found if found and (found["first"], found["count"]) == (files.start, len(files)) else None

    def make(self, order: list[int]) -> None:
        """Make the shards that are missing: first those that no other process is at, then what those have not made."""
        self.bar.reset(total=sum(len(self.shards[shard]) for shard in order))
        done, broken = set[int](), dict[str, str]()
        for wait in (False, True):
            for shard in order:
                if shard in done:
                    continue
                found = self.facts(shard)
                if found is None:
                    with claimed(turn(self.path(shard)), wait) as mine:
                        found = self.facts(shard)
                        if found is None and mine:
                            found = self.encode_shard(shard)
                        elif found is None:
                            continue
                else:
                    self.bar.update(found["count"])
                done.add(shard)
                broken |= found["broken"]
                self.refuse(broken, done)

    def refuse(self, broken: dict[str, str], shards: set[int]) -> None:
        """Raises DataError where too many files are broken; shards that hold such a file are removed."""
        count = len(self.plan.index.files)
        if broken and (len(broken) > self.max_broken * count or len(broken) == count):
            for shard in shards:  # so that its files are tried again
                if (found := self.facts(shard)) and found["broken"]:
                    self.path(shard).unlink(missing_ok=True)
            raise DataError(
                f"{len(broken)} of {count} files cannot be decoded to their ends, more than "
                f"data.max_broken={self.max_broken} allows. Mend or remove them, or raise data.max_broken, and run "
                f"again; the last was {list(broken.values())[-1]}"
            )

    def encode_shard(self, shard: int) -> dict[str, Any]:
        """Write a shard. Returns its facts."""
        sweep(self.folder, f"{self.path(shard).name}.*")
        latents: dict[str, Spool] = {}
        broken: dict[str, str] = {}
        moments = Moments()
        for number in self.shards[shard]:
            try:
                copies = self.encode_file(number)
            except Unreachable:
                raise  # at another time it can be encoded
            except VideoError as error:
                broken[str(number)] = str(error)
                tqdm.write(f"left out {error}")
            else:
                latents |= {latent_name(number, copy.crop, copy.mirrored): copy.spool for copy in copies}
                for copy in copies:
                    if not copy.mirrored:
                        moments.merge(copy.sums)
            self.bar.update()
        files = self.shards[shard]
        noisy = any(spool.noisy for spool in latents.values())
        facts = {"first": files.start, "count": len(files), "broken": broken, "noisy": noisy, "sums": moments.sums}
        write_shard(self.path(shard), latents, facts)
        return facts

    def encode_file(self, number: int) -> list[_Copy]:
        """The latents of one file, each crop and its mirror image."""
        plan, file = self.plan, self.plan.index.files[number]
        frames = plan.read(number)
        if not frames:  # shorter than a segment
            return []
        fit, corners = plan.fit(number), plan.corners(number)
        copies = [
            _Copy(crop, bool(mirrored), Spool(self.folder))
            for crop in range(len(corners))
            for mirrored in range(1 + plan.flips)
        ]
        step = plan.segments[number] if plan.segments else self.chunk
        for video in self.reader.read(file.place, frames, step, fit.resize, plan.index.manner(file)):  # 3 f h w
            for copy in copies:
                crop = fit.crop(video, corners[copy.crop])[None]  # 1 3 f height width
                mean, std = self.encode(crop.flip(-1) if copy.mirrored else crop)
                copy.add(self.kept(mean[0], number), self.kept(std[0], number))
        return copies

    def kept(self, latent: Tensor, number: int) -> Tensor:
        """A latent as the cache keeps it. Raises DataError where it is not finite."""
        small = latent.to(self.dtype)
        if not small.isfinite().all():
            path, most = self.plan.index.files[number].place, torch.finfo(self.dtype).max
            if latent.isfinite().all():
                raise DataError(
                    f"the latents of {path} reach {float(latent.abs().max()):.3g}, but {self.plan.dtype} ends at "
                    f"{most:.3g}: set data.latent_dtype=bfloat16"
                )
            raise DataError(f"the latents of {path} are not finite: has the training of the codec diverged?")
        return small

    def finish(self) -> bool:
        """Write `index.json`, if all shards are there and nobody has."""
        path = self.folder / "index.json"
        with claimed(turn(path)):
            found = path.is_file() or self.write_index(path)
        if found:
            clear(self.folder)
        return found

    def write_index(self, path: Path) -> bool:
        facts = []
        for shard in range(len(self.shards)):
            if (found := self.facts(shard)) is None:
                return False
            facts.append(found)
        broken = {number: reason for found in facts for number, reason in found["broken"].items()}
        self.refuse(broken, set(range(len(facts))))
        if broken:
            tqdm.write(f"{len(broken)} of {len(self.plan.index.files)} files are left out")
        moments = Moments()
        for found in facts:
            moments.merge(found["sums"])
        shift, scale = moments.result()
        paths = [self.path(shard) for shard in range(len(facts))]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            hashes = list(threads.map(sha256, paths))
        plan, files, each = self.plan, self.plan.index.files, self.plan.latents_each
        content = {
            "key": plan.key,
            "of": plan.of,
            "made_of": plan.parts,
            "shards": [
                {"file": shard.name, "first": found["first"], "bytes": shard.stat().st_size, "sha256": digest}
                for shard, found, digest in zip(paths, facts, hashes, strict=True)
            ],
            "dtype": plan.dtype,
            "noisy": any(found["noisy"] for found in facts),
            "flips": plan.flips,
            "crops": [len(plan.corners(number)) for number in range(len(files))],
            "frames": [0 if str(number) in broken else plan.latents(number) for number in range(len(files))],
            "segment": each[0] if each and each == each[:1] * len(each) else each,
            "label": plan.index.cached_labels,
            "shift": shift.tolist(),
            "scale": scale.tolist(),
        }
        with publishing(path) as draft:
            draft.write_text(json.dumps(content))
        return True


@dataclass
class _Copy:
    """A crop of a file, or its mirror image, as its latents come."""

    crop: int
    mirrored: bool
    spool: Spool

    def __post_init__(self) -> None:
        self._moments, self._waiting = Moments(), list[tuple[Tensor, Tensor]]()

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Takes in the next frames, `(c, f, h', w')` both."""
        self.spool.add(mean, std)
        if not self.mirrored:
            self._waiting.append((mean, std))
            if sum(mean.numel() for mean, _ in self._waiting) >= SUMMED:
                self._sum_up()

    @property
    def sums(self) -> dict[str, Any]:
        """Of all that has come, as of `Moments`."""
        self._sum_up()
        return self._moments.sums

    def _sum_up(self) -> None:
        if self._waiting:
            mean, std = (torch.cat(pieces, dim=1) for pieces in zip(*self._waiting, strict=True))  # c f h' w'
            self._moments.add(mean, std)
            self._waiting.clear()


class Moments:
    """Sums of z = mean + std * noise and of its square, per channel, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(1).double(), torch.zeros(1).double()

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Takes in latents `(c, f, h, w)`."""
        mean, std = mean.double().flatten(1), std.double().flatten(1)  # copies, which are overwritten
        self.count += mean.shape[1]
        self.total = self.total + mean.sum(1)
        self.squares = self.squares + mean.square_().add_(std.square_()).sum(1)

    @property
    def sums(self) -> dict[str, Any]:
        """As JSON keeps them, to the last bit."""
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    def merge(self, sums: dict[str, Any]) -> None:
        """Takes in the sums of others."""
        self.count += sums["count"]
        self.total = self.total + torch.tensor(sums["total"], dtype=torch.float64)
        self.squares = self.squares + torch.tensor(sums["squares"], dtype=torch.float64)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(c,)`; 1 for a channel that never changes."""
        centre = self.total / self.count
        variance = self.squares / self.count - centre.square()
        return centre.float(), torch.where(variance > 1e-8, variance, 1.0).sqrt().float()
