"""How commands end: one line on stderr and an exit code, the same for all."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vidiff.cli import COMMANDS, module_of
from vidiff.cli.command import exit_code
from vidiff.engine.loop import Diverged

ROOT = Path(__file__).parents[2]
THIN = sorted(
    path.name
    for path in (ROOT / "tools").glob("*.py")
    if re.search(r"^from vidiff\.\S+ import main$", path.read_text(), re.MULTILINE)
)  # the others have no module in vidiff/cli


def end(error: BaseException | None, *stopped: str) -> int:
    def work(options: argparse.Namespace) -> None:
        print(options.said)
        if error is not None:
            raise error

    return exit_code(work, argparse.Namespace(said="at work"), *stopped)


@pytest.mark.parametrize("kind", [ValueError, OverflowError, OSError, FileNotFoundError, Diverged])
def test_what_a_user_can_mend_is_one_line_and_two(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert end(kind("x is 3; give 2")) == 2
    assert capsys.readouterr() == ("at work\n", "error: x is 3; give 2\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes.\n"),
    ],
)
def test_too_little_memory_is_told(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(error) == 2
    assert capsys.readouterr().err.startswith("error: there is too little memory for this, ")


def test_an_error_of_several_lines_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(ValueError("x is 3\n    give 2\n")) == 2
    assert capsys.readouterr().err == "error: x is 3; give 2\n"


SAYS = r"""
import argparse, sys
from vidiff.cli.command import exit_code
sys.exit(exit_code(lambda options: print("\u00fc\udcff" * int(sys.argv[1])), argparse.Namespace()))
"""


def says(times: int, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", SAYS, str(times)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, **options)


def test_an_output_that_lacks_letters_gets_others() -> None:
    done = says(1, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xfc\\udcff\n", "")


def test_an_output_that_is_full_or_closed_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = says(1, stdout=full)
    reason = "No space left on device, on standard output or in a file; make room, and run the same command again"
    assert (done.returncode, done.stderr) == (2, f"error: {reason}\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = says(100_000, stdout=writer)
    os.close(writer)
    reason = "standard output was closed before all was said; what was written to files is there"
    assert (done.returncode, done.stderr) == (2, f"error: {reason}\n")


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
    wanted = (
        f"import sys\n\nfrom {module_of(called).__name__} import main\nif __name__ == '__main__':\n    sys.exit(main())"
    )
    assert ast.get_docstring(tree)
    assert ast.dump(ast.Module(tree.body[1:], [])) == ast.dump(ast.parse(wanted))


def test_what_was_a_tool_before_it_was_a_command_is_there() -> None:
    tools = {"compare" if name == "compare_extend.py" else name.removesuffix(".py") for name in THIN}
    assert tools < COMMANDS.keys() and len(THIN) == 12
