"""Errors of data: what is read cannot be used, and the message says why and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """Data that cannot be used; the message says what to do."""


class VideoError(ValueError):
    """A clip that cannot be read or written. The message names its file and the reason."""


class DamageError(VideoError):
    """Frames that do not show what was filmed, of a clip whose others may."""


class Unreachable(VideoError):
    """A remote file that cannot be fetched now, and may be at another time: a matter of network, server or disk."""


def reason_of(error: BaseException) -> str:
    """What a library says, without the time and the line of its source."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r".*(Check failed: |\.cc:\d+: )", "", message)


@contextmanager
def called(name: str) -> Iterator[None]:
    """What errors of data call data.root, the usual key of a data set, is called as it was given."""
    try:
        yield
    except DataError as error:
        raise type(error)(str(error).replace("data.root", name)) from None


def absent(error: ImportError, extra: str) -> ValueError:
    """What to say of a library of one of vidiff's extras that cannot be imported: whether it is not there, or does not
    load. Raises `error` itself where it is a part of vidiff that is missing, which no installing would mend.
    """
    name = (error.name or "").partition(".")[0]
    if name == "vidiff":
        raise error
    if isinstance(error, ModuleNotFoundError) and name:
        return ValueError(f"{name} is not installed; run: pip install 'vidiff[{extra}]'")
    reason = f"{name or 'a library'} does not load ({reason_of(error)})"
    return ValueError(f"{reason}; run: pip install -U 'vidiff[{extra}]'")
