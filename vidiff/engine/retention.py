"""Which checkpoints stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidiff.engine.publish import published, remove, step_of


@dataclass(frozen=True)
class Keep:
    """The newest `last`, each whose step is a multiple of `every` (0: none), and that of step `best` (0: none)."""

    last: int = 3
    every: int = 0
    best: int = 0

    def __call__(self, step: int, newest: list[int]) -> bool:
        """Whether a step stays, of which `newest` are the last, from old to new."""
        return step in newest[-self.last :] or step == self.best or (self.every > 0 and step % self.every == 0)


def retain(folder: Path, step: int, keep: Keep) -> None:
    """Removes what need not stay once `step` is published, and what is of later steps: a course that was left.

    What cannot be removed is told, and stays; that of `step` itself always does.
    """
    paths = published(folder)
    past = [step_of(path) for path in paths if step_of(path) <= step]
    for path in paths:
        if not (step_of(path) <= step and keep(step_of(path), past)):
            remove(path)
