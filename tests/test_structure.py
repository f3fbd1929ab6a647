"""A folder says its floor: imports run one way only, folders, files and functions stay small, and each outside library
has one owner.

The sources are read, not imported, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Ground floor first: each folder, or module, of vidiff imports only from those above it in this list.
FLOORS = (
    "store",
    "pixels",
    "video",
    "text",
    "report",
    "diffusion",
    "sample",
    "nn",
    "codec",
    "draw",
    "metrics",
    "objective",
    "engine",
    "data",
    "record",
    "recipe",
    "pipeline",
    "plan",
    "training",
    "evaluate",
    "selftest",
    "share",
    "app",
    "study",
    "play",
    "cli",
    "train",
    "vidiff",  # vidiff/__init__.py
    "__main__",
    "tools",
)

# Narrower than the floors: all that these may import of vidiff.
MAY_IMPORT = {
    "store": {"store"},
    "diffusion": {"diffusion"},
    "diffusion.choice": set[str](),
    "diffusion.condition": {"diffusion.choice"},
    "diffusion.schedule": {"diffusion.choice", "diffusion.condition"},
    "diffusion.process": {"diffusion.choice", "diffusion.condition", "diffusion.schedule"},
    "sample": {"sample", "diffusion"},
    "nn": {"nn", "diffusion.condition"},
    "metrics": {"metrics", "pixels", "store"},
}

LOADING = "tools/benchmarks/load.py"  # times what others make of these libraries

# outside library -> the files that may import it
OWNERS = {
    "decord": {"vidiff/video/decord.py"},
    "fsspec": {"vidiff/store/remote.py"},
    "aiohttp": {"vidiff/store/remote.py"},
    "imageio": {"vidiff/video/writer.py"},
    "av": {
        "vidiff/data/doctor/container.py",
        "vidiff/video/convert.py",
        "vidiff/video/pyav.py",
        "vidiff/video/reader.py",
        "vidiff/video/stream.py",
        "vidiff/video/timetable.py",
        LOADING,
    },
    "torchcodec": {"vidiff/video/torchcodec.py", LOADING},
    "PIL": {"vidiff/video/reader.py", "vidiff/video/writer.py", "vidiff/video/pictures.py"},
    "omegaconf": {"vidiff/recipe/load.py", "vidiff/recipe/common.py", "vidiff/data/options.py"},
    "diffusers": {"vidiff/codec/diffusers.py", "tools/compare_samplers.py", "tools/benchmarks/peers.py"},
    "transformers": {"vidiff/text.py", "vidiff/metrics/clip_score.py"},
    "tensorboard": {"vidiff/report/sinks.py"},
    "wandb": {"vidiff/report/sinks.py"},
    "trackio": {"vidiff/report/sinks.py"},
    "xformers": {"vidiff/nn/attention.py"},
    "triton": {"vidiff/nn/fused/kernels.py"},
    "huggingface_hub": {"vidiff/pipeline/hub.py"},
    "gymnasium": {"vidiff/record/environment.py"},
    "pyarrow": {"vidiff/data/actions/lerobot.py", "vidiff/data/doctor/record.py"},
    "gradio": {"vidiff/app/page.py", "vidiff/app/serve.py"},
    "starlette": {"vidiff/play/server.py"},
    "uvicorn": {"vidiff/play/serve.py"},
    "websockets": {"vidiff/play/serve.py"},
}

MOST_FILES = 16  # a folder of vidiff
MOST_PARAMETERS = 10  # a function of vidiff
LONGEST = {"vidiff": 500, "tools": 150}  # lines a file
PARTS = "tools/benchmarks/"  # the files of one tool, which may import each other
LONGEST_PART = 300
LONGEST_TEST = 500


@dataclass(frozen=True)
class Problem:
    """A place that breaks a rule; line 0 where that is a whole file or folder."""

    file: str
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.says}" if self.line else f"{self.file}: {self.says}"


@dataclass(frozen=True)
class Import:
    """An import statement, and one of the modules that it names."""

    file: str  # relative to the root, with forward slashes
    line: int
    module: str  # of this tree as deep as a file or folder goes, as vidiff.video.reader; else the whole dotted name

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def sources(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for top in LONGEST for path in (root / top).rglob("*.py"))


def imports(root: Path, file: str, tree: ast.Module) -> Iterator[Import]:
    """Every import of a file. `from package import name` means the submodule `name` where there is one."""
    folder = file.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = folder[: len(folder) + 1 - node.level] if node.level else []
            names = [".".join([*parent, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        for module in sorted({within(root, name) for name in names}):
            yield Import(file, node.lineno, module)


def within(root: Path, name: str) -> str:
    """As much of a dotted name as is a file or folder below root; the whole name if nothing of it is."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:end])
        if path.is_dir() or path.with_suffix(".py").is_file():
            return ".".join(parts[:end])
    return name


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def floor_of(module: str) -> str:
    """The floor that a module of this tree stands on, such as "nn" for "vidiff.nn.unet"."""
    parts = module.split(".")
    return parts[1] if parts[0] == "vidiff" and len(parts) > 1 else parts[0]


