"""The order in which samples are drawn: endless, shuffled anew each epoch, the same from any starting point."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

Key = tuple[int, int]  # (epoch, index)


class Order(Sampler[list[Key]]):
    """A batch sampler without end.

    Sample number n of a training is place `n % length` in the permutation of epoch `n // length`, which depends on
    the seed and the epoch alone. So the order is the same however often a run is resumed, and however many processes
    share a batch: each takes its part of it.

    Yields lists of (epoch, index), `batch / world` long: what a dataset's `__getitem__` takes.

    Args:
        length: number of samples of the dataset. A batch may be longer; it then holds parts of several epochs.
        batch: samples of one batch, over all processes.
        seed: of the permutations.
        rank, world: number of this process, and of all.
        start: number of samples that all processes together have drawn before.

    Raises:
        ValueError: for an empty dataset, a batch that the processes cannot share evenly, or a start below 0.
    """

    def __init__(self, length: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1, start: int = 0) -> None:
        if length < 1:
            raise ValueError("the dataset is empty: there is nothing to draw")
        if batch < 1 or batch % world:
            raise ValueError(f"a batch of {batch} cannot be shared by {world} processes: choose a multiple of {world}")
        if start < 0:
            raise ValueError(f"the order starts at sample {start}; give 0 or more")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; expected 0 to {world - 1}, one of {world} processes")
        self.length, self.batch, self.seed = length, batch, seed
        self.rank, self.world, self.start = rank, world, start

    def permutation(self, epoch: int) -> list[int]:
        """All indices, in the order of an epoch."""
        return torch.randperm(self.length, generator=seeded(self.seed, epoch)).tolist()

    def __iter__(self) -> Iterator[list[Key]]:
        part = self.batch // self.world
        current, places = -1, [0]
        number = self.start
        while True:
            keys = []
            for n in range(number + self.rank * part, number + (self.rank + 1) * part):
                epoch, place = divmod(n, self.length)
                if epoch != current:
                    current, places = epoch, self.permutation(epoch)
                keys.append((epoch, places[place]))
            number += self.batch
            yield keys


def seeded(*numbers: int, generator: torch.Generator | None = None) -> torch.Generator:
    """A generator whose state depends on these numbers alone, on any machine: the given one, or a new one."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    generator = torch.Generator() if generator is None else generator
    return generator.manual_seed(int.from_bytes(digest, "little") >> 1)
