"""Which keys do what: the actions of a model by their names, where these are telling, and else by numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidiff.data.actions.space import Action, ActionSpace

# Keys by their place on a keyboard, as browsers call them (KeyboardEvent.code); the first is the one that is told of.
LEFT, RIGHT = ("ArrowLeft", "KeyA"), ("ArrowRight", "KeyD")
UP, DOWN = ("ArrowUp", "KeyW"), ("ArrowDown", "KeyS")
WORDS: dict[str, tuple[str, ...]] = {  # what is done -> the keys that do it
    "LEFT": LEFT,
    "RIGHT": RIGHT,
    "UP": UP,
    "DOWN": DOWN,
    **dict.fromkeys(("FORWARD", "MOVE_FORWARD", "ACCELERATE", "GAS"), UP),
    **dict.fromkeys(("BACKWARD", "MOVE_BACKWARD", "BRAKE"), DOWN),
    **dict.fromkeys(("TURN_LEFT", "ROTATE_LEFT", "STEER_LEFT"), LEFT),
    **dict.fromkeys(("TURN_RIGHT", "ROTATE_RIGHT", "STEER_RIGHT"), RIGHT),
    **dict.fromkeys(("MOVE_LEFT", "STRAFE_LEFT"), LEFT),
    **dict.fromkeys(("MOVE_RIGHT", "STRAFE_RIGHT"), RIGHT),
    **dict.fromkeys(("FIRE", "ATTACK", "SHOOT", "JUMP"), ("Space",)),
    **dict.fromkeys(("USE", "OPEN"), ("KeyE",)),
    "RELOAD": ("KeyR",),
    **dict.fromkeys(("SPEED", "RUN", "SPRINT"), ("ShiftLeft",)),
    **dict.fromkeys(("CROUCH", "SNEAK"), ("KeyC",)),
}
ASIDE = {  # where one can turn and step aside as well: arrows turn, letters step
    **{word: keys[:1] for word, keys in WORDS.items() if word.startswith(("TURN", "ROTATE", "STEER"))},
    **{word: keys[1:] for word, keys in WORDS.items() if word.startswith(("MOVE_L", "MOVE_R", "STRAFE"))},
}
REST = ("NOOP", "NO_OP", "NONE", "NOTHING", "STAY", "IDLE", "WAIT")
JOINED = re.compile("(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?")  # of Atari games, such as UPRIGHTFIRE
SIGNS = {"ArrowLeft": "←", "ArrowRight": "→", "ArrowUp": "↑", "ArrowDown": "↓", "Space": "space", "ShiftLeft": "shift"}

Chord = tuple[tuple[str, ...], ...]
"""What is pressed at once for an action: of each part, the keys of which one is."""


@dataclass(frozen=True)
class Control:
    """How one dimension of an action is steered.

    Args:
        action: the dimension.
        rest: what is done where nothing is pressed.
        chords: of a discrete one, what is pressed for each number; of a continuous one, for its low and its high end;
            empty where no key does it, but the button alone.
    """

    action: Action
    rest: float
    chords: tuple[Chord, ...]

    def value(self, pressed: Sequence[str]) -> float:
        """What keys that are pressed do: the action of which most parts are, and of equals the one begun last."""
        place = {key: turn for turn, key in enumerate(pressed)}
        best, number = (0, -1), -1
        for at, chord in enumerate(self.chords):
            turns = [max((place.get(key, -1) for key in keys), default=-1) for keys in chord]
            if turns and min(turns) >= 0 and (len(turns), max(turns)) > best:
                best, number = (len(turns), max(turns)), at
        if number < 0:
            return self.rest
        return float(number) if self.action.kind == "discrete" else (self.action.low, self.action.high)[number]


@dataclass(frozen=True)
class Controls:
    """How the dimensions of an action are steered by keys, buttons and sliders.

    Args:
        space: the dimensions.
    """

    space: ActionSpace
    each: tuple[Control, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = {part for one in self.space.dimensions for name in (one.name, *one.names) for part in _parts(name)}
        both = {ASIDE[part][0].startswith("Arrow") for part in named & ASIDE.keys()}
        words = WORDS | ASIDE if len(both) > 1 else WORDS
        digits = iter(f"Digit{number % 10}" for number in range(1, 11))
        sides = iter(((LEFT, RIGHT), (DOWN, UP)))
        made = []
        for one in self.space.dimensions:
            if one.kind == "continuous":
                ends = next(sides, None)
                chords: list[Chord] = [() if ends is None else (ends[at],) for at in (0, 1)]
                made.append(Control(one, min(max(0.0, one.low), one.high), tuple(chords)))
                continue
            names = [name.upper().replace(" ", "_").replace("-", "_") for name in one.names]
            if not names and one.count == 2 and len(self.space.dimensions) > 1:
                names = ["NOOP", one.name]  # a button of its own, up or down
            rest = next((at for at, name in enumerate(names) if name in REST), 0)
            chords = [tuple(words[part] for part in _parts(name)) for name in names] or [()] * one.count
            for at, chord in enumerate(chords):
                if not chord and not (names and at == rest) and (digit := next(digits, None)):
                    chords[at] = ((digit,),)
            made.append(Control(one, float(rest), tuple(chords)))
        object.__setattr__(self, "each", tuple(made))

    def row(self, pressed: Sequence[str], sliders: Sequence[float | None] = ()) -> list[float]:
        """The action `(a,)` that is asked for.

        Args:
            pressed: keys that are held down, or were since the last frame, in the order in which that began; the button
                of dimension 1 and number 2 is "1:2".
            sliders: where the slider of each dimension stands; None where it is not touched, and keys count.

        Raises:
            ValueError: a slider beyond its ends.
        """
        row = []
        for place, control in enumerate(self.each):
            one, slid = control.action, sliders[place] if place < len(sliders) else None
            if slid is not None and one.kind == "continuous":
                if not one.low <= slid <= one.high:
                    raise ValueError(f"{one.name} is {slid:g}; it takes {one.range}")
                row.append(float(slid))
                continue
            buttons = [key.partition(":")[2] for key in pressed if key.startswith(f"{place}:")]
            if one.kind == "discrete" and buttons and buttons[-1].isdecimal() and int(buttons[-1]) < one.count:
                row.append(float(buttons[-1]))
            else:
                row.append(control.value(pressed))
        return row

    def legend(self) -> list[dict[str, Any]]:
        """What the page shows of each dimension: its name, range and rest, and name and keys of each number."""
        told = []
        for control in self.each:
            one = control.action
            ends = [f"{end:g}" for end in (one.low, one.high)]
            names = [*one.names] or [str(number) for number in range(one.count)]
            names = names if one.kind == "discrete" else ends
            keys = [" ".join(_sign(keys[0]) for keys in chord) for chord in control.chords]
            pairs = [{"name": name, "keys": key} for name, key in zip(names, keys, strict=True)]
            bounds = {"low": one.low, "high": one.high, "rest": control.rest}
            told.append({"name": one.name, "kind": one.kind, "numbers": pairs, **bounds})
        return told

    def keys(self) -> list[str]:
        """All keys that do something."""
        return sorted({key for control in self.each for chord in control.chords for keys in chord for key in keys})


def _parts(name: str, known: Collection[str] = WORDS) -> list[str]:
    """The words of `WORDS` that a name is made of; none where it has any other."""
    name = name.upper().replace(" ", "_").replace("-", "_")
    if name in known:
        return [name]
    parts = name.split("+")
    if len(parts) > 1:
        return parts if all(part in known for part in parts) else []
    found = JOINED.fullmatch(name)
    return [part for part in found.groups() if part] if found else []


def _sign(key: str) -> str:
    return SIGNS.get(key, key.removeprefix("Key").removeprefix("Digit").lower())
