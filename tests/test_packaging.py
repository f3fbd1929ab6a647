"""What pyproject.toml promises is what the code needs: every library that vidiff imports, and no other."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest
from trainings import DIFFUSION, VAE
from videos import smooth

import vidiff
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video

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
    "trackio": "trackio",
    "torchcodec": "torchcodec",
    "diffusers": "diffusers",
    "matplotlib": "plot",
    "argcomplete": "completion",
    "huggingface_hub": "hub",
    "gradio": "app",
    "gymnasium": "games",
    "triton": "triton",
    **dict.fromkeys(("fsspec", "aiohttp"), "remote"),
    **dict.fromkeys(("starlette", "uvicorn", "websockets"), "play"),
    **dict.fromkeys(("flask", "krippendorff", "waitress", "werkzeug"), "study"),
}
# name of an import -> name of its package, where that is another
DISTRIBUTION = {
    "PIL": "pillow",
    "decord": "decord2",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "huggingface_hub": "huggingface-hub",
}


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
    declared -= {"imageio-ffmpeg"}  # which imageio[ffmpeg] brings, but of any version
    assert {DISTRIBUTION.get(name, name) for name in outside} == declared


def used_by_commands() -> list[str]:
    """The modules that commands import, most of them as they begin to work; but for the study, which has an extra."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "vidiff" / "cli").rglob("*.py"))]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    names = {node.module for node in nodes if node.module and node.module.startswith("vidiff.")}
    assert {"vidiff.pipeline.pipeline", "vidiff.recipe.load", "vidiff.training"} <= names
    return sorted(name for name in names if not name.startswith("vidiff.study."))


@pytest.mark.parametrize(("name", "extra"), EXTRAS.items())
def test_what_an_extra_brings_is_not_needed_to_import_vidiff(name: str, extra: str) -> None:
    brought = {re.match(r"[\w-]+", requirement).group() for requirement in PROJECT["optional-dependencies"][extra]}
    assert DISTRIBUTION.get(name, name) in brought
    code = f"import sys; sys.modules['{name}'] = None; import vidiff.train, {', '.join(used_by_commands())}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # None: cannot be imported


PIP = ["-m", "pip", "--disable-pip-version-check"]


def run(*words: str | Path, path: Path, cwd: Path) -> str:
    """What a command prints, of the vidiff that lies in `path`."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds, and nothing else: what it needs is in this environment already."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, *PIP]
    alone = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *alone, "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_a_wheel_has_recipes_pages_types_and_a_command(installed: Path) -> None:
    assert {path.name for path in (installed / "vidiff" / "configs").iterdir()} == {
        path.name for path in (ROOT / "configs").iterdir()
    }
    tracked = subprocess.run(["git", "ls-files", "vidiff"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in tracked.splitlines() if not (installed / name).is_file()] == []
    assert (installed / "vidiff" / "py.typed").is_file()
    (facts,) = installed.glob("vidiff-*.dist-info")
    assert "vidiff = vidiff.cli:main" in (facts / "entry_points.txt").read_text()
    assert f"Version: {vidiff.__version__}\n" in (facts / "METADATA").read_text()
    assert "License-Expression: Apache-2.0\n" in (facts / "METADATA").read_text()


def test_a_wheel_trains_and_draws_away_from_its_checkout(installed: Path, tmp_path: Path) -> None:
    there = run("-c", "import vidiff; print(vidiff.__file__)", path=installed, cwd=tmp_path)
    assert Path(there.strip()) == installed / "vidiff" / "__init__.py"
    find = "from vidiff.recipe.load import load; print(load('ucf').name, load('mine.yaml').name)"
    for number in range(4):
        write_video(tmp_path / "data" / f"{number}.mp4", smooth(8, 32, 32))
    (tmp_path / "vae.yaml").write_text(VAE)
    (tmp_path / "ucf.yaml").mkdir()  # a folder of this name is not what is meant
    (tmp_path / "mine.yaml").write_text("base: ucf.yaml\nname: mine\n")
    assert run("-c", find, path=installed, cwd=tmp_path).split() == ["ucf", "mine"]
    (tmp_path / "mine.yaml").write_text(DIFFUSION)
    command = partial(run, "-m", "vidiff", path=installed, cwd=tmp_path)
    command("train", "mine.yaml")
    command("generate", "--frames", "4", "--out", "drawn.mp4")
    command("extend", "drawn.mp4", "--frames", "6", "--out", "longer.mp4")
    assert [read_video(tmp_path / name).shape[1] for name in ("drawn.mp4", "longer.mp4")] == [4, 6]


def test_the_source_archive_makes_the_same_wheel_and_has_tests(installed: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--directory"]
    subprocess.run([*build, tmp_path, "--target", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt", "tests", "tools"} <= {
        path.name for path in source.iterdir()
    }
    subprocess.run([*build, tmp_path / "again", "--target", "wheel"], cwd=source, check=True, capture_output=True)
    (again,), (wheel,) = (tmp_path / "again").glob("*.whl"), installed.parent.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_a_stranger_s_first_ten_minutes(installed: Path, tmp_path: Path) -> None:
    """The wheel in an environment of its own, with what pip brings along and nothing else."""
    venv.create(tmp_path / "env", with_pip=True)
    python, command = (tmp_path / "env" / "bin" / name for name in ("python", "vidiff"))
    (wheel,) = installed.parent.glob("*.whl")
    subprocess.run([python, *PIP, "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], check=True)
    for number in range(3):
        write_video(tmp_path / "clips" / f"{number}.mp4", smooth(16, 32, 32))
    few = "batch=2 unet.width=32 data.workers=0 sampling.steps=2 train.steps=2 train.validate_every=2"
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for line in (
        "--version",
        "new mine --data clips",
        f"train mine {few}",
        "generate --frames 16 --out drawn.mp4",
        "extend drawn.mp4 --frames 24 --out longer.mp4",
        "doctor clips",
        "edit loop drawn.mp4 --out loop.gif",
        "encode mine",
        "plan ucf --gpu 4090",
        "demo --small",
        "evaluate --run runs/shapes_small",
    ):
        done = subprocess.run([command, *line.split()], cwd=tmp_path, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, f"vidiff {line}\n{done.stdout}{done.stderr}"
    assert [read_video(tmp_path / name).shape[1] for name in ("drawn.mp4", "longer.mp4")] == [16, 24]


def test_the_version_has_one_value() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", vidiff.__version__)


def test_gitignore_leaves_out_what_the_commands_make_and_no_source(tmp_path: Path) -> None:
    """Both `data/`, which the commands make, and the sources' folders of that name."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    asked = ["data/shapes/0000.mp4", "runs/shapes/report.html", "vidiff/video/reader.py", "tests/video/test_video.py"]
    command = ["git", "check-ignore", *asked]
    ignored = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert ignored.splitlines() == asked[:2]
