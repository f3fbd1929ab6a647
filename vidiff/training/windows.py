"""Fixed windows of files, of which scores are: the same for everyone, whatever the number of processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.data.clips import long_enough
from vidiff.data.index import Index
from vidiff.engine.parallel import Group
from vidiff.video.fit import Fit

BATCH = 8
"""Clips of one batch: a batch is one process's from decoding to features, so its bits depend on no other."""


@dataclass(frozen=True)
class Windows:
    """Windows of the files of an index.

    Args:
        starts: (file number, first frame) of each.
        frames: of a window, `stride` source frames apart.
        size: height and width in pixels: the shorter side is resized to it, then the middle is cropped.
    """

    index: Index
    starts: list[tuple[int, int]]
    frames: int
    stride: int
    size: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def labels(self) -> Tensor:
        """(n,) int64, -1 for none."""
        return torch.tensor([self.index.files[number].label for number, _ in self.starts])

    @property
    def sha256(self) -> str:
        """A hash that says which clips these are, wherever the files lie."""
        return hashlib.sha256(json.dumps([self.index.digest, self.starts]).encode()).hexdigest()

    def read(self, which: range) -> Tensor:
        """Windows `which`: `(b, 3, f, size, size)` in [-1, 1]. Raises VideoError for a damaged file."""
        clips = []
        for number, start in (self.starts[i] for i in which):
            file = self.index.files[number]
            fit = Fit((file.height, file.width), (self.size, self.size))
            with file.place.held() as here, self.index.manner(file).open(here) as reader:
                clips.append(fit.read(reader, range(start, start + self.frames * self.stride, self.stride)))
        return torch.stack(clips)


def evenly(count: int, of: int, middle: bool = False) -> list[int]:
    """So many of the numbers below `of`, evenly chosen; all where there are no more.

    Args:
        middle: of each stretch the middle, and not the first.
    """
    count = min(count, of)
    return [(2 * i + middle) * of // (2 * count) for i in range(count)]


def choose_windows(
    index: Index,
    frames: int,
    size: int,
    stride: int = 1,
    count: int | None = None,
    lower: str = "--frames or --stride",
) -> Windows:
    """Windows that do not overlap, as many of each file as fit; `count` of them, evenly chosen.

    Args:
        lower: what asks for shorter ones, for the message where no file is long enough.

    Raises:
        ValueError: no file is long enough, or fewer windows than `count`; sizes below 1.
    """
    if min(frames, size, stride) < 1 or (count is not None and count < 1):
        raise ValueError(f"frames={frames}, size={size}, stride={stride}, clips={count}: give 1 or more of each")
    kept = long_enough([file.frames for file in index.files], frames, stride, index.root, lower)
    needed, pace = (frames - 1) * stride + 1, frames * stride
    starts = [(n, start) for n in kept for start in range(0, index.files[n].frames - needed + 1, pace)]
    if count is not None:
        if count > len(starts):
            raise ValueError(
                f"{index.root} has {len(starts)} clips of {frames} frames, but {count} are asked for: "
                "ask for fewer, or for shorter ones"
            )
        starts = [starts[i] for i in evenly(count, len(starts))]
    return Windows(index, starts, frames, stride, size)


def gathered(
    count: int, group: Group, make: Callable[[range], dict[str, Tensor]], title: str, progress: bool = True
) -> dict[str, Tensor]:
    """What `make` returns for each batch, all processes' together in the clips' order, on the main process.

    Args:
        make: numbers of clips -> tensors `(b, ...)` by name, the same names for each batch.

    Returns:
        tensors `(count, ...)` by name; elsewhere than on the main process nothing.
    """
    own: dict[int, dict[str, Tensor]] = {}
    batches = range(group.rank * BATCH, count, BATCH * group.world)
    with tqdm(total=len(batches), desc=title, unit="batch", disable=not (progress and group.main)) as bar:
        for start in batches:
            own[start] = make(range(start, min(start + BATCH, count)))
            bar.update()
    parts: dict[int, dict[str, Tensor]] = {}
    for share in group.gather(own):
        parts.update(share)
    if not group.main:
        return {}
    names = parts[0]
    return {name: torch.cat([parts[start][name] for start in sorted(parts)]) for name in names}
