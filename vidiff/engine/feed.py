"""What a training takes its batches from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from vidiff.engine.guard import Signals
from vidiff.engine.parallel import Group

Batch = dict[str, Tensor]  # of equal first dimension; "key", if there, numbers the samples and names them in errors


class Feed:
    """This process's parts of batches, checked.

    Args:
        make_batches: the number of samples consumed so far, over all processes -> parts from there on, without end.
        batch_size: samples of a step, over all processes and parts.
        parts: of a batch, that this process takes one after another.
        stop: a signal cuts waiting short, where there is one process; among several the others would wait.
    """

    def __init__(
        self, make_batches: Callable[[int], Iterable[Batch]], batch_size: int, parts: int, group: Group, stop: Signals
    ) -> None:
        if batch_size < 1 or batch_size % (group.world * parts):
            raise ValueError(
                f"batch_size is {batch_size}; it must be a multiple of {group.world * parts}, "
                f"for {group.world} processes with accumulate={parts}"
            )
        self.make_batches, self.parts, self.group, self.stop = make_batches, parts, group, stop
        self.batch_size, self.part_size = batch_size, batch_size // (group.world * parts)
        self.alone = group.world == 1
        self._batches: Iterator[Batch] | None = None

    def take(self, samples: int, parts: int | None = None) -> list[Batch] | None:
        """The next parts of a batch, as the loader gives them; None where a signal came before they did.

        Args:
            samples: consumed so far; from there on the first call begins.
            parts: by default, those of a whole batch.
        """
        if self._batches is None:  # in one go: a loader that is cut short half made complains
            try:
                self._batches = iter(self.make_batches(samples))
            except (EOFError, OSError, RuntimeError):
                if not (self.alone and self.stop.number):
                    raise
                return None  # the signal met a worker that was not yet shielded from it
        batches = self._batches

        def wait() -> list[Batch]:
            return [self._checked(next(batches, None), samples) for _ in range(parts or self.parts)]

        return self.stop.cut_short(wait) if self.alone else wait()

    def peek(self, samples: int) -> Batch | None:
        """The part of a batch that comes next, on the device, which stays the next; None as `take`."""
        parts = self.take(samples, 1)
        if parts is None or self._batches is None:
            return None
        self._batches = itertools.chain(parts, self._batches)
        return self.move(parts[0])

    def move(self, batch: Batch) -> Batch:
        """A part on the device."""
        return {k: v.to(self.group.device, non_blocking=True) for k, v in batch.items()}

    def close(self) -> None:
        """Ends the loader's workers."""
        self._batches = None

    def _checked(self, batch: Batch | None, samples: int) -> Batch:
        if batch is None:
            raise ValueError(f"the batches ended, {samples} samples in; make_batches must give them for ever")
        size = len(next(iter(batch.values())))
        if size != self.part_size:
            raise ValueError(
                f"the loader gave {size} samples at once; expected {self.part_size}: batch_size "
                f"{self.batch_size} over {self.group.world} processes in {self.parts} parts"
            )
        return batch
