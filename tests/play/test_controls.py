"""Keys become actions: by telling names, by chords, by numbers where names tell nothing, and by sliders."""

from __future__ import annotations

import pytest

from vidiff.data.actions.space import Action, ActionSpace
from vidiff.play.controls import Controls


def controls(*dimensions: Action) -> Controls:
    return Controls(ActionSpace(dimensions))


def named(*names: str) -> Controls:
    return controls(Action("action", "discrete", len(names), names))


BREAKOUT = named("NOOP", "FIRE", "RIGHT", "LEFT")
FULL = named("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "UPRIGHTFIRE")
DOOM = named("NOOP", "ATTACK", "TURN_LEFT", "TURN_RIGHT", "MOVE_LEFT", "MOVE_FORWARD+ATTACK")


@pytest.mark.parametrize(
    ("of", "pressed", "number"),
    [
        (BREAKOUT, [], 0),
        (BREAKOUT, ["ArrowLeft"], 3),
        (BREAKOUT, ["KeyA"], 3),
        (BREAKOUT, ["KeyD"], 2),
        (BREAKOUT, ["Space"], 1),
        (BREAKOUT, ["ArrowLeft", "ArrowRight"], 2),  # the one begun last
        (BREAKOUT, ["ArrowRight", "ArrowLeft"], 3),
        (BREAKOUT, ["KeyQ", "Tab"], 0),
        (BREAKOUT, ["ArrowLeft", "0:1"], 1),  # a button
        (BREAKOUT, ["0:9", "ArrowLeft"], 3),
        (FULL, ["ArrowUp"], 2),
        (FULL, ["ArrowUp", "ArrowRight"], 6),
        (FULL, ["Space", "KeyW", "KeyD"], 8),
        (FULL, ["ArrowDown", "Space"], 1),  # there is no such chord
        (DOOM, ["ArrowLeft"], 2),
        (DOOM, ["KeyA"], 4),  # where arrows turn, letters step aside
        (DOOM, ["ArrowUp"], 0),
        (DOOM, ["ArrowUp", "Space"], 5),
        (named("stay", "left", "right"), ["ArrowRight"], 2),
        (named("up", "stay"), [], 1),
        (named("NOOP", "SING", "DANCE"), ["Digit2"], 2),
        (named("NOOP", "LEFT", "DANCE"), ["Digit1"], 2),
        (controls(Action("action", "discrete", 3)), ["Digit2"], 1),
    ],
)
def test_a_name_says_its_key(of: Controls, pressed: list[str], number: int) -> None:
    assert of.row(pressed) == [number]


def test_several_dimensions_and_sliders() -> None:
    of = controls(
        Action("steer", "continuous", low=-1, high=1),
        Action("gas", "continuous", low=0, high=4),
        Action("FIRE", "discrete", 2),
        Action("horn", "discrete", 2),
    )
    assert of.row([]) == [0, 0, 0, 0]
    assert of.row(["ArrowLeft", "ArrowUp", "Space", "Digit1"]) == [-1, 4, 1, 1]
    assert of.row(["ArrowLeft", "3:1"], [0.25, None, None, None]) == [0.25, 0, 0, 1]
    assert {"ArrowLeft", "KeyW", "Space", "Digit1"} <= set(of.keys())
    with pytest.raises(ValueError, match="gas is 5; it takes numbers from 0 to 4"):
        of.row([], [None, 5])
    assert of.legend()[1] == {
        "name": "gas",
        "kind": "continuous",
        "numbers": [{"name": "0", "keys": "↓"}, {"name": "4", "keys": "↑"}],
        "low": 0,
        "high": 4,
        "rest": 0,
    }


def test_the_legend_names_each_action_and_its_keys() -> None:
    assert [(one["name"], one["keys"]) for one in BREAKOUT.legend()[0]["numbers"]] == [
        ("NOOP", ""),
        ("FIRE", "space"),
        ("RIGHT", "→"),
        ("LEFT", "←"),
    ]
    assert [one["keys"] for one in FULL.legend()[0]["numbers"]][-1] == "↑ → space"
    many = controls(Action("action", "discrete", 18)).legend()[0]["numbers"]
    assert [one["keys"] for one in many] == [*"1234567890", *[""] * 8]
