from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that one file finds another


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    """An uninterrupted run of six steps, saved at every second."""
    run = tmp_path_factory.mktemp("whole") / "run"
    tiny.train(run)
    return run
