"""Commands and code that README.md and docs/ show, and what is checked of those commands that are not run."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from workplace import ROOT

from vidiff.cli import module_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
STARTS = (
    "python",
    "vidiff",
    "torchrun",
    "make",
    "pip",
    "tensorboard",
    "apt-get",
)  # of commands in a sentence


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


def commands(page: str) -> list[str]:
    """The command lines of a page, each as `shlex.join` writes it, without comments."""
    lines = []
    for block in blocks(page, "sh"):
        if not block.startswith("#!"):
            lines += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
    lines += re.findall(rf"`((?:{'|'.join(STARTS)})\s[^`]+)`", prose)
    words = (shlex.split(part, comments=True) for line in lines for part in line.split(" && "))
    return [shlex.join(some) for some in words if some]


# What is checked of a command that is not run


def installs(words: list[str]) -> None:
    """pip's arguments: extras and files are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[:2] == ["pip", "install"]
    for before, word in pairwise(words):
        extra = re.fullmatch(r"(?:\.|vidiff)\[(.+)\]", word)
        if extra:
            assert set(extra[1].split(",")) <= set(project["optional-dependencies"]), word
        elif before == "-c":
            assert (ROOT / word).is_file()


def recipe(words: list[str]) -> list[str]:
    """The commands of ours that make would run."""
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = (shlex.split(line) for line in done.stdout.replace("\\\n", " ").splitlines() if line.startswith(".venv"))
    return [shlex.join(["python", *rest]) for _, *rest in lines if rest[:2] != ["-m", "pip"]]


def parses(words: list[str]) -> None:
    """A tool's arguments are ones that it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        runpy.run_path(str(ROOT / words[1]))["main"].__globals__["parse"](words[2:])


def architecture(words: list[str]) -> None:
    """The tool's picture is the one that the page shows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.svg"
        subprocess.run([sys.executable, str(ROOT / words[1]), "--out", str(out)], check=True)
        assert out.read_bytes() == (ROOT / "docs" / "architecture.svg").read_bytes()


def understood(words: list[str]) -> None:
    """The command's arguments are ones that it has: `vidiff NAME ...` or `python -m vidiff.NAME ...`."""
    name, given = (words[1], words[2:]) if words[0] == "vidiff" else (words[2].removeprefix("vidiff."), words[3:])
    module_of(name).parse(given)


def nothing(words: list[str]) -> None:
    pass
