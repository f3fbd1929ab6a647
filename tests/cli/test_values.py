"""What the values of options are: numbers within bounds, and paths in what is printed to be run next."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from careless import parsers

from vidiff.cli import COMMANDS, options
from vidiff.cli.make import new
from vidiff.cli.options import Whole
from vidiff.cli.use import play
from vidiff.cli.use.extend import rows_shown
from vidiff.pipeline import drawing
from vidiff.plan import draft, footage, shape
from vidiff.play import session
from vidiff.video import writer


def test_every_whole_number_has_bounds() -> None:
    asked = [(command, action) for command in COMMANDS for parser in parsers(command) for action in parser._actions]
    assert [(command, action.dest) for command, action in asked if action.type is int] == []
    seeds = {command: action.type for command, action in asked if action.dest == "seed"}
    assert len(seeds) == 10 and all(isinstance(kind, Whole) and kind.least == 0 for kind in seeds.values())
    assert {command for command, kind in seeds.items() if kind is not options.seed} == {"play"}
    torch.Generator().manual_seed(options.seed.most + 2**31)  # as batches count on from it


def test_bounds_are_those_of_what_is_asked() -> None:
    assert (options.SLOWEST, options.FASTEST) == (writer.SLOWEST, writer.FASTEST)
    assert options.steps.most == drawing.MOST_STEPS and play.MOST_SEED + 1 == session.MOST_SEED


@pytest.mark.parametrize("text", ["0", "6", "-3", "9" * 5000])
def test_a_number_out_of_bounds_is_told_in_short(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)) as caught:
        Whole(1, 5)(text)
    assert len(text) > 4000 or str(caught.value) == f"{text} is out of range; give 1 to 5"
    with pytest.raises(argparse.ArgumentTypeError, match=r"^9{37}\.\.\. is out of range; give 1 to 5$"):
        Whole(1, 5)("9" * 100)
    assert [Whole(1, 5)(text) for text in ("1", "5")] == [1, 5]


def test_rows_of_actions_are_of_the_new_frames_or_of_all() -> None:
    rows, file = np.arange(9.0)[:, None], Path("keys.npy")
    assert rows_shown(rows, 9, 5, 2, file)[:, 0].tolist() == [3, 4, 5, 6, 7, 8], "what led to given frames is told too"
    assert rows_shown(rows[5:], 9, 5, 2, file)[:, 0].tolist() == [5, 6, 7, 8]
    said = (
        "keys.npy has 6 rows, but of the 9 frames of the result 5 are given and 4 are new: give 4 rows, one for each "
        "new frame, or 9, one for each of the result"
    )
    with pytest.raises(ValueError) as caught:
        rows_shown(rows[:6], 9, 5, 2, file)
    assert str(caught.value) == said


def test_what_is_advised_is_there_where_vidiff_is_installed() -> None:
    """A wheel has neither tools/ nor a folder to install from; what a tool writes into the docs may name it."""
    package = Path(options.__file__).parents[1]
    code = {path: path.read_text().splitlines() for path in package.rglob("*.py") if path.name != "sensitivity.py"}
    said = [(path.name, line) for path, lines in code.items() for line in lines if not line.lstrip().startswith("#")]
    wrong = [one for one in said if any(word in one[1].partition("  # ")[0] for word in ("tools/", "install -e"))]
    assert len(said) > 1000 and wrong == []


def test_a_command_to_run_next_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = SimpleNamespace(seconds=1.0, steps=10)
    made = SimpleNamespace(model="", codec=None, plans=[plan], shape=SimpleNamespace(frames=4, size=16, rate=8.0))
    monkeypatch.setattr(footage, "look_at", lambda data: SimpleNamespace(lines=lambda: [data]))
    monkeypatch.setattr(shape, "this_machine", lambda: "this machine")
    monkeypatch.setattr(draft, "draft", lambda *_: made)
    new.new(new.parse(["my clips", "--data", "data", "--size", "32"]))
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last) == ["next:", "vidiff", "train", "my clips"] and Path("my clips.yaml").exists()
