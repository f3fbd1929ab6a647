"""JSON and YAML from files that anybody may have written: whatever they hold, a fault is a ValueError, and soon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LARGEST = 1 << 18
"""Characters of a YAML text. Those that vidiff writes have a few thousand."""
DEEPEST, MOST_NODES, MOST_REPEATED = 64, 5_000, 1_000
"""Levels of a YAML text; its values, with what aliases repeat; and how often interpolations may repeat one another."""


def parse_json(text: str | bytes) -> Any:
    """As json.loads. Raises ValueError also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """What a file holds. Raises ValueError, naming it, where that is no JSON; OSError where it cannot be read."""
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON that can be read ({error}): restore it, or make it anew") from None


def check_yaml(text: str) -> str:
    """Returns a YAML text that can be loaded safely in a moment.

    It must be loaded with a safe loader, which refuses tags that name code.

    Raises:
        ValueError: text that is too long, nested too deeply, or of which anchors and aliases, or interpolations such as
            ${name}, would make far more than is written; or no YAML, as yaml.YAMLError has it.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters; {LARGEST:,} is the most")
    sizes: dict[str, int] = {}  # of what each anchor names, with all that it repeats
    stack: list[list[Any]] = []  # of what is open: its anchor, and its size so far
    repeated = 1
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            size, anchor = 0, getattr(event, "anchor", None)
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append([anchor, 1])
                if len(stack) > DEEPEST:
                    raise ValueError(f"it is nested more than {DEEPEST} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = stack.pop()
            elif isinstance(event, yaml.AliasEvent):
                size, anchor = sizes.get(event.anchor, 1), None
            elif isinstance(event, yaml.ScalarEvent):
                size = 1
                repeated *= max(1, event.value.count("${"))
            if anchor:
                sizes[anchor] = size
            if stack:
                stack[-1][1] += size
            if size > MOST_NODES or (stack and stack[-1][1] > MOST_NODES):
                raise ValueError(f"it has more than {MOST_NODES:,} values, counting what its aliases repeat")
            if repeated > MOST_REPEATED:
                raise ValueError("its interpolations ${...} could repeat one another too often: write values out")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return text
