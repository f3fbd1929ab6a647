"""What the site has beside the pages of docs/, as hooks of mkdocs.yml.

The home page is README.md, and a page of modules is made for each floor of vidiff, so that nothing is written twice. A
link to a source leads to its place among the modules.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ABOVE = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")  # where a link of Markdown leads


NAMES = re.compile(r"^( +\w+)((?:, \w+)+)(?=: )", re.M)  # of several attributes that a docstring tells of at once


class TogetherNamed(griffe.Extension):
    """Keeps `frames, size: ...` of a docstring together, which griffe would read as a name and its type."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = NAMES.sub(
                lambda m: m[1] + m[2].replace(" ", "\N{NO-BREAK SPACE}"), obj.docstring.value
            )


def floors() -> dict[str, list[str]]:
    """The modules of each floor by its name, such as vidiff.nn.unet of nn."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "vidiff").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        if parts[1] not in ("__init__", "__main__") and (path.name != "__init__.py" or len(path.read_text()) > 300):
            found.setdefault(parts[1], []).append(module)
    return found


def says(module: str) -> str:
    """The first line of what a floor says of itself."""
    path = ROOT / module.replace(".", "/")
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]


def module_pages() -> dict[str, str]:
    """The pages of modules by name, as Markdown that mkdocstrings fills."""
    pages = {
        f"api/{floor}.md": f"# {floor}\n\n{says(f'vidiff.{floor}')}\n\n"
        + "\n\n".join(f"::: {name}" for name in modules)
        for floor, modules in floors().items()
    }
    rows = "\n".join(f"| [{floor}]({floor}.md) | {says(f'vidiff.{floor}').replace('|', ' ')} |" for floor in floors())
    pages["api/index.md"] = (
        "# Modules\n\nEach folder of `vidiff/` is a floor. They are in alphabetical order here, and on the page of "
        f"[architecture](../architecture.md) from the ground up.\n\n| floor | what it is |\n| --- | --- |\n{rows}\n"
    )
    return pages


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text, and its code to be copied."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [
        ("{}" if cell["cell_type"] == "markdown" else "```python\n{}\n```").format("".join(cell["source"]))
        for cell in cells
    ]
    return "\n\n".join(parts) + f"\n\n[The notebook itself]({path.name}), to be run.\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what does not lie in docs/."""
    for source, name in ABOVE.items():
        files.append(File.generated(config, name, content=lead_home((ROOT / source).read_text(encoding="utf-8"))))
    notebook = {"first_model.md": notebook_page(ROOT / "docs" / "first_model.ipynb")}
    for name, content in (module_pages() | notebook).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the last part of the navigation with the floors."""
    assert config.nav is not None
    last = [{"All": "api/index.md"}, *({floor: f"api/{floor}.md"} for floor in floors())]
    config.nav = [{"Modules": last} if entry == {"Modules": "api/"} else entry for entry in config.nav]
    return config


def lead_home(text: str) -> str:
    """A page from above docs/ as one within it: its links to docs/ are to the pages beside it."""
    text = re.sub(r"(?<=\]\()docs/", "", text)
    return text.replace("](README.md)", "](index.md)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Leads links to sources to their modules, and says the name of any other file that the site does not hold."""

    def lead(match: re.Match[str]) -> str:
        target = match[1]
        if "://" in target or not target.startswith("../"):
            return target
        name = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        up = "../" * page.file.src_uri.count("/")
        if name in ABOVE:
            return up + ABOVE[name]
        if name.startswith("vidiff/"):
            parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
            anchor = f"#{'.'.join(parts)}" if ".".join(parts) in floors().get(parts[1], []) else ""
            return f"{up}api/{parts[1]}.md{anchor}"
        return target

    markdown = LINK.sub(lead, markdown.replace("\\_\\_init\\_\\_", "__init__"))
    return re.sub(r"\[([^\]]+)\]\(\.\./(?:tools|tests|configs)[^)]*\)", r"`\1`", markdown)
