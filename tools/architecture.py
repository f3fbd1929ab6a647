"""Draw the plan of the house, docs/architecture.svg, from the imports of vidiff's sources."""

from __future__ import annotations

import argparse
import ast
import html
import textwrap
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
WIDTH, ROW, GAP, LINE = 236, 30, 46, 15  # of a box; of its head; between boxes; of a line of small text
STYLE = """
.box { fill: #ffffff; stroke: #8a8f98; }
.name { font: 600 15px sans-serif; fill: #1b2533; } .what { font: 12px sans-serif; fill: #39424e; }
.files { font: 11px monospace; fill: #667080; }
.arrow { fill: none; stroke: #5b7fb5; stroke-opacity: 0.55; stroke-width: 1.4; }
"""


def floor_of(module: str) -> str:
    """The floor that a module stands on, such as "nn" for "vidiff.nn.unet"; "vidiff" for vidiff/__init__.py."""
    return module.removeprefix("vidiff.").split(".")[0]


def floors(root: Path) -> dict[str, set[str]]:
    """Each floor of vidiff, and the floors that its files import from."""
    below: dict[str, set[str]] = {}
    for path in sorted((root / "vidiff").rglob("*.py")):
        own = below.setdefault(floor_of(".".join(path.relative_to(root).with_suffix("").parts)), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            own |= {floor_of(start + alias.name) for alias in names if (start + alias.name).startswith("vidiff.")}
    below["vidiff"] = below.pop("__init__")
    return {floor: others - {floor} for floor, others in below.items()}


def levels(below: dict[str, set[str]]) -> list[list[str]]:
    """Floors by height: each stands one level above the highest that it imports from. Imports must run one way."""
    height: dict[str, int] = {}
    while len(height) < len(below):
        ready = [floor for floor in below if floor not in height and below[floor] <= height.keys()]
        if not ready:
            raise ValueError(f"imports in a ring among {', '.join(sorted(set(below) - set(height)))}: mend that first")
        height |= {floor: 1 + max((height[other] for other in below[floor]), default=-1) for floor in ready}
    rows = [[floor for floor in below if height[floor] == level] for level in range(max(height.values()) + 1)]
    for upper, lower in zip(rows[1:], rows, strict=False):  # over the middle of what they stand on
        upper.sort(key=lambda floor, row=lower: mean(row.index(other) for other in below[floor] if other in row))
    return rows


def direct(below: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """The arrows that no longer way replaces."""

    def reach(floor: str) -> set[str]:
        return {floor}.union(*(reach(other) for other in below[floor]))

    for floor, others in below.items():
        for other in sorted(others):
            if not any(other in reach(between) for between in others - {other}):
                yield floor, other


def card(root: Path, floor: str) -> tuple[str, list[str], list[str]]:
    """What a floor is called, what it says of itself, and its files."""
    folder = root / "vidiff" / floor
    if floor == "vidiff":
        name, path, files = "vidiff", root / "vidiff" / "__init__.py", list[str]()
    elif folder.is_dir():
        below = sorted(path.name + "/" for path in folder.iterdir() if (path / "__init__.py").is_file())
        files = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__") + below
        name, path = f"{floor}/", folder / "__init__.py"
    else:
        name, path, files = f"{floor}.py", folder.with_suffix(".py"), []
    says = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
    return name, textwrap.wrap(says, 36), textwrap.wrap("  ".join(files), 33, break_on_hyphens=False)


def draw(root: Path) -> str:
    """The plan as SVG: the ground floor below, an arrow from each floor to those that it stands on directly."""
    below = floors(root)
    rows, cards = levels(below), {floor: card(root, floor) for floor in below}
    tall = {floor: ROW + LINE * (len(says) + len(files)) + 12 for floor, (_, says, files) in cards.items()}
    wide = max(len(row) for row in rows) * (WIDTH + GAP) + GAP
    spot: dict[str, tuple[float, float]] = {}
    top = float(GAP)
    for row in reversed(rows):
        left = (wide - len(row) * (WIDTH + GAP) + GAP) / 2
        spot |= {floor: (left + i * (WIDTH + GAP), top) for i, floor in enumerate(row)}
        top += max(tall[floor] for floor in row) + GAP
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {top:.0f}"><style>{STYLE}</style>']
    parts.append(f'<rect width="{wide}" height="{top:.0f}" fill="#fbfbf9"/>')
    for floor, other in direct(below):
        (x, y), (to_x, to_y) = spot[floor], spot[other]
        x, y, to_x = x + WIDTH / 2, y + tall[floor], to_x + WIDTH / 2
        bend = (to_y - y) / 2
        curve = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
        parts.append(f'<path class="arrow" d="{curve}"/>')
    for floor, (name, says, files) in cards.items():
        x, y = spot[floor]
        parts.append(f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{tall[floor]}" rx="5"/>')
        parts.append(f'<text class="name" x="{x + 10:.0f}" y="{y + 21:.0f}">{html.escape(name)}</text>')
        for i, line in enumerate([*says, *files]):
            kind, at = "what" if i < len(says) else "files", y + ROW + 10 + LINE * i
            parts.append(f'<text class="{kind}" x="{x + 10:.0f}" y="{at:.0f}">{html.escape(line)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "architecture.svg", help="file to write")
    out = parser.parse_args(arguments).out
    out.write_text(draw(ROOT), encoding="utf-8")
    print(f"{out}: {len(floors(ROOT))} floors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
