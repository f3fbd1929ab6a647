"""How commands end: one line on stderr and an exit code, the same for all."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
import torch

from vidiff.cli.command import exit_code
from vidiff.engine.loop import Diverged

ROOT = Path(__file__).parents[2]
THIN = sorted(
    path.name for path in (ROOT / "tools").glob("*.py") if "import main" in path.read_text()
)  # the others have no module in vidiff/cli


def end(error: BaseException | None, *stopped: str) -> int:
    def work(options: argparse.Namespace) -> None:
        print(options.said)
        if error is not None:
            raise error

    return exit_code(work, argparse.Namespace(said="at work"), *stopped)


@pytest.mark.parametrize("kind", [ValueError, OSError, FileNotFoundError, Diverged, torch.OutOfMemoryError])
def test_what_a_user_can_mend_is_one_line_and_two(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert end(kind("x is 3; give 2")) == 2
    assert capsys.readouterr() == ("at work\n", "error: x is 3; give 2\n")


def test_ctrl_c_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(KeyboardInterrupt()) == end(KeyboardInterrupt(), "half of it is there") == 130
    assert capsys.readouterr().err == "\nstopped; nothing was written\n\nstopped; half of it is there\n"


def test_success_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(None) == 0
    assert capsys.readouterr() == ("at work\n", "")


@pytest.mark.parametrize("error", [RuntimeError(), KeyError(), AssertionError(), SystemExit(3)])
def test_our_own_mistakes_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        end(error)


@pytest.mark.parametrize("name", THIN)
def test_a_tool_calls_its_module_alone(name: str) -> None:
    tree = ast.parse((ROOT / "tools" / name).read_text())
    called = {"compare_extend.py": "compare"}.get(name, name.removesuffix(".py"))
    wanted = f"import sys\n\nfrom vidiff.cli.{called} import main\nif __name__ == '__main__':\n    sys.exit(main())"
    assert ast.get_docstring(tree)
    assert ast.dump(ast.Module(tree.body[1:], [])) == ast.dump(ast.parse(wanted))


def test_every_command_has_its_tool() -> None:
    modules = {path.stem for path in (ROOT / "vidiff" / "cli").glob("[a-z]*.py")} - {"command", "options", "train"}
    tools = {"compare" if name == "compare_extend.py" else name.removesuffix(".py") for name in THIN}
    assert tools == modules and len(THIN) == 12
