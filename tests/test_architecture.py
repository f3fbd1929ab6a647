"""docs/architecture.md and the README tell the truth about the sources: picture, walks, and where things are added."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
WALKS = {part.splitlines()[0]: part for part in PAGE.split("## Where do I add")[0].split("\n### ")[1:]}


def test_the_picture_is_of_the_sources() -> None:
    draw = importlib.import_module("tools.architecture").draw
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == draw(ROOT), "run python tools/architecture.py, and look at docs/architecture.svg"


def test_imports_that_run_round_are_told(tmp_path: Path) -> None:
    for floor, text in {"nn": "from vidiff.data import clips", "data": "import vidiff.nn.unet"}.items():
        (tmp_path / "vidiff" / floor).mkdir(parents=True)
        (tmp_path / "vidiff" / floor / "__init__.py").write_text(text)
    (tmp_path / "vidiff" / "__init__.py").touch()
    with pytest.raises(ValueError, match="imports in a ring among data, nn"):
        importlib.import_module("tools.architecture").draw(tmp_path)


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of vidiff that a file imports."""

    def files() -> Iterator[Path]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vidiff"):
                module = ROOT.joinpath(*node.module.split("."))
                yield from (path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file())
                yield from (path for alias in node.names if (path := module / f"{alias.name}.py").is_file())

    return frozenset(files())


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_leads_from_import_to_import(walk: str) -> None:
    links = re.findall(r"^\d+\. \[.*?\]\(\.\./(\S+?)\)", WALKS[walk], flags=re.M)
    assert len(links) > 4
    files = [ROOT / link for link in links]
    for i, file in enumerate(files[1:], 1):
        assert any(file in imported(earlier) for earlier in files[:i]), (
            f"none of the files before {links[i]} imports it"
        )


def test_the_newcomers_walk_leads_from_import_to_import() -> None:
    """Each file is imported by an earlier one, or by a file that an earlier one imports."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start = text.index("To read the code, follow one clip")
    names = re.findall(r"`([\w/]+\.py)`", text[start : text.index("\n\n", start)])
    assert len(names) >= 8 and names[0] == "cli/make/train.py" and names[-1] == "nn/unet.py"
    files = [ROOT / "vidiff" / name for name in names]
    for i, file in enumerate(files[1:], 1):
        near = {path for earlier in files[:i] for path in imported(earlier)}
        assert file in near.union(*map(imported, near)), f"{names[i]} is not near a file before it"


def test_every_file_that_the_page_names_is_there() -> None:
    links = re.findall(r"\]\((\S+?)\)", PAGE)
    assert len(links) > 60
    assert not [link for link in links if not (DOCS / link).exists()]


def test_every_table_that_the_page_names_is_there() -> None:
    rows = re.findall(r"of `([A-Z_]{4,})` in \[.*?\]\(\.\./(\S+?)\)", PAGE)
    assert len(rows) >= 6
    for name, link in rows:
        assert re.search(rf"^{name}\b", (ROOT / link).read_text(encoding="utf-8"), flags=re.M), f"{name} in {link}"
