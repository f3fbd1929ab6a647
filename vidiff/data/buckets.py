"""Buckets: lengths, sizes and aspects of clips, of which a batch holds one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Bucket(NamedTuple):
    """Clips of one shape: `frames` of `height` x `width` pixels."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.height}x{self.width}"

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def picture(self) -> Bucket:
        """Of one frame, and as large."""
        return self._replace(frames=1)


class Grouped(Protocol):
    """A data set, and the indices of those of its samples that are of equal shape, together."""

    @property
    def groups(self) -> list[list[int]]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int], /) -> dict[str, Tensor]: ...


def assign(files: Iterable[tuple[int, int, int]], buckets: Sequence[Bucket], stride: int = 1) -> list[Bucket]:
    """The bucket of each file.

    Of the buckets whose clips a file is long enough for, it goes to those whose aspect is the nearest to its own, by
    the logarithm of their ratio; of these to those with the most frames; of these to the largest that it fills without
    being enlarged, or if there is none, to the smallest. A file that is too short for all goes with the shortest clips,
    as if it were long enough.

    Args:
        files: frames, height and width of each.
        stride: least number of source frames per clip frame.
    """
    return [_bucket_of(*file, buckets, stride) for file in files]


def _bucket_of(frames: int, height: int, width: int, buckets: Sequence[Bucket], stride: int) -> Bucket:
    shortest = min(bucket.frames for bucket in buckets)
    fitting = [b for b in buckets if b.frames == shortest or (b.frames - 1) * stride < frames]
    far = {b: round(abs(math.log(width * b.height / (height * b.width))), 6) for b in fitting}  # 1:2 is 32:64

    def rank(bucket: Bucket) -> tuple[float, int, bool, int]:
        enlarged = bucket.height > height or bucket.width > width
        area = bucket.height * bucket.width
        return far[bucket], -bucket.frames, enlarged, area if enlarged else -area

    return min(fitting, key=rank)


def longest_of(buckets: Sequence[Bucket], size: tuple[int, int]) -> int:
    """Most frames of a clip of `size` (h, w). Raises ValueError where no bucket has that."""
    found = [bucket.frames for bucket in buckets if bucket.size == tuple(size)]
    if not found:
        sizes = dict.fromkeys(f"{bucket.height}x{bucket.width}" for bucket in buckets)
        raise ValueError(
            f"size is {size[0]}x{size[1]}; this model was trained on clips of {', '.join(sizes)}: ask for one of these"
        )
    return max(found)


def nearest_size(buckets: Sequence[Bucket], height: int, width: int) -> tuple[int, int]:
    """The size of the bucket to which a clip of any length would go."""
    return assign([(max(bucket.frames for bucket in buckets), height, width)], buckets)[0].size


def shrunk(buckets: Sequence[Bucket], factor: int) -> list[Bucket]:
    """The same, smaller by `factor`."""
    return [Bucket(bucket.frames, bucket.height // factor, bucket.width // factor) for bucket in buckets]


def group(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal keys together, in the order in which each first comes."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
