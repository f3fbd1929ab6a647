"""Errors of data: what is read cannot be used, and the message says why and what to do."""

from __future__ import annotations

import re


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
