"""The files here run in a process of their own, before torch is loaded: tests/test_absent_gpu.py starts it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from absent import AbsentGpu

if os.environ.get("VIDIFF_ABSENT_GPU"):
    sys.path.insert(0, str(Path(__file__).parent))
    absent = importlib.import_module("absent")
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[AbsentGpu]:
    """All that is done on a GPU inside is looked at; attention is plain, since nothing can be probed."""
    absent.pretend(monkeypatch)
    monkeypatch.setattr(importlib.import_module("vidiff.nn.attention"), "_chosen", lambda *_: "plain")
    with absent.AbsentGpu() as mode:
        yield mode
