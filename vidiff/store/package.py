"""A folder that is passed on to others: plain files alone, each with its size and SHA-256 in a manifest.

What may be in it can be read and never run: safetensors, JSON, YAML, videos and pictures. A name leads to a file of the
folder, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from vidiff.store.files import sha256, write_whole
from vidiff.store.plain import parse_json

MANIFEST = "vidiff.json"
FORMAT = 1
MEDIA = (".mp4", ".webm", ".gif", ".png", ".jpg", ".jpeg", ".webp")
KINDS = (".safetensors", ".json", ".yaml", *MEDIA)
BESIDE = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", ".gitattributes", ".gitignore")
"""What may lie beside the files of a package. It is neither measured nor read."""
MOST_FILES, LARGEST = 1_000, 1 << 20
"""Files of a package, and bytes of its manifest."""

_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/){0,8}[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_DIGEST = re.compile("[0-9a-f]{64}")


class PackageError(ValueError):
    """A package that may not be passed on, or not be taken. The message names the file."""


@dataclass(frozen=True)
class Measured:
    """What a manifest says of a file."""

    bytes: int
    sha256: str


def check_name(name: str) -> None:
    """Refuse a file that has no place in a package.

    Raises:
        PackageError: for a name that leads out of the folder, or has other characters than letters without accents,
            digits, and _ . -; and for a kind of file that is not among `KINDS`.
    """
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise PackageError(
            f"{name[:200]!r} is no name of a file within a package: letters, digits, _, . and - are taken, with "
            "slashes between folders"
        )
    if PurePosixPath(name).suffix not in KINDS:
        raise PackageError(f"{name} is of a kind that is not passed on; only {', '.join(KINDS)} are, which run nothing")


def check_listing(names: Iterable[str]) -> None:
    """Refuse a package with any file that is neither of its kinds nor may lie beside them. Raises PackageError."""
    for name in names:
        if name not in BESIDE:
            check_name(name)


def seal(folder: Path) -> dict[str, Measured]:
    """Write the manifest of all files in a folder. Returns what it says.

    Raises:
        PackageError: for a link, and as `check_name`.
    """
    files: dict[str, Measured] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PackageError(f"{name} is a link, which is not passed on: put the file itself there")
        if path.is_dir() or name in (MANIFEST, *BESIDE):
            continue
        check_name(name)
        files[name] = Measured(path.stat().st_size, sha256(path))
    content = {"format": FORMAT, "files": {name: asdict(measured) for name, measured in files.items()}}
    write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")
    return files


def read_manifest(path: Path) -> dict[str, Measured]:
    """What a manifest says. Nothing that it names is opened.

    Raises:
        PackageError: where it is none, of a later format, or names a file that has no place in a package.
    """
    try:
        with path.open("rb") as file:
            content = parse_json(file.read(LARGEST))
        if content["format"] != FORMAT:
            raise PackageError(f"{path.name} is of format {content['format']!r}; this vidiff reads {FORMAT}: update it")
        files = {str(name): Measured(int(has["bytes"]), str(has["sha256"])) for name, has in content["files"].items()}
    except OSError as error:
        raise PackageError(f"{path.name} cannot be read ({error.strerror})") from None
    except PackageError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise PackageError(f"{path.name} is no manifest of a package ({error})") from None
    if len(files) > MOST_FILES:
        raise PackageError(f"{path.name} names {len(files):,} files; {MOST_FILES:,} is the most")
    for name, measured in files.items():
        check_name(name)
        if name == MANIFEST or measured.bytes < 0 or not _DIGEST.fullmatch(measured.sha256):
            raise PackageError(f"{path.name} says of {name} what cannot be true")
    return files


def verify(folder: Path, files: dict[str, Measured], within: Path) -> None:
    """Check every file of a package against its manifest, opening none as anything but bytes.

    Args:
        files: as of `read_manifest`.
        within: where the bytes of all must lie, links followed.

    Raises:
        PackageError: with the first difference.
    """
    inside = within.resolve()
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(inside):
            raise PackageError(f"{name} is a link that leads out of {within}")
        if not path.is_file():
            raise PackageError(f"{name} is missing")
        if path.stat().st_size != expected.bytes or sha256(path) != expected.sha256:
            raise PackageError(f"{name} is not what {MANIFEST} says: it was changed or damaged on its way")
