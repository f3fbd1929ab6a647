from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    """An uninterrupted run of six steps, saved at every second."""
    run = tmp_path_factory.mktemp("whole") / "run"
    tiny.train(run)
    return run
