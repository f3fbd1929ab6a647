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

    class Elsewhere(pytest.Module):
        """A file that was named, in a process that cannot run it."""

        def collect(self) -> list[pytest.Item]:
            pytest.skip("runs in a process of its own: set VIDIFF_ABSENT_GPU=1", allow_module_level=True)

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return Elsewhere.from_parent(parent, path=module_path)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[AbsentGpu]:
    """All that is done on a GPU inside is looked at; attention and what surrounds it are formulas, since nothing can be
    probed."""
    absent.pretend(monkeypatch)
    monkeypatch.setattr(importlib.import_module("vidiff.nn.attention"), "_chosen", lambda *_: "plain")
    monkeypatch.setattr(importlib.import_module("vidiff.nn.fused.choice"), "_chosen", lambda *_: False)
    with absent.AbsentGpu() as mode:
        yield mode
