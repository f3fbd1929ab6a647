"""The command `vidiff`: it finds the one that is meant, says what there is, and loads no other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vidiff
from vidiff.cli import COMMANDS, main

CLI = Path(__file__).parents[2] / "vidiff" / "cli"


def test_each_command_is_a_module_and_each_module_a_command() -> None:
    assert set(COMMANDS) == {path.stem for path in CLI.glob("[a-z]*.py")} - {"command", "options"}


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
        ([], "error: which command? Choose train, generate,"),
        (["genrate"], "error: no such command: genrate; did you mean generate? See vidiff --help"),
        (["x" * 99], f"error: no such command: {'x' * 99}; choose train, generate,"),
        (["--run", "x"], "error: no such command: --run; choose train, generate,"),
        ([""], "error: which command? Choose train, generate,"),
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


def test_help_and_the_library_load_no_torch() -> None:
    """So that both are there at once: torch alone takes a second."""
    code = "import sys, vidiff.cli; vidiff.cli.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_library_has_what_it_names() -> None:
    tree = ast.parse(Path(vidiff.__file__).read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(vidiff.__all__) == typed - {"import_module", "TYPE_CHECKING", "Any"} == set(vidiff._MODULES)
    for name in vidiff.__all__:
        assert getattr(vidiff, name).__name__ == name and name in dir(vidiff)
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        vidiff.Pipelin  # noqa: B018
