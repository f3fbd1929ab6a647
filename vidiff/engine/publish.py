"""Folders that are whole or not there, each with a manifest that finds one changed byte.

A folder is written under a hidden name, flushed to disk and renamed. So a process killed at any moment, or a
disk that fills up, leaves the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidiff.store.files import DRAFT, delete, put, remove, sha256

MANIFEST = "manifest.json"
FORMAT = 2
_NAME = re.compile(r"step-(\d{7,})")
_MANIFEST_LIMIT = 1 << 20  # bytes; a real one has a few thousand


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or altered."""


def name_of(step: int) -> str:
    return f"step-{step:07d}"


def hidden(step: int) -> str:
    """The name of a folder that is being written."""
    return f".writing-{name_of(step)}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def is_step(path: Path) -> bool:
    """Whether a folder is named as a published one."""
    return _NAME.fullmatch(path.name) is not None


def published(folder: Path) -> list[Path]:
    """The folders of all steps, from old to new, sound or not."""
    return sorted(filter(is_step, folder.glob("step-*")), key=step_of)


def begin(folder: Path, step: int) -> Path:
    """An empty hidden folder to write into. Raises OSError where the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    draft = folder / hidden(step)
    draft.mkdir()
    return draft


def publish(draft: Path, step: int, **facts: Any) -> Path:
    """Gives what `begin` returned, now filled, its manifest and its name. `facts` go into the manifest, as JSON.

    A folder that has the name already is replaced.
    """
    files = sorted(file for file in draft.rglob("*") if file.is_file())
    measured = {file.relative_to(draft).as_posix(): _measured(file) for file in files}
    manifest = draft / MANIFEST
    manifest.write_bytes(_manifest({"format": FORMAT, "step": step, "files": measured, **facts}))
    for file in files:
        file.chmod(manifest.stat().st_mode)  # safetensors makes its files private; as readable as the rest, rather
    path = draft.with_name(name_of(step))
    put(draft, path, durable=True)
    return path


def verify(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Checks every file of a folder against its manifest, and the manifest against itself; returns the manifest.

    Raises CheckpointError with the first difference. Opens none of the files as anything but bytes.
    """
    try:
        with open(path / MANIFEST, "rb") as file:
            text = file.read(_MANIFEST_LIMIT)
        content = json.loads(text)
        step, files = content["step"], dict(content["files"])
        altered = text != _manifest({k: v for k, v in content.items() if k != "sha256"}) or step != step_of(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is incomplete: {MANIFEST} cannot be read ({error})") from error
    if altered or not set(needed) <= files.keys():
        raise CheckpointError(f"{path} is corrupt: {MANIFEST} is not as it was written")
    for name, expected in files.items():
        try:
            measured = _measured(path / name)
        except OSError as error:
            raise CheckpointError(f"{path} is incomplete: {name} cannot be read ({error.strerror})") from error
        if measured != expected:
            raise CheckpointError(f"{path} is corrupt: {name} is not what its manifest says")
    return content


def tidy(folder: Path) -> None:
    """Removes what earlier writers left behind, or what has been replaced."""
    for path in [*folder.glob(".writing-*"), *folder.glob(".old-*"), *folder.glob(f".*{DRAFT}")]:
        delete(path)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest so many, those of every so many steps (0: none), and that of step `best`."""

    newest: int
    every: int = 0
    best: int = 0


LAST_THREE = Keep(3)


def retain(folder: Path, step: int, keep: Keep) -> None:
    """Removes what need not stay, once `step` is published.

    Those of later steps go, too: they belong to a course that was left. What cannot be removed is told, and stays; that
    of `step` itself always does.
    """
    paths = published(folder)
    newest = [step_of(path) for path in paths if step_of(path) <= step][-max(1, keep.newest) :]
    for path in paths:
        own = step_of(path)
        wanted = own in newest or own == keep.best or (keep.every > 0 and own % keep.every == 0)
        if own > step or not wanted:
            remove(path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file. Raises OSError where the disk is full or refuses."""
    try:
        save_file(_plain(tensors), path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file. Raises CheckpointError where it is none, or not there."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def metadata_of(path: Path) -> dict[str, str]:
    """What `write_tensors` noted in a file. Raises CheckpointError where it is none, or not there."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them; tied weights are written twice."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.data_ptr()  # and not its storage, of which several may have a part each
        plain[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return plain


def _measured(file: Path) -> dict[str, Any]:
    """What a manifest holds of a file."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _manifest(content: Mapping[str, Any]) -> bytes:
    """One exact text for one content, so that any changed byte of it shows."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()
