"""What pyproject.toml promises is what the code needs: every library that vidiff imports, and no other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# libraries that are imported only where they are used -> the extra that brings them
EXTRAS = {
    "transformers": "text",
    "skimage": "score",
    "pyarrow": "parquet",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "torchcodec": "torchcodec",
    "diffusers": "diffusers",
    "matplotlib": "plot",
    **dict.fromkeys(("fsspec", "aiohttp"), "remote"),
    **dict.fromkeys(("flask", "krippendorff", "waitress", "werkzeug"), "study"),
}
# name of an import -> name of its package, where that is another
DISTRIBUTION = {"PIL": "pillow", "decord": "decord2", "yaml": "pyyaml", "skimage": "scikit-image"}


def test_core_dependencies_are_what_vidiff_imports() -> None:
    imported = set()
    for path in (ROOT / "vidiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"vidiff", *EXTRAS}
    declared = {re.match(r"[\w-]+", requirement).group() for requirement in PROJECT["dependencies"]}
    assert {DISTRIBUTION.get(name, name) for name in outside} == declared


@pytest.mark.parametrize(("name", "extra"), EXTRAS.items())
def test_what_an_extra_brings_is_not_needed_to_import_vidiff(name: str, extra: str) -> None:
    assert DISTRIBUTION.get(name, name) in PROJECT["optional-dependencies"][extra]
    commands = ", ".join(f"vidiff.cli.{path.stem}" for path in sorted((ROOT / "vidiff" / "cli").glob("[a-z]*.py")))
    code = f"import sys; sys.modules['{name}'] = None; import vidiff.train, {commands}"  # None: cannot be imported
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_version_has_one_value() -> None:
    init = ast.parse((ROOT / "vidiff/__init__.py").read_text(encoding="utf-8"))
    found = {
        target.id: ast.literal_eval(node.value)
        for node in init.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert found["__version__"] == PROJECT["version"]


def test_gitignore_leaves_out_what_the_commands_make_and_no_source(tmp_path: Path) -> None:
    """Both `data/`, which the commands make, and the sources' folders of that name."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    asked = ["data/shapes/0000.mp4", "runs/shapes/report.html", "vidiff/video/reader.py", "tests/video/test_video.py"]
    command = ["git", "check-ignore", *asked]
    ignored = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert ignored.splitlines() == asked[:2]
