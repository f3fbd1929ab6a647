from __future__ import annotations

import pytest
import torch

LAST = ("slow", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake then shows within seconds."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in LAST))


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """New networks draw their weights from the global generator: the same ones, whichever test ran before."""
    torch.manual_seed(0)
