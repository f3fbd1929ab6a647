"""What a latent cache is to hold, and in which shard: known before anything is encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidiff.data.index import Index
from vidiff.data.latents.shard import DTYPES
from vidiff.video.fit import Fit

FORMAT = 3  # of a cache: goes up with any change to what is written


@dataclass(frozen=True)
class Plan:
    """What is encoded, and how it is kept.

    Args:
        index: the files.
        sizes: height and width of each in pixels: its frames are resized to cover that, and cropped.
        made_of: what the latents depend on besides: the codec and how it is run, as JSON has it.
        of: what the cache is of, to find others of the same: data set, split, kind.
        crops: of each file, evenly along the side that is longer than wanted; the middle if it is 1. A file that has
            fewer different ones has those.
        flips: keep mirrored frames as well.
        dtype: "float16" or "bfloat16".
        per_pixel: bytes that the latents of a pixel take. How many files a shard gets follows from it.
        shard_bytes: a shard is closed once it holds this much.
        segments: of each file, frames that are encoded as a clip of their own, one such segment after the other, and
            what is left of it not at all; empty to encode files frame by frame.
        temporal: frames of a segment to one latent, the first of it apart.

    Raises:
        ValueError: as many sizes as files are needed, and segments if any, 1 crop or more, and a known dtype.
    """

    index: Index
    sizes: Sequence[tuple[int, int]]
    made_of: Mapping[str, Any]
    of: str = ""
    crops: int = 1
    flips: bool = False
    dtype: str = "float16"
    per_pixel: float = 0.25
    shard_bytes: int = 64 << 20
    segments: Sequence[int] = ()
    temporal: int = 1

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.index.files):
            raise ValueError(f"{len(self.sizes)} sizes for {len(self.index.files)} files: give one each")
        if self.segments and len(self.segments) != len(self.index.files):
            raise ValueError(f"{len(self.segments)} segments for {len(self.index.files)} files: give one each")
        if self.crops < 1:
            raise ValueError(f"crops is {self.crops}; give 1 or more")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose {', '.join(DTYPES)}")

    @property
    def parts(self) -> dict[str, Any]:
        """All that the bytes of the cache depend on."""
        size = _one_or_hash([list(size) for size in self.sizes])
        own = {"files": self.index.digest, "size": size, "crops": self.crops, "flips": self.flips, "dtype": self.dtype}
        if self.segments:
            own["segment"] = _one_or_hash(self.segments)
        return {**self.made_of, **own, "shard_bytes": self.shard_bytes, "format": FORMAT}

    @property
    def key(self) -> str:
        """SHA-256 of the parts."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def folder(self, out: Path) -> Path:
        """Where the cache stands: no other cache has this name."""
        return out / f"{self.key[:16]}-v{FORMAT}"

    def shards(self) -> list[range]:
        """The numbers of the files in each shard."""
        shards, first, held = [], 0, 0.0
        for number, (height, width) in enumerate(self.sizes):
            copies = len(self.corners(number)) * (1 + self.flips)
            held += self.latents(number) * height * width * copies * self.per_pixel
            if held >= self.shard_bytes or number == len(self.sizes) - 1:
                shards.append(range(first, number + 1))
                first, held = number + 1, 0.0
        return shards

    @property
    def latents_each(self) -> list[int]:
        """Latent frames of a segment, of each file; empty where there are no segments."""
        return [1 + (segment - 1) // self.temporal for segment in self.segments]

    def read(self, number: int) -> int:
        """Frames of a file that are encoded: all, or whole segments."""
        frames = self.index.files[number].frames
        return frames // self.segments[number] * self.segments[number] if self.segments else frames

    def latents(self, number: int) -> int:
        """Latent frames of a file."""
        frames = self.read(number)
        return frames // self.segments[number] * self.latents_each[number] if self.segments else frames

    def fit(self, number: int) -> Fit:
        """How the frames of a file come to their size."""
        file = self.index.files[number]
        return Fit((file.height, file.width), self.sizes[number])

    def corners(self, number: int) -> list[tuple[int, int]]:
        """Where each crop of a file's resized frames begins: row and column."""
        spare = self.fit(number).spare
        count = min(self.crops, max(spare) + 1)
        if count == 1:
            return [(spare[0] // 2, spare[1] // 2)]
        steps = [i * max(spare) // (count - 1) for i in range(count)]
        return [(step, spare[1] // 2) if spare[0] > spare[1] else (spare[0] // 2, step) for step in steps]


def _one_or_hash(values: Sequence[Any]) -> Any:
    """What all files have in common, or where they differ, a hash of what each has."""
    same = all(value == values[0] for value in values)
    return values[0] if values and same else hashlib.sha256(json.dumps(values).encode()).hexdigest()
