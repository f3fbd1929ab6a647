"""What a model sees of files: clips of a length, a size and an aspect, of which a batch holds one, and how changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


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
        """The shape of a picture as large as these clips."""
        return self._replace(frames=1)


@dataclass(frozen=True)
class Strides:
    """Source frames per clip frame: any number from `least` to `most`, but `least` for at least a `share` of clips."""

    least: int = 1
    most: int = 1
    share: float = 0.0


EVERY = Strides()


@dataclass(frozen=True)
class View:
    """What a model sees of files: clips of a shape, and what is changed in them at random.

    Args:
        shape: of the clips of every file, or of those of each.
        strides: source frames per clip frame.
        flip: mirror half of the clips.
        jitter: change brightness, contrast and saturation of each clip by up to this share.
        zoom: least and most of a number by which frames are larger than the shape before they are cropped.
    """

    shape: Bucket | Sequence[Bucket]
    strides: Strides = EVERY
    flip: bool = False
    jitter: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)

    def shapes(self, files: int) -> Sequence[Bucket]:
        """The shape of the clips of each of so many files."""
        return [self.shape] * files if isinstance(self.shape, Bucket) else self.shape


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
    lengths = [bucket.frames for bucket in buckets if bucket.size == tuple(size)]
    if not lengths:
        sizes = dict.fromkeys(f"{bucket.height}x{bucket.width}" for bucket in buckets)
        raise ValueError(
            f"size is {size[0]}x{size[1]}; this model was trained on clips of {', '.join(sizes)}: ask for one of these"
        )
    return max(lengths)


def nearest_size(buckets: Sequence[Bucket], height: int, width: int) -> tuple[int, int]:
    """The size of the bucket to which a clip of any length would go."""
    return assign([(max(bucket.frames for bucket in buckets), height, width)], buckets)[0].size


def shrunk(buckets: Sequence[Bucket], factor: int) -> list[Bucket]:
    """Buckets whose frames are smaller by `factor`."""
    return [Bucket(bucket.frames, bucket.height // factor, bucket.width // factor) for bucket in buckets]


def group(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys together, in the order in which each first comes."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
