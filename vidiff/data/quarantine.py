"""The quarantine: files that training leaves out, and why. One list for all data sets of a folder of runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vidiff.data.clip import Clip
from vidiff.store.files import write_whole
from vidiff.video.sources import stamp_of

HEADER = """\
# Files that training leaves out, one a line: path, reason, and a stamp (size and time of change), split by tabs.
# A line holds until its file changes; one without a stamp, written by hand, holds for good.
"""
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


class Entry(NamedTuple):
    """Why a file is left out, and its stamp at that time; an empty stamp fits whatever becomes of it."""

    reason: str
    stamp: str


def quarantine_list(runs: Path) -> Path:
    """Where the list of a folder of runs stands."""
    return runs / "index" / "quarantine.txt"


class Quarantine:
    """The list in a file, which need not be there yet.

    Several processes may add to it at once: each line is written whole, at the end.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def entries(self) -> dict[str, Entry]:
        """All lines, by the key of a clip, or of a file of several."""
        if not self.file.is_file():
            return {}
        found = {}
        for line in self.file.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
            if line.strip() and not line.startswith("#"):
                path, reason, mark, *_ = [*line.split("\t"), "", ""]
                found[_plain(path)] = Entry(reason or "listed by hand", mark)
        return found

    def held(self, clips: Iterable[Clip]) -> dict[str, str]:
        """The names of the clips that are to be left out, each with the reason."""
        entries = self.entries()
        found = {}
        for clip in clips if entries else ():
            entry = entries.get(clip.key) or entries.get(clip.place.key)
            if entry is not None and entry.stamp in ("", str(stamp_of(clip.place))):
                found[clip.name] = entry.reason
        return found

    def add(self, clip: Clip, reason: str) -> None:
        """One more clip, until it changes."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = _line(clip.key, Entry(reason, str(stamp_of(clip.place))))
        with self.file.open("ab") as file:
            file.write((("" if file.tell() else HEADER) + line).encode(errors="surrogateescape"))

    def replace(self, looked_at: dict[str, Entry | None]) -> None:
        """Bring the list up to date with a scan.

        Args:
            looked_at: by the key of a clip, the line of each clip that is to be left out, and None for each that has
                been found readable, or is gone. Lines written by hand stay.
        """
        entries = self.entries()
        for path, entry in looked_at.items():
            if path in entries and not entries[path].stamp:
                continue
            entries.pop(path, None)
            if entry is not None:
                entries[path] = entry
        lines = [_line(path, entry) for path, entry in sorted(entries.items())]
        write_whole(self.file, (HEADER + "".join(lines)).encode(errors="surrogateescape"))


def _line(path: str, entry: Entry) -> str:
    for letter, escaped in _ESCAPES:
        path = path.replace(letter, escaped)
    return "\t".join([path, " ".join(entry.reason.split()), entry.stamp]).rstrip("\t") + "\n"


def _plain(path: str) -> str:
    """Undoes the escapes of `_line`."""
    letters = {escaped[1]: letter for letter, escaped in _ESCAPES}
    parts = iter(path.split("\\"))
    plain = next(parts)
    for part in parts:
        if part:
            plain += letters.get(part[0], "\\" + part[0]) + part[1:]
        else:  # an escaped backslash leaves an empty part
            plain += "\\" + next(parts, "")
    return plain
