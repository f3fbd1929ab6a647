"""What is typed is taken as text where text is meant: YAML alone reads 0515 as 333, 12:30:45 as 45045, `on` as true.

A config's dataclasses say where text is meant, and the tables of slots do so for the options of what a slot names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from vidiff.diffusion.schedule import SCHEDULES
from vidiff.draw.long import STRATEGIES
from vidiff.recipe.kinds import KINDS, VAERun
from vidiff.sample import SAMPLERS
from vidiff.text import TEXTS

Path = tuple[str | int, ...]

SLOTS: dict[str, dict[str, Any]] = {
    "schedule": SCHEDULES,
    "text": TEXTS,
    "sampling.sampler": SAMPLERS,
    "sampling.strategy": STRATEGIES,
}
CODEC = "codec.override"  # holds changes to an autoencoder's config
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MERGE, NULL = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"
# what YAML reads as octal, or to base 60, where whoever types a number means digits to base 10
DIGITS = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9_]+)+)")


def split_key(key: str) -> Path:
    """ "data.buckets[1].size" as ("data", "buckets", 1, "size")."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", key) if part)


def is_text(path: Path) -> bool:
    """Whether what stands at a path of a config, of whichever kind, is always text."""
    return str in types_at(path) and NoneType not in types_at(path)


@cache
def types_at(path: Path) -> frozenset[Any]:
    """The types that a value has there, one for each kind of config that has it."""
    types: frozenset[Any] = frozenset(KINDS.values())
    for number, key in enumerate(path):
        above = ".".join(map(str, path[:number]))
        if above in SLOTS:
            types = _option_types(SLOTS[above], str(key))
        elif above == CODEC:
            types = _inside(VAERun, str(key))
        else:
            types = frozenset[Any]().union(*(_inside(type_, str(key)) for type_ in types))
    return types


def _inside(type_: Any, key: str) -> frozenset[Any]:
    """The type of a field of a dataclass, or of what a list or dictionary holds; none where nothing tells."""
    if is_dataclass(type_):
        assert isinstance(type_, type)
        return _parts(get_type_hints(type_)[key]) if key in get_type_hints(type_) else frozenset()
    return _parts(get_args(type_)[-1]) if get_origin(type_) in (list, dict) else frozenset()


def _parts(type_: Any) -> frozenset[Any]:
    """The types of which a value may be one; str for one of several words."""
    if get_origin(type_) is UnionType:
        return frozenset[Any]().union(*map(_parts, get_args(type_)))
    return frozenset({str if get_origin(type_) is Literal else type_})


def _option_types(choices: dict[str, Any], key: str) -> frozenset[Any]:
    """The types of an option of a slot, one for each alternative that takes it."""
    if key == "name":
        return frozenset({str, NoneType})  # null is no name
    hints = [get_type_hints(choice if is_dataclass(choice) else choice.__init__) for choice in choices.values()]
    return frozenset[Any]().union(*(_parts(given[key]) for given in hints if key in given))


def as_typed(text: str, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """The values of a YAML text that are meant as they were typed, whatever YAML makes of them, each with its path.

    Args:
        path: where in a config the text stands; () for a whole file.

    Raises:
        yaml.YAMLError: no YAML.
    """
    node = yaml.compose(text, Loader=LOADER)
    return iter(()) if node is None else _typed(node, path)


def _typed(node: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in sorted(node.value, key=lambda pair: pair[0].tag != MERGE):  # what is merged gives way
            if key.tag == MERGE:
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _typed(part, path)
            elif isinstance(key, yaml.ScalarNode):
                yield from _typed(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _typed(value, (*path, number))
    else:
        types = types_at(path)
        text = str in types and not (NoneType in types and node.tag == NULL)
        if text or (types & {int, float} and not node.style and DIGITS.fullmatch(node.value)):
            yield path, node.value


def unquoted(text: str) -> str:
    """What is typed for a text: itself, without the quotes if YAML's quotes are around it."""
    if text[:1] in ("'", '"'):
        try:
            node = yaml.compose(text, Loader=LOADER)
        except yaml.YAMLError:
            return text
        if isinstance(node, yaml.ScalarNode) and node.style:
            return node.value
    return text
