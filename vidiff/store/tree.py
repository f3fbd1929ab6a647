"""Files below a folder, here or elsewhere, by their names relative to it: what a search goes through."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vidiff.store.place import Place


class Tree(Protocol):
    """A folder. Names in it have forward slashes; "" is the folder itself. Hidden files are not told of."""

    def __str__(self) -> str:
        """The name by which messages call it."""
        ...

    def inside(self, folder: str = "") -> tuple[list[str], list[str]]:
        """The names of the files, and of the folders, directly in a folder, each sorted; none where there is none."""
        ...

    def place(self, name: str) -> Place | None:
        """Where a file or folder is; None where there is none of this name."""
        ...

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Each folder with its files and folders, from above; who takes a folder off the list is spared it."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def inside(self, folder: str = "") -> tuple[list[str], list[str]]:
        files, folders = list[str](), list[str]()
        try:
            with os.scandir(self.path / folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (folders if _is_folder(entry) else files).append(_joined(folder, entry.name))
        except (FileNotFoundError, NotADirectoryError):
            pass
        return sorted(files), sorted(folders)

    def place(self, name: str) -> Place | None:
        path = self.path / name
        return Place(str(path), path) if os.path.lexists(path) else None

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        return _walk(self, lambda folder: os.path.realpath(self.path / folder))


class Listed:
    """A folder elsewhere, of which there is a list of files.

    Args:
        name: by which messages call it.
        files: by names relative to it.
    """

    def __init__(self, name: str, files: Mapping[str, Place]) -> None:
        self.name, self.files = name, files
        self._inside: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        for file in sorted(files):
            parts = file.split("/")
            for end in range(1, len(parts)):
                folder = "/".join(parts[:end])
                if folder not in self._inside:
                    self._inside[folder] = ([], [])
                    self._inside["/".join(parts[: end - 1])][1].append(folder)
            self._inside["/".join(parts[:-1])][0].append(file)

    def __str__(self) -> str:
        return self.name

    def inside(self, folder: str = "") -> tuple[list[str], list[str]]:
        files, folders = self._inside.get(folder, ([], []))
        return [*files], sorted(folders)

    def place(self, name: str) -> Place | None:
        if name in self._inside:
            parts = tuple(self.files[file] for file in self._inside[name][0])
            return Place(f"{self.name}/{name}", parts=parts)
        if name.startswith("/") and os.path.lexists(name):  # as a list beside URLs may have it
            return Place(name, Path(name))
        return self.files.get(name)

    def walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        return _walk(self, lambda folder: folder)


def _walk(tree: Tree, real: Callable[[str], str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `Tree.walk`, through links as well, of which `real` tells where they lead.

    None leads back to a folder above. Below each folder of two levels, as of a split and a class, a folder comes once,
    however many links lead to it; two of them may be links to one, as those of two splits.
    """
    waiting, seen = [("", frozenset[str]())], set[tuple[str, ...]]()
    while waiting:
        folder, above = waiting.pop()
        where = real(folder)
        once = (*folder.split("/")[:2], where)
        if where in above or once in seen:
            continue
        seen.add(once)
        try:
            files, folders = tree.inside(folder)
        except PermissionError as error:  # as of lost+found
            if not folder:
                raise
            warnings.warn(f"{tree}/{folder} is left out: {error.strerror}", stacklevel=2)
            continue
        yield folder, files, folders
        waiting += [(inner, above | {where}) for inner in reversed(folders)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one. A link in a circle, or through a file, is a file that does not open."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
