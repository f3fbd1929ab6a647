"""Which class is meant by a name or a number that a call or a command line gives."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import SupportsIndex

from vidiff.diffusion.condition import NO_LABEL
from vidiff.text import plain


def class_number(label: str | SupportsIndex | None, labels: Sequence[str]) -> int:
    """The number of a class among `labels`; -1 for None.

    A name goes before a number, whether it is given as text or not: 2 and "2" are the class called 2, if there is one.
    A name is taken as it is written, or else without regard to case, kinds of quotes and hyphens, and how accents are
    encoded. Only then is a number the place of a class, from 0 on.

    Raises:
        ValueError: no such class (the nearest are named), or one of two (both are).
    """
    if label is None:
        return NO_LABEL
    typed = label if isinstance(label, str) else _digits(label)
    if typed in labels:
        return labels.index(typed)
    number = _whole(typed)
    alike = [place for place, name in enumerate(labels) if plain(name).casefold() == plain(typed).casefold()]
    alike = alike or [place for place, name in enumerate(labels) if number is not None and _whole(name) == number]
    meant = [f"the class {labels[place]!r}" for place in alike]  # several where names differ in case or zeros alone
    if number is not None and number < len(labels) and number not in alike:
        if not alike and _whole(labels[number]) is None:
            return number
        if not alike:
            raise ValueError(
                f"no class is called {label!r}, and class number {number} is called {labels[number]!r}: give a name"
            )
        meant.append(f"class number {number}, which is {labels[number]!r}")
    if len(meant) > 1:
        raise ValueError(f"label {label!r} may be {' or '.join(meant)}: give the name as it is written")
    if alike:
        return alike[0]
    near = difflib.get_close_matches(typed, labels, n=3, cutoff=0.3) or labels[:3]
    raise ValueError(f"no label {label!r}; the nearest of {len(labels)} are {', '.join(near)}")


def _digits(label: SupportsIndex) -> str:
    try:
        return str(label) if isinstance(label, bool) else str(label.__index__())
    except (AttributeError, TypeError):
        return str(label)


def _whole(text: str) -> int | None:
    """The number that a text is, with zeros before it or not; None for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text, re.ASCII) else None
