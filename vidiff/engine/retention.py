"""Which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

from vidiff.engine.publish import published, step_of
from vidiff.store.files import remove


def retain(folder: Path, step: int, keep: int, every: int = 0, best: int = 0) -> None:
    """Once `step` is published, keeps the newest `keep`, those of a multiple of `every` (0: none), and of step `best`.

    Those of later steps go, too: they belong to a course that was left. What cannot be removed is told, and stays; that
    of `step` itself always does.
    """
    paths = published(folder)
    newest = [step_of(path) for path in paths if step_of(path) <= step][-max(1, keep) :]
    for path in paths:
        own = step_of(path)
        wanted = own in newest or own == best or (every > 0 and own % every == 0)
        if own > step or not wanted:
            remove(path)
