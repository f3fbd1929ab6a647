"""Work that counts against nobody's patience: whoever waits for a decoder hears that its file is still on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def still_at_work() -> None:
    """Tells all who wait for this process that it is busy, and not stuck. To be called every second or so."""
    for hear in _listeners:
        hear()


@contextmanager
def heard_by(hear: Callable[[], None]) -> Iterator[None]:
    """Within the block, `hear` is called by each `still_at_work`."""
    _listeners.append(hear)
    try:
        yield
    finally:
        _listeners.remove(hear)
