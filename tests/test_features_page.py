"""docs/features.md tells the truth as far as a test can see: its tests are there, its keys and flags too."""

from __future__ import annotations

import ast
import re
from itertools import takewhile
from pathlib import Path

import pytest

from vidiff.cli.options import DRAWING, GUIDING
from vidiff.recipe.load import load, load_codec_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if re.match(r"\| [A-Z]\d", line)]
GROUPS = {"P": 5, "T": 12, "S": 9, "N": 5, "V": 10, "E": 7, "G": 5}
OTHER_FLAGS = {"classifier", "strategy", "upscale", "network"}
CONFIGS = [(ucf := load(ROOT / "configs" / "ucf.yaml")), load_codec_config(ucf, ROOT / "configs")]  # type: ignore[arg-type]


def has(config: object, key: str) -> bool:
    """Whether a config has a key; a slot, such as sampling.sampler, is a mapping with a name and options."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
        if config is None:
            return False
    return True


def test_no_system_is_left_out() -> None:
    assert [row[0] for row in ROWS] == [f"{group}{i + 1}" for group, count in GROUPS.items() for i in range(count)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_leads_where_it_says(row: list[str]) -> None:
    _, system, state, way, test = row
    assert system and re.search(r"\b(works|toy data only|library only|missing|alone)\b", state)
    if not state.startswith("missing"):
        file, name = test.strip("`").split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
    for shown in re.findall(r"`([^`]+)`", way):
        first = shown.split()[0]
        if first in ("python", "make", "vidiff") or (ROOT / first).is_file():
            continue  # tests/test_commands_shown.py runs what begins with python
        if first.startswith("--"):
            assert first[2:].replace("-", "_") in {*DRAWING, *GUIDING, *OTHER_FLAGS}, shown
        elif first[0].islower():
            key = "".join(takewhile(lambda letter: letter != "=", first))
            assert any(has(config, key) for config in CONFIGS), key
