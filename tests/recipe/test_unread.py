"""What nothing would read is refused before anything is made, with the objective that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vidiff.plan.sketch import sketch
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
        *(
            (recipe, [*changes, f"train.keep_best={name}", "train.validate_every=10"], f"train.keep_best is {name}, ")
            for recipe, changes, name in (
                ("shapes", [], "val/los"),
                ("shapes_vae", [], "val/psnr"),  # of which the most is best
                ("shapes_vae", [], "val/flicker"),  # which is not reckoned
                ("shapes_classifier", [], "val/accuracy"),
                ("shapes_student", ["objective=reflow"], "val/mismatch"),
            )
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
        *(
            (recipe, [*changes, f"train.keep_best={name}", "train.validate_every=10"])
            for recipe, changes, name in (
                ("shapes", [], "val/loss"),
                ("shapes_vae", ["loss.flicker=1"], "val/flicker"),
                ("shapes_student", [], "val/mismatch"),
                ("shapes_student", CONSISTENCY, "val/gap"),
            )
        ),
    ],
)
def test_what_is_read_is_not(recipe: str, changes: list[str]) -> None:
    refuse_unread(load(recipe, changes))


def test_the_bound_tells_what_it_leaves_unread() -> None:
    config = load("small", ["objective=bound", "loss.drop=0.3", "loss.tasks.ends=0.5"])
    with pytest.warns(UserWarning, match=r"reads no .*loss\.drop, .*loss\.tasks\.ends"):
        refuse_unread(config)


@pytest.mark.parametrize("recipe", ["shapes", "shapes_vae", "shapes_classifier"])
def test_scores_are_what_a_validation_gives(recipe: str) -> None:
    """Each is a number of the objective, which is what held-out clips are scored by."""
    changes = ["loss.flicker=1", "loss.detail=1"] * (recipe == "shapes_vae")
    of = sketch(load(recipes()[recipe], changes), recipes()[recipe].parent, look=False)
    with torch.no_grad():
        given = of.build().eval()(of.batch(1))
    assert {*of.config.scores} <= {f"val/{name}" for name in given}
    assert ("val/detail" in of.config.scores) == (recipe == "shapes_vae")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shapes_student", "loss.segments=4"], "error: loss.segments is 4, which objective=consistency"),
        (["shapes", "train.validate_every=9", "train.keep_best=val/los"], "here of val/loss: name one of these"),
        (["shapes", "train.ema=1.5"], "train.ema is 1.5; the decay must be in [0, 1)"),
        (["shapes", "train.ema_warmup=0"], "train.ema_warmup is 0; give 1 (none) or more"),
        (["shapes", "train.optim.eps=-1"], "optim.eps is -1.0; give a number above 0, such as 1e-8"),
    ],
)
def test_the_command_refuses_before_anything_is_made(
    words: list[str],
    said: str,
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))