def row_of(module: str) -> str | None:
    """The longest row of `MAY_IMPORT` that a module's name begins with, if any."""
    parts = module.removeprefix("vidiff.").split(".")
    rows = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((row for row in rows if row in MAY_IMPORT), None)


def refusal(module: str, other: str) -> str | None:
    """Why one module of this tree may not import another; None where it may."""
    floor, below = floor_of(module), floor_of(other)
    if floor == below == "tools" and not all(
        f"{name}/".replace(".", "/").startswith(PARTS) for name in (module, other)
    ):
        return f"a tool may not import another, {other}"
    if FLOORS.index(below) > FLOORS.index(floor):
        return f"{floor} may not import {other}, which stands on a higher floor"
    row, name = row_of(module), other.removeprefix("vidiff.")
    if row is not None and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_IMPORT[row]):
        return f"{row} may not import {other}"
    return None


def ring(graph: dict[str, list[Import]]) -> list[Import]:
    """Imports that lead from a module back to itself; empty if there are none."""
    done: set[str] = set()

    def visit(module: str, way: list[Import]) -> list[Import]:
        begun = [module_of(step.file) for step in way]
        if module in begun:
            return way[begun.index(module) :]
        if module in done:
            return []
        for step in graph.get(module, []):
            if found := visit(step.module, [*way, step]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


def sizes(root: Path, file: str, tree: ast.Module) -> Iterator[Problem]:
    """What is too long in a file, or has too many parameters."""
    top = file.split("/")[0]
    lines = len((root / file).read_text(encoding="utf-8").splitlines())
    folder, most = (PARTS[:-1], LONGEST_PART) if file.startswith(PARTS) else (top, LONGEST[top])
    if lines > most:
        yield Problem(file, 0, f"a file of {folder} has {most} lines at most")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or top != "vidiff":
            continue
        if any(ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list):
            continue  # a kernel knows no records: pointers and numbers come one by one
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if sum(argument.arg not in ("self", "cls") for argument in named) > MOST_PARAMETERS:
            yield Problem(file, node.lineno, f"{node.name} has more than {MOST_PARAMETERS} parameters")


def problems(root: Path) -> list[Problem]:
    """Everything below root that breaks a rule."""
    found = []
    graph: dict[str, list[Import]] = {}
    for file in sources(root):
        module = module_of(file)
        if floor_of(module) not in FLOORS:
            found.append(Problem(file, 0, "has no floor in FLOORS: decide where it belongs"))
            continue
        tree = ast.parse((root / file).read_text(encoding="utf-8"), file)
        found += sizes(root, file, tree)
        for item in imports(root, file, tree):
            if file not in (owners := OWNERS.get(item.top, {file})):
                found.append(Problem(file, item.line, f"only {', '.join(sorted(owners))} may import {item.top}"))
            if item.top not in (*LONGEST, "tests"):
                continue
            graph.setdefault(module, []).append(item)
            if item.top == "tests" or floor_of(item.module) not in FLOORS:
                found.append(Problem(file, item.line, f"{floor_of(module)} may not import {item.module}"))
            elif says := refusal(module, item.module):
                found.append(Problem(file, item.line, says))
    for folder in sorted({path.parent for path in (root / "vidiff").rglob("*.py")}):
        if len(list(folder.glob("*.py"))) > MOST_FILES:
            found.append(Problem(folder.relative_to(root).as_posix(), 0, f"a folder has {MOST_FILES} files at most"))
    if steps := ring(graph):
        way = " -> ".join(step.module for step in steps)
        found.append(Problem(steps[-1].file, steps[-1].line, f"imports in a ring: {way}"))
    return found


def test_the_tree_keeps_every_rule() -> None:
    assert "vidiff/nn/unet.py" in sources(ROOT)
    found = [str(problem) for problem in problems(ROOT)]
    assert not found, "\n" + "\n".join(found)


def test_no_file_of_tests_is_too_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert "tests/test_structure.py" in lengths
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_TEST} == {}


