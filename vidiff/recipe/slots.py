"""Slots: what a config writes as `{name: ..., option: ...}`, looked up in a table of alternatives."""

from __future__ import annotations

from typing import Any

import yaml

from vidiff.diffusion.choice import choose
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.schedule import SCHEDULES, Schedule
from vidiff.draw.long import STRATEGIES
from vidiff.draw.strategy import Strategy
from vidiff.recipe.values import as_number, check_value, hints_of, named, needed_by, usual_of
from vidiff.sample import SAMPLERS, Sampler
from vidiff.store.plain import check_yaml
from vidiff.text import TEXTS, TextEncoder


class ConfigError(ValueError):
    """A config that cannot be used; the message says which value, what is expected, and where it stands."""


def build_part(key: str, choices: Any, slot: dict[str, Any]) -> Any:
    """Build what a slot `{name: ..., option: ...}` describes.

    Raises:
        ConfigError: an unknown name, an option that what is named does not take or lacks, or a value that does not do;
            the message has the key of the option.
    """
    options = dict(slot)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"{key} needs a name; choose {', '.join(choices)}"
            + ("" if name is None else f", in place of {key}.name={name!r}")
        )
    choice = choose(key, name, choices)
    hints = hints_of(choice)
    if unknown := [option for option in options if option not in hints]:
        takes = f"it takes {', '.join(hints)}" if hints else "it takes none"
        raise ConfigError(f"{key}: {name} does not take these options ({', '.join(map(str, unknown))}): {takes}")
    if lacking := [option for option in needed_by(choice) if option not in options]:
        raise ConfigError(f"{key}.{lacking[0]} is not set, but {key}.name={name} needs it: add {key}.{lacking[0]}=...")
    try:
        for option, value in options.items():
            check_value(f"{key}.{option}", value, hints[option], usual_of(choice)[option])
            options[option] = as_number(value, hints[option])
        return choice(**options)
    except ValueError as error:
        raise ConfigError(named(str(error), key, hints)) from None


def build_schedule(slot: dict[str, Any]) -> Schedule:
    return build_part("schedule", SCHEDULES, slot)


def build_sampler(slot: str | dict[str, Any]) -> Sampler:
    """A sampler from its slot, its name alone, or its slot as text: "{name: unipc, order: 2}"."""
    if isinstance(slot, str):
        slot = read_slot("sampling.sampler", slot)
    return build_part("sampling.sampler", SAMPLERS, slot)


def build_grid(slot: str | dict[str, Any]) -> Grid:
    """A grid of times from its slot, its kind alone, or its slot as text: "{kind: karras, rho: 5}"."""
    if isinstance(slot, str):
        slot = read_slot("sampling.grid", slot, "kind")
    if any(key not in hints_of(Grid) for key in slot):
        raise ConfigError(f"sampling.grid is {slot}; it takes kind, ends, rho and half")
    for key, value in slot.items():
        try:
            check_value(f"sampling.grid.{key}", value, hints_of(Grid)[key], usual_of(Grid)[key])
        except ValueError as error:
            raise ConfigError(str(error)) from None
    try:
        return Grid(**slot)
    except ValueError as error:
        raise ConfigError(f"sampling.grid: {error}") from None


def build_text(slot: dict[str, Any], **facts: Any) -> TextEncoder:
    """The text encoder; `facts` is what it learned of the training captions."""
    return build_part("text", TEXTS, {**slot, **facts})


def build_strategy(slot: str | dict[str, Any]) -> Strategy:
    """A strategy from its slot, its name alone, or its slot as text: "{name: noisy, level: 0.02}"."""
    if isinstance(slot, str):
        slot = read_slot("sampling.strategy", slot)
    return build_part("sampling.strategy", STRATEGIES, slot)


def read_slot(key: str, text: str, first: str = "name") -> dict[str, Any]:
    """A slot from a command line: a name, or YAML such as "{name: ..., option: ...}". Raises ConfigError."""
    if not text.lstrip().startswith("{"):
        return {first: text}
    try:
        return dict(yaml.safe_load(check_yaml(text)))
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        look = f"give a {first}, or {{{first}: ..., option: ...}}"
        raise ConfigError(f"{key} is {text[:200]}; {look} ({reason})") from None
