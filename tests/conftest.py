from __future__ import annotations

import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from harness import Runs

LAST = ("slow", "faults")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of a shell's &, and then of all commands under test
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, which whoever comes first does
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "engine"), str(HERE / "helpers")]  # so that tests, and processes of theirs, find them


def shares(item: pytest.Item) -> bool:
    """Whether a test is given what its file makes once for several."""
    made = [fixture for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]  # type: ignore[attr-defined]
    return any(fixture.scope == "module" for fixture in made)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake then shows within seconds.

    Those of a file that share what it makes are a group, which one process runs in the file's order, so that it is made
    once; the largest groups first, so that none is left alone at the end.
    """
    sizes: Counter[str] = Counter(item.nodeid.split("::")[0] for item in items if shares(item))

    def turn(item: pytest.Item) -> tuple[int, int, str]:
        path = item.nodeid.split("::")[0]
        if shares(item):
            return 1, -sizes[path], path
        return (2 if any(item.get_closest_marker(name) for name in LAST) else 0), 0, ""

    for item in items:
        if shares(item) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    items.sort(key=turn)


def pytest_collection_finish(session: pytest.Session) -> None:
    """pytest-xdist puts a group at the end of a test's name. Where it does not, what several tests share would be made
    by both processes, and each would miss what the other's tests did."""
    for item in session.items if getattr(session.config.option, "loadgroup", False) else ():
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
            raise pytest.UsageError("this pytest-xdist does not group tests beside this pytest: see constraints.txt")


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """New networks draw their weights from the global generator: the same ones, whichever test ran before."""
    torch.manual_seed(0)


@pytest.fixture
def runs() -> Iterator[Runs]:
    """Tiny trainings as processes of their own; what still runs at the end is killed."""
    made = importlib.import_module("harness").Runs()
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/engine/tiny.py, to run in this process."""
    return importlib.import_module("tiny")
