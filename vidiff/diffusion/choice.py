"""Choosing one of several by name: a plain dictionary, and an error that lists what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(what: str, name: str, choices: Mapping[str, T]) -> T:
    """Look `name` up in `choices`.

    Raises:
        ValueError: an unknown name; the message says what the names are.
    """
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(sorted(choices))}")
    return choices[name]
