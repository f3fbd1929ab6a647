"""Indexes by options of the data, for tests that need no config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidiff.data import index
from vidiff.data.options import DataConfig

KEPT = ("cache", "quarantine", "records", "copies", "workers", "progress")


def build_index(root: str | Path, split: str = "train", **options: Any) -> index.Index:
    """`vidiff.data.index.build_index`, by options of its own and those of `DataConfig`."""
    own = {name: options.pop(name) for name in KEPT if name in options}
    return index.build_index(DataConfig(str(root), **{"patience": 300.0, **options}), split, **own)
