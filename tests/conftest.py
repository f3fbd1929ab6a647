from __future__ import annotations

import importlib
import os
import signal
import sys
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake then shows within seconds."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in LAST))


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
