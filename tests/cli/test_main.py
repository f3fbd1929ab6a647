"""The command `vidiff`: it finds the one that is meant, says what there is, and loads no other."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import vidiff
from vidiff import sample
from vidiff.cli import COMMANDS, GROUPS, main, module_of
from vidiff.cli.make import doctor
from vidiff.cli.make.doctor import LAYOUTS
from vidiff.cli.make.plan import GPU_NAMES
from vidiff.cli.measure.compare import PROTOCOL
from vidiff.cli.options import GRIDS, SAMPLERS, STRATEGIES
from vidiff.data import find, root
from vidiff.diffusion import grid
from vidiff.draw import long
from vidiff.evaluate.long import LongProtocol
from vidiff.plan import plan

CLI = Path(__file__).parents[2] / "vidiff" / "cli"


def test_each_command_is_a_module_and_each_module_a_command() -> None:
    there = {
        path.parent.name: {file.stem for file in path.parent.glob("[a-z]*.py")} for path in CLI.glob("*/__init__.py")
    }
    assert there == {group: set(commands) for group, (_, commands) in GROUPS.items()}
    assert {path.stem for path in CLI.glob("*.py")} == {"__init__", "command", "complete", "options"}


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["help"]) == main(["-h"]) == 0
    said, nothing = capsys.readouterr()
    assert not nothing
    assert all(f"\n  {name} " in said and summary in said for name, summary in COMMANDS.items())
    assert all(len(line) <= 100 for line in said.splitlines())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vidiff {vidiff.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: which command? Choose demo, new, record,"),
        (["genrate"], "error: no such command: genrate; did you mean generate? See vidiff --help"),
        (["x" * 99], f"error: no such command: {'x' * 99}; choose demo, new, record,"),
        (["--run", "x"], "error: no such command: --run; choose demo, new, record,"),
        ([""], "error: which command? Choose demo, new, record,"),
    ],
)
def test_a_wrong_command_is_one_line_and_two(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith(said) and error.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_goes_by_its_name(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vidiff", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith(f"usage: vidiff {name} ")
    with pytest.raises(SystemExit, match="2"):
        main([name, "--no-such-option"])
    assert f"vidiff {name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    words = shlex.split(capsys.readouterr().out.rpartition("\nexample: ")[2])
    assert words[:2] == ["vidiff", name] and len(words) > 2
    module_of(name).parse(words[2:])


LIGHT = """
import sys

before = set(sys.modules)  # what the environment loads by itself
from vidiff.cli import main

try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
print(*{name.split(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names, file=sys.stderr)
"""


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), ("edit", "inpaint")], ids=" ".join)
def test_help_loads_nothing_of_others(words: tuple[str, ...]) -> None:
    """So that it is there at once: torch alone takes a second, and each of the others its part of one."""
    done = subprocess.run([sys.executable, "-c", LIGHT, *words, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")
    assert done.stderr.split() == ["vidiff"]


def offered(line: str, folder: Path) -> list[str]:
    """What a shell offers after a line, by argcomplete."""
    code = "import sys; from vidiff.cli import main; main()"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    answer = folder / "answer"
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, check=True)
    return [word.strip() for word in answer.read_text().split("\n")]


def test_a_shell_completes_commands_options_and_names(tmp_path: Path) -> None:
    assert {*COMMANDS} <= set(offered("vidiff ", tmp_path))
    assert offered("vidiff gen", tmp_path) == ["generate"]
    assert offered("vidiff generate --gu", tmp_path) == ["--guidance"]
    assert offered("vidiff plan ucf --gpu h", tmp_path) == ["h200", "h100"]
    assert offered("vidiff edit inp", tmp_path) == ["inpaint"]
    (tmp_path / "holiday.mp4").touch()
    assert offered("vidiff extend hol", tmp_path) == ["holiday.mp4"]


def test_what_help_names_is_what_there_is() -> None:
    assert tuple(sample.SAMPLERS) == SAMPLERS and tuple(long.STRATEGIES) == STRATEGIES
    assert tuple(grid.KINDS) == GRIDS and tuple(plan.GPUS) == GPU_NAMES
    assert LAYOUTS == find.LAYOUTS and doctor.parse(["data"]).remote_cache_gb == root.GIGABYTES
    assert {name: usual for name, (usual, _) in PROTOCOL.items()} == asdict(LongProtocol())


def test_the_library_has_what_it_names() -> None:
    tree = ast.parse(Path(vidiff.__file__).read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(vidiff.__all__) == typed - {"import_module", "TYPE_CHECKING", "Any"} == set(vidiff._MODULES)
    for name in vidiff.__all__:
        assert getattr(vidiff, name).__name__ == name and name in dir(vidiff)
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        vidiff.Pipelin  # noqa: B018
