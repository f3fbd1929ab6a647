"""The order in which samples are drawn: endless, shuffled anew each epoch, the same from any starting point.

A batch of an `Order` is of one group, such as the clips of one bucket. Pictures come between the batches of clips, in a
share of their own: `JointOrder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from torch.utils.data import Sampler

Key = tuple[int, int]  # (epoch, index)


class Order(Sampler[list[Key]]):
    """A batch sampler without end, each of whose batches is of one group.

    Sample number n of a group of `length` is number `n % length` of the group's permutation of epoch `n // length`. So
    each sample comes once an epoch, and what does not fill a batch opens the group's first batch of the next epoch:
    after e epochs, a group has given e * length // batch batches. The batches of an epoch come shuffled. All of this
    depends on the seed, the epoch, the groups and the batch alone: the order is the same however often a run is
    resumed, and however many processes share a batch, of which each takes its part.

    It yields lists of (epoch, index), `batch / world` long: what a data set's `__getitems__` takes.

    Args:
        groups: indices of the samples of each. A batch may be longer than a group; it then holds parts of several
            epochs.
        batch: samples of one batch, over all processes.
        seed: of the permutations.
        rank, world: number of this process, and of all.
        start: number of samples that all processes together have drawn before. From within a batch, which happens where
            another batch size was used before, a single group goes on there, and several with the whole of that batch.

    Raises:
        ValueError: for an empty group, a batch that the processes cannot share evenly, or a start below 0.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if min(map(len, groups), default=0) < 1:
            raise ValueError("the dataset is empty: there is nothing to draw")
        if batch < 1 or batch % world:
            raise ValueError(f"a batch of {batch} cannot be shared by {world} processes: choose a multiple of {world}")
        if start < 0:
            raise ValueError(f"the order starts at sample {start}; give 0 or more")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; expected 0 to {world - 1}, one of {world} processes")
        self.groups, self.batch, self.seed = groups, batch, seed
        self.rank, self.world, self.start = rank, world, start
        self.permutation = lru_cache(2 * len(groups))(self._permutation)  # a batch may lie in two epochs

    def _permutation(self, epoch: int, group: int = 0) -> list[int]:
        """The indices of a group in the order of an epoch."""
        numbers = (self.seed, epoch, -group) if group else (self.seed, epoch)  # no sample's, whose numbers are positive
        own = self.groups[group]
        return [own[number] for number in torch.randperm(len(own), generator=seeded(*numbers)).tolist()]

    def before(self, epoch: int) -> list[int]:
        """Batches that each group has given before an epoch."""
        return [epoch * len(group) // self.batch for group in self.groups]

    def __iter__(self) -> Iterator[list[Key]]:
        (number, rest), part = divmod(self.start, self.batch), self.batch // self.world
        within = rest if len(self.groups) == 1 else 0
        epoch = number * self.batch // sum(map(len, self.groups))  # or a later one, since parts of batches are left
        skipped = number - sum(self.before(epoch))
        while True:
            given, then = self.before(epoch), self.before(epoch + 1)
            groups = [group for group, counts in enumerate(zip(given, then, strict=True)) for _ in range(*counts)]
            shuffle = torch.randperm(len(groups), generator=seeded(self.seed, -1 - epoch)).tolist()
            for turn, group in enumerate(groups[number] for number in shuffle):
                if turn >= skipped:
                    first = given[group] * self.batch + within + self.rank * part
                    yield [self._key(group, number) for number in range(first, first + part)]
                given[group] += 1
            skipped = max(0, skipped - len(groups))
            epoch += 1

    def _key(self, group: int, number: int) -> Key:
        """Sample `number` of all that a group ever gives."""
        epoch, position = divmod(number, len(self.groups[group]))
        return epoch, self.permutation(epoch, group)[position]


class JointOrder(Sampler[list[Key]]):
    """Two kinds of samples by turns: of any m batches from the start, m * share, rounded down, are of the second kind.

    Args:
        groups: of the first kind, and of the second.
        share: of the batches that are of the second kind, 0 to 1; a decimal fraction is taken as it is written.
        batch, seed, rank, world, start: as of `Order`.

    Raises:
        ValueError: as `Order`; for a share outside of its range.
    """

    def __init__(
        self,
        groups: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
        share: float,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; give 0 to 1")
        self.share, self.number = Fraction(str(share)), start // batch
        drawn = self.before(self.number)
        starts = (self.number - drawn) * batch, drawn * batch
        self.kinds = [Order(kind, batch, seed, rank, world, first) for kind, first in zip(groups, starts, strict=True)]

    def before(self, number: int) -> int:
        """Batches of the second kind among the first `number`."""
        return int(number * self.share)

    def __iter__(self) -> Iterator[list[Key]]:
        kinds, number = [iter(kind) for kind in self.kinds], self.number
        while True:
            yield next(kinds[self.before(number + 1) - self.before(number)])
            number += 1


def seeded(*numbers: int, generator: torch.Generator | None = None) -> torch.Generator:
    """A generator whose state depends on these numbers alone, on any machine: the given one, or a new one."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    generator = torch.Generator() if generator is None else generator
    return generator.manual_seed(int.from_bytes(digest, "little") >> 1)