def test_every_folder_has_its_floor() -> None:
    there = {
        path.stem for path in (ROOT / "vidiff").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert there - {"__init__"} == set(FLOORS) - {"vidiff", "tools"}
    assert {row.split(".")[0] for row in MAY_IMPORT} <= set(FLOORS)


GOOD = {
    "vidiff/__init__.py": "from vidiff.pipeline.pipeline import Pipeline",
    "vidiff/pipeline/pipeline.py": "from vidiff.recipe.load import load",
    "vidiff/train.py": "from vidiff.recipe import load",
    "vidiff/recipe/load.py": "import omegaconf\nfrom vidiff.engine import loop",
    "vidiff/codec/codec.py": "from vidiff.nn.unet import UNet",
    "vidiff/nn/unet.py": "from ..diffusion.condition import Condition",
    "vidiff/sample/base.py": "from vidiff.diffusion.denoise import Denoiser",
    "vidiff/diffusion/condition.py": "",
    "vidiff/diffusion/denoise.py": "from . import condition",
    "vidiff/engine/loop.py": "import torch",
    "vidiff/video/decord.py": "import decord",
    "vidiff/video/writer.py": "import imageio.v3",
    "vidiff/data/clips.py": "from vidiff.video.reader import read",
    "tools/benchmark.py": "",
    "tools/benchmarks/load.py": "import av\nfrom .timing import clock",
    "tools/benchmarks/timing.py": "pass\n" * 200,
    "tools/generate.py": "import vidiff",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_good_tree_has_no_problems(tmp_path: Path) -> None:
    assert problems(write(tmp_path, GOOD)) == []


ELEVEN = ", ".join(f"x{i}" for i in range(11))


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "nn/unet.py",
            "import torch\nfrom vidiff.data import clips",
            ":2: nn may not import vidiff.data.clips, which stands on a higher floor",
        ),
        ("nn/unet.py", "from vidiff.sample.base import Sampler", ":1: nn may not import vidiff.sample.base"),
        ("nn/unet.py", "from vidiff.diffusion import denoise", ":1: nn may not import vidiff.diffusion.denoise"),
        (
            "nn/unet.py",
            "def run():\n    import vidiff.recipe.load",
            ":2: nn may not import vidiff.recipe.load, which stands on a higher floor",
        ),
        (
            "nn/new.py",
            "import vidiff.train",
            ":1: nn may not import vidiff.train, which stands on a higher floor",
        ),
        (
            "train.py",
            "from tools.benchmark import main",
            ":1: train may not import tools.benchmark, which stands on a higher floor",
        ),
        ("train.py", "from tests import tiny", ":1: train may not import tests.tiny"),
        ("data/clips.py", "import decord", ":1: only vidiff/video/decord.py may import decord"),
        ("codec/codec.py", "pass\n" * 501, ": a file of vidiff has 500 lines at most"),
        (
            "data/clips.py",
            f"def load({ELEVEN[:-5]}): ...\ndef pack({ELEVEN}): ...",
            ":2: pack has more than 10 parameters",
        ),
        ("extra.py", "", ": has no floor in FLOORS: decide where it belongs"),
        ("../tools/generate.py", "from tools import benchmark", ":1: a tool may not import another, tools.benchmark"),
        ("../tools/generate.py", "pass\n" * 151, ": a file of tools has 150 lines at most"),
        (
            "../tools/generate.py",
            "from tools.benchmarks import timing",
            ":1: a tool may not import another, tools.benchmarks.timing",
        ),
        ("../tools/benchmarks/timing.py", "pass\n" * 301, ": a file of tools/benchmarks has 300 lines at most"),
        (
            "engine/loop.py",
            "from vidiff.engine import loop",
            ":1: imports in a ring: vidiff.engine.loop",
        ),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    name = f"vidiff/{file}".replace("vidiff/../", "")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "tiny.py").touch()
    assert [str(problem) for problem in problems(write(tmp_path, {**GOOD, name: text}))] == [f"{name}{complaint}"]


def test_a_folder_of_too_many_files_is_found(tmp_path: Path) -> None:
    files = {f"vidiff/data/part{i}.py": "" for i in range(MOST_FILES)}
    found = problems(write(tmp_path, {**GOOD, **files}))
    assert [str(problem) for problem in found] == ["vidiff/data: a folder has 16 files at most"]
