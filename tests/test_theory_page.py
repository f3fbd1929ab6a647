"""What docs/theory.md names is there, and nothing of the theory is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from vidiff.sample import SAMPLERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "theory.md"
LINKS = re.findall(r"\[`(\w+)`\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))


def names(path: Path) -> set[str]:
    """Of the functions, classes and constants at the top of a file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("symbol", "link"), LINKS)
def test_a_named_symbol_is_in_the_file_that_it_links_to(symbol: str, link: str) -> None:
    assert symbol in names(PAGE.parent / link)


def test_each_formula_stands_once_and_every_sampler_is_there() -> None:
    symbols = [symbol for symbol, _ in LINKS]
    assert len(LINKS) > 40 and len(set(symbols)) == len(symbols)
    classes = {getattr(sampler, "func", sampler).__name__ for sampler in SAMPLERS.values()}
    assert classes <= set(symbols)


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert pictures and all((PAGE.parent / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
