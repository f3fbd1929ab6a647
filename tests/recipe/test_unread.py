"""What nothing would read is refused before anything is made, with the objective that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.recipe.load import load, recipes
from vidiff.recipe.slots import ConfigError
from vidiff.recipe.unread import refuse_unread
from vidiff.train import main

CONSISTENCY = ["objective=consistency"]


@pytest.mark.parametrize("path", recipes().values(), ids=lambda path: path.stem)
def test_all_that_a_recipe_sets_is_read(path: Path) -> None:
    refuse_unread(load(path))


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "shapes_student",
            ["objective=reflow", "loss.order=2"],
            "loss.order is 2, which objective=progressive reads, but objective is reflow: .* set loss.order=1",
        ),
        (
            "shapes_student",
            ["objective=consistency", "loss.order=2"],
            "loss.order is 2, .* but objective is consistency",
        ),
        (
            "shapes_student",
            ["loss.segments=4"],
            "loss.segments is 4, which objective=consistency or consistency_training reads, but objective is "
            "distribution_matching: leave it out, or set loss.segments=1",
        ),
        ("shapes_student", ["objective=reflow", "loss.segments=2"], "loss.segments is 2"),
        ("shapes_guided", ["loss.steps=0"], "loss.steps is 0, .* but objective is guidance: .* set loss.steps=16"),
        ("shapes_guided", ["loss.steps=8"], "loss.steps is 8, .* but objective is guidance: .* set loss.steps=16"),
        ("shapes_guided", ["loss.pace=0.3"], "loss.pace is 0.3, which objective=distribution_matching reads"),
        ("shapes_student", ["loss.guidance=[1,1]", "loss.history=false"], "set loss.history=true"),
        *(
            (recipe, ["loss.rollout_time=0.2"], "loss.rollout_time is 0.2, but loss.rollout=0 .* or set loss.rollout")
            for recipe in ("shapes", "shapes_student")
        ),
    ],
)
def test_what_is_not_read_is_refused(recipe: str, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_unread(load(recipe, changes))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("shapes_student", [*CONSISTENCY, "loss.segments=4"]),
        (
            "shapes_student",
            ["objective=consistency_training", "loss.guidance=[1,1]", "loss.segments=4"],
        ),
        ("shapes_student", ["loss.history=false"]),
        ("small", ["loss.drop=0.3"]),
    ],
)
def test_what_is_read_is_not(recipe: str, changes: list[str]) -> None:
    refuse_unread(load(recipe, changes))


def test_the_bound_tells_what_it_leaves_unread() -> None:
    config = load("small", ["objective=bound", "loss.drop=0.3", "loss.tasks.ends=0.5"])
    with pytest.warns(UserWarning, match=r"reads no .*loss\.drop, .*loss\.tasks\.ends"):
        refuse_unread(config)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_command_refuses_before_anything_is_made(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shapes_student", "loss.segments=4", *more]) == 2
    assert "error: loss.segments is 4, which objective=consistency" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))
