"""Imports run one way only, files stay short, and each outside library has one owner.

The sources are read, not imported, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEAVES = frozenset({"data", "evaluate", "engine", "text"})
THEORY = frozenset({"diffusion.known", "diffusion.guidance", "diffusion.likelihood"})

# layer -> the layers it may import; what those may import is allowed too. A layer is a module or a package of
# vidiff. A module without a row of its own belongs to its package's row.
MAY_IMPORT: dict[str, frozenset[str]] = {
    **{leaf: LEAVES for leaf in LEAVES},
    "diffusion.choice": frozenset(),
    "diffusion.condition": frozenset({"diffusion.choice"}),
    "diffusion.schedule": frozenset({"diffusion.choice", "diffusion.condition"}),
    "diffusion.process": frozenset({"diffusion.schedule"}),
    "diffusion.denoise": frozenset({"diffusion.process"}),
    **{layer: THEORY | {"diffusion.denoise"} for layer in THEORY},
    "diffusion": THEORY,
    "sample": frozenset({"diffusion"}),
    "nn": frozenset({"diffusion.condition"}),
    "codec": frozenset({"nn", "tiles"}),
    "tiles": frozenset(),
    "autoencoder_kl": frozenset({"codec"}),
    "masks": frozenset(),
    "resize": frozenset(),
    "guide": frozenset({"diffusion"}),
    "draw": frozenset({"sample", "guide"}),
    "long": frozenset({"draw"}),
    "edit": frozenset({"long", "codec", "masks", "resize"}),
    "objective": frozenset({"diffusion", "nn", "sample", "codec", "text"}),
    "recipe": LEAVES | {"edit", "objective", "autoencoder_kl"},
    "config": frozenset({"recipe"}),
    "run": frozenset({"config"}),
    "sketch": frozenset({"config"}),
    "estimate": frozenset({"sketch"}),
    "plan": frozenset({"estimate"}),
    "trained_classifier": frozenset({"run"}),
    "trained": frozenset({"trained_classifier"}),
    "pipeline": frozenset({"trained"}),
    "options": frozenset({"pipeline"}),
    "compare": frozenset({"pipeline"}),
    "prepare": frozenset({"run"}),
    "score_shapes": frozenset({"pipeline"}),
    "score_editing": frozenset({"score_shapes"}),
    "score_guidance": frozenset({"score_shapes"}),
    "score_upscaling": frozenset({"pipeline", "prepare"}),
    "score_network": frozenset({"pipeline"}),
    "score_codec": frozenset({"run"}),
    "datasets": frozenset({"prepare"}),
    "begin": frozenset({"prepare"}),
    "stages": frozenset({"begin", "pipeline", "datasets", "estimate"}),
    "dry_run": frozenset({"stages"}),
    "train": frozenset({"dry_run"}),
    "study": LEAVES,
    "vidiff": frozenset({"pipeline", "train"}),  # vidiff/__init__.py
    "tools": frozenset(
        {"vidiff", "options", "plan", "compare", "study"}
        | {"score_codec", "score_editing", "score_guidance", "score_network", "score_upscaling"}
    ),
}

LOADING = "tools/benchmark_load.py"  # times what others make of these libraries

# outside library -> the files that may import it
OWNERS = {
    "decord": {"vidiff/data/decode.py"},
    "fsspec": {"vidiff/data/remote.py"},
    "aiohttp": {"vidiff/data/remote.py"},
    "imageio": {"vidiff/data/video.py"},
    "av": {
        "vidiff/data/video.py",
        "vidiff/data/container.py",
        "vidiff/data/convert.py",
        "vidiff/data/pyav.py",
        "vidiff/data/timetable.py",
        LOADING,
    },
    "torchcodec": {"vidiff/data/torch_codec.py", LOADING},
    "PIL": {"vidiff/data/video.py", "vidiff/data/pictures.py"},
    "omegaconf": {"vidiff/config.py", "vidiff/recipe.py", "vidiff/data/options.py"},
    "diffusers": {"vidiff/autoencoder_kl.py"},
    "transformers": {"vidiff/text.py", "vidiff/evaluate/clip_score.py"},
    "tensorboard": {"vidiff/engine/sinks.py"},
    "wandb": {"vidiff/engine/sinks.py"},
    "xformers": {"vidiff/nn/attention.py"},
}

LONGEST = {"vidiff": 400, "tools": 150}  # lines a file
MAY_BE_LONGER = {"tools/benchmark.py", LOADING}  # its measurements are nobody's library


@dataclass(frozen=True)
class Import:
    """An import statement, and one of the modules that it names."""

    file: str  # relative to the root, with forward slashes
    line: int
    module: str  # of this tree as deep as a file or folder goes, as vidiff.data.video; else the whole dotted name

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def sources(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for top in LONGEST for path in (root / top).rglob("*.py"))


def imports(root: Path, file: str) -> Iterator[Import]:
    """Every import of a file. `from package import name` means the submodule `name` where there is one."""
    folder = file.split("/")[:-1]
    for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"), file)):
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
        place = root.joinpath(*parts[:end])
        if place.is_dir() or place.with_suffix(".py").is_file():
            return ".".join(parts[:end])
    return name


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def layer_of(module: str) -> str | None:
    """The row that a module of this tree belongs to: the longest that its name begins with, if any."""
    parts = module.removeprefix("vidiff.").split(".")
    rows = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((row for row in rows if row in MAY_IMPORT), None)


@cache
def reach(layer: str) -> frozenset[str]:
    """A layer and everything it may import, however far down."""
    found, todo = {layer}, [layer]
    while todo:
        new = MAY_IMPORT[todo.pop()] - found
        found |= new
        todo += new
    return frozenset(found)


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


def problems(root: Path) -> list[str]:
    """Everything below root that breaks a rule, a line each, beginning with `file:line: `."""
    found = []
    graph: dict[str, list[Import]] = {}
    for file in sources(root):
        top, layer = file.split("/")[0], layer_of(module_of(file))
        if layer is None:
            found.append(f"{file}:1: has no row in MAY_IMPORT: decide where it belongs")
            continue
        lines = len((root / file).read_text(encoding="utf-8").splitlines())
        if lines > LONGEST[top] and file not in MAY_BE_LONGER:
            found.append(f"{file}:{lines}: {lines} lines; a file of {top} has {LONGEST[top]} at most")
        for item in imports(root, file):
            if file not in (owners := OWNERS.get(item.top, {file})):
                found.append(f"{item}: only {', '.join(sorted(owners))} may import {item.top}")
            if item.top not in (*LONGEST, "tests"):
                continue
            graph.setdefault(module_of(file), []).append(item)
            if layer_of(item.module) not in reach(layer):
                found.append(f"{item}: {layer} may not import {item.module}")
            elif top == "tools" == item.top:
                found.append(f"{item}: a tool may not import another, {item.module}")
    if steps := ring(graph):
        found.append(f"{steps[-1]}: imports in a ring: {' -> '.join(step.module for step in steps)}")
    return found


def test_the_tree_keeps_every_rule() -> None:
    assert "vidiff/nn/unet.py" in sources(ROOT)
    assert not (found := problems(ROOT)), "\n" + "\n".join(found)


def test_the_table_means_what_it_says() -> None:
    assert reach("nn") == {"nn", "diffusion.condition", "diffusion.choice"}
    assert reach("engine") == LEAVES
    assert "sample" in reach("objective") and "objective" not in reach("sample")
    assert reach("tools") == set(MAY_IMPORT)
    knows_config = {layer for layer in MAY_IMPORT if "config" in reach(layer)}
    after = {"run", "trained_classifier", "trained", "pipeline", "options", "prepare", "datasets", "stages", "dry_run"}
    after |= {"sketch", "estimate", "plan"}
    scores = {"compare", "score_codec", "score_shapes", "score_editing", "score_guidance", "score_upscaling"}
    scores |= {"score_network"}
    assert knows_config == {"config", "vidiff", "tools", "begin", "train"} | after | scores


GOOD = {
    "vidiff/__init__.py": "from vidiff.pipeline import Pipeline",
    "vidiff/pipeline.py": "from vidiff.config import load",
    "vidiff/train.py": "from vidiff import codec, config",
    "vidiff/config.py": "import omegaconf\nfrom vidiff.engine import loop",
    "vidiff/codec.py": "from vidiff.nn.unet import UNet",
    "vidiff/nn/unet.py": "from ..diffusion.condition import Condition",
    "vidiff/sample/base.py": "from vidiff.diffusion.denoise import Denoiser",
    "vidiff/diffusion/condition.py": "",
    "vidiff/diffusion/denoise.py": "from . import condition",
    "vidiff/engine/loop.py": "import torch",
    "vidiff/data/decode.py": "import decord",
    "vidiff/data/video.py": "import imageio.v3",
    "vidiff/data/clips.py": "from vidiff.data.video import read",
    "tools/benchmark.py": "pass\n" * 200,
    "tools/generate.py": "import vidiff",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_good_tree_has_no_problems(tmp_path: Path) -> None:
    assert problems(write(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "nn/unet.py",
            "import torch\nfrom vidiff.sample.base import Sampler",
            "2: nn may not import vidiff.sample.base",
        ),
        (
            "nn/unet.py",
            "from vidiff.diffusion import denoise",
            "1: nn may not import vidiff.diffusion.denoise",
        ),
        ("nn/unet.py", "def run():\n    import vidiff.config", "2: nn may not import vidiff.config"),
        ("sample/base.py", "from ..nn.unet import UNet", "1: sample may not import vidiff.nn.unet"),
        ("engine/loop.py", "from vidiff import codec", "1: engine may not import vidiff.codec"),
        ("data/clips.py", "import vidiff", "1: data may not import vidiff"),
        ("train.py", "from tools.benchmark import main", "1: train may not import tools.benchmark"),
        ("data/clips.py", "import decord", "1: only vidiff/data/decode.py may import decord"),
        ("data/clips.py", "\nimport imageio.v3 as iio", "2: only vidiff/data/video.py may import imageio"),
        ("codec.py", "pass\n" * 401, "401: 401 lines; a file of vidiff has 400 at most"),
        ("extra.py", "", "1: has no row in MAY_IMPORT: decide where it belongs"),
        (
            "../tools/generate.py",
            "from tools import benchmark",
            "1: a tool may not import another, tools.benchmark",
        ),
        ("../tools/generate.py", "pass\n" * 151, "151: 151 lines; a file of tools has 150 at most"),
        (
            "data/video.py",
            "import av\nfrom vidiff.data import clips",
            "2: imports in a ring: vidiff.data.video -> vidiff.data.clips",
        ),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    name = f"vidiff/{file}".replace("vidiff/../", "")
    assert problems(write(tmp_path, {**GOOD, name: text})) == [f"{name}:{complaint}"]
