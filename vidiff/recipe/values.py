"""What a value of a config may be, by its type, and what is said of one that is not: its key as it is typed, what was
given, and what is expected."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# by type: one value, several, and an example of several
WORDS: dict[Any, tuple[str, str, str]] = {
    int: ("a whole number", "whole numbers", "[0, 1]"),
    float: ("a number", "numbers", "[0.2, 0.8]"),
    bool: ("true or false", "true or false", "[true, false]"),
    str: ("text", "words", ""),
}
MISSING = "???"  # what is still to be set
SAID = {**dict.fromkeys(("true", "yes", "on", "y"), True), **dict.fromkeys(("false", "no", "off", "n"), False)}
# what makes a number, or true or false, of one that was typed as text, as OmegaConf does
READ: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: lambda text: SAID[text.lower()]}


def check_value(key: str, value: Any, type_: Any, usual: Any = None) -> None:
    """Raises ValueError for a value that is not of a type, or holds one that is not.

    What no type tells is passed: keys that are not there, values of `Any`, and those that name others, as ${batch}.

    Args:
        key: as it is typed, such as data.stride.
        usual: the default, as an example.
    """
    if _open(value):
        return
    if is_dataclass(type_):
        assert isinstance(type_, type)
        if not isinstance(value, dict):
            example = f"{key}={{{fields(type_)[0].name}: ...}}" if "[" in key else f"{key}.{fields(type_)[0].name}=..."
            raise ValueError(f"{key} is {_shown(value)}, but it has keys of its own: give such as {example}")
        for name, hint in hints_of(type_).items():
            if name in value:
                check_value(f"{key}.{name}" if key else name, value[name], hint, usual_of(type_).get(name))
        if "[" in key and (unknown := [name for name in value if name not in hints_of(type_)]):
            raise ValueError(f"{key} has {unknown[0]!r}; its keys are {', '.join(hints_of(type_))}")
        return
    inner = get_args(type_)[-1] if get_origin(type_) in (list, dict, Sequence) else None
    if get_origin(type_) is dict and isinstance(value, dict):
        for name, part in value.items():
            check_value(f"{key}.{name}", part, inner)
    elif is_dataclass(inner) and isinstance(value, list):
        for number, part in enumerate(value):
            check_value(f"{key}[{number}]", part, inner)
    elif not _fits(value, type_):
        raise ValueError(f"{key} is {_shown(value)}; {_expected(key, type_, usual)}")


def _open(value: Any) -> bool:
    """Whether a value names another, or is still to be set."""
    return isinstance(value, str) and ("${" in value or value == MISSING)


def _parts(type_: Any) -> tuple[Any, ...]:
    """The types of which a value may be one."""
    return get_args(type_) if get_origin(type_) in (UnionType, Union) else (type_,)


def _fits(value: Any, type_: Any) -> bool:
    origin, inner = get_origin(type_), get_args(type_)
    if type_ is Any or _open(value):
        return True
    if len(_parts(type_)) > 1:
        return any(_fits(value, part) for part in _parts(type_))
    if type_ in (None, NoneType):
        return value is None
    if origin is Literal:
        return value in inner
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(part, inner[0]) for part in value)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is dict:
        return isinstance(value, dict)
    if type_ is str:
        return value is not None and not isinstance(value, list | tuple | dict)
    if type_ is bool and isinstance(value, int | float):
        return value in (0, 1)
    if type_ in READ:
        try:
            as_number(value, type_)
        except (ValueError, KeyError):
            return False
        return isinstance(value, str) or type(value) in {int: (int,), float: (int, float), bool: (bool,)}[type_]
    return True


def _expected(key: str, type_: Any, usual: Any) -> str:
    """What to give: as words, and as an example."""
    kinds = [part for part in _parts(type_) if part not in (None, NoneType)]
    kind, inner = kinds[0], get_args(kinds[0])
    optional = ", or null" if len(kinds) < len(_parts(type_)) else ""
    if get_origin(kind) is Literal:
        return f"choose {', '.join(map(str, inner))}"
    if get_origin(kind) is dict:
        return f"it has keys of its own: give such as {key}.{next(iter(usual or ()), 'KEY')}=..."
    if get_origin(kind) in (list, Sequence, tuple):
        if is_dataclass(inner[0]):
            names = ", ".join(f"{field.name}: ..." for field in fields(inner[0]))
            return f"expected a list, such as {key}=[{{{names}}}]"
        number = f"{len(inner)} " if get_origin(kind) is tuple else "a list of "
        example = _shown([*usual]) if usual else WORDS[inner[0]][2]
        return f"expected {number}{WORDS[inner[0]][1]}{example and f', such as {key}={example}'}{optional}"
    example = "" if usual in (None, "", MISSING) else f", such as {key}={_shown(usual)}"
    return f"expected {WORDS[kind][0]}{example}{optional}" if kind in WORDS else "expected something else"


def _shown(value: Any) -> str:
    """A value as YAML writes it, near enough, and no longer than a line has room for."""
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(_shown, value))}]"
    else:
        text = {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def as_number(value: Any, type_: Any) -> Any:
    """A value that fits a type, a number that was typed as text such as 03 as the number that it is."""
    return READ[type_](value) if type_ in READ and isinstance(value, str) else value


@cache
def hints_of(of: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, or of what a class or function is built with, by name."""
    plain = of.func if isinstance(of, partial) else of
    if is_dataclass(plain):
        hints, taken = get_type_hints(plain), {field.name for field in fields(plain)}
    else:
        hints = get_type_hints(plain.__init__ if isinstance(plain, type) else plain)  # type: ignore[misc]
        taken = set(inspect.signature(plain).parameters)
    return {name: hint for name, hint in hints.items() if name in taken}


@cache
def usual_of(of: Any) -> dict[str, Any]:
    """The defaults of a dataclass's fields, or of what a class or function is built with, by name."""
    if is_dataclass(of):
        made = {field.name: field.default_factory for field in fields(of) if callable(field.default_factory)}
        plain = {field.name: field.default for field in fields(of) if field.name not in made}
        return plain | {name: make() for name, make in made.items() if not is_dataclass(make)}
    given = inspect.signature(of).parameters.values()
    return {one.name: None if one.default is one.empty else one.default for one in given}


def needed_by(of: Callable[..., Any]) -> list[str]:
    """What a class or function is not built without."""
    given = inspect.signature(of).parameters.values()
    return [one.name for one in given if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]


def named(message: str, key: str, names: Collection[str]) -> str:
    """What a part says of its own options, with the key that a config has for each.

    Args:
        message: such as "interval is [0.2]; give two times".
        key: of the part, such as sampling.
        names: of its options.
    """
    if f"{key}." in message:
        return message
    last, each = key.rpartition(".")[2], "|".join(map(re.escape, names))
    if message.startswith(f"{last}:"):
        return f"{key}{message.removeprefix(last)}"
    found = re.match(rf"(?P<before>unknown (?:{last} )?)?(?:{last}\.)?(?P<name>{each})\b", message)
    if found is None:
        return f"{key}: {message}"
    before = "unknown " if found["before"] else ""
    return f"{before}{key}.{found['name']}{message[found.end() :]}"
