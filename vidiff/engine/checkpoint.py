"""Checkpoints that are whole or not there.

    checkpoints/step-0001000/model.safetensors    the objective's weights
                             ema.safetensors      their average, of what trains state.pt
                             optimizer, counters, random states: torch.load(weights_only=True) manifest.json
                             size and SHA-256 of each file, and of itself
    checkpoints/latest                            the name of the folder that a run goes on from

A checkpoint is written into a hidden folder, flushed to disk and renamed; then `latest` is replaced. So a
process killed at any moment leaves the old state or the new one. The manifest is verified before any file is
opened, for one flipped byte loads silently everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = re.compile(r"step-(\d{7,})")
_MANIFEST_LIMIT = 1 << 20  # bytes; a real one has under a thousand


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or altered."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, on the CPU."""

    path: Path
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 3,
) -> Path:
    """Publishes `folder`/step-..., points `latest` at it and keeps the newest `keep`.

    Checkpoints of later steps are dropped: they belong to a course that the run has left. Raises OSError
    where the disk is full or refuses; what was there stays, and nothing partial is visible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:07d}"
    draft = folder / f".writing-{path.name}"
    _sweep(folder)
    try:
        draft.mkdir()
        try:
            save_file(_plain(model), draft / "model.safetensors", metadata={"format": "pt"})
            save_file(_plain(ema), draft / "ema.safetensors", metadata={"format": "pt"})
            torch.save(dict(state), draft / "state.pt")
        except (SafetensorError, RuntimeError) as error:  # what these two raise on a full disk
            raise OSError(str(error)) from error
        for file in draft.iterdir():  # safetensors makes its files private; as readable as the rest, rather
            file.chmod((draft / "state.pt").stat().st_mode)
        files = {file.name: _measure(file) for file in sorted(draft.iterdir())}
        (draft / "manifest.json").write_bytes(_manifest(step, files))
        for file in draft.iterdir():
            _flush(file)
        _flush(draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if path.exists():
        path.rename(folder / f".old-{path.name}")
    draft.rename(path)
    _flush(folder)
    _point(folder, path.name)
    _retain(folder, step, keep)
    return path


def newest(folder: Path, say: Callable[[str], None] = warnings.warn) -> Path | None:
    """The checkpoint to go on from: the one `latest` names, or the newest before it that is sound.

    Each one passed over is told to `say`. Returns None where there are no checkpoints at all. Raises
    CheckpointError where there are some and none is sound.
    """
    paths = sorted((p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)), key=_step, reverse=True)
    named = _latest(folder)
    paths.sort(key=lambda p: p.name != named)  # stable: `latest` first, then from new to old
    for path in paths:
        try:
            verify(path)
            return path
        except CheckpointError as error:
            say(f"{error}; taking the one before")
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} is sound; restore one from a copy, or "
            "remove the folder to train from the start"
        )
    return None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint whole. Verify it first: `newest` has, for what it returns."""
    return Checkpoint(
        path=path,
        model=load_file(path / "model.safetensors"),
        ema=load_file(path / "ema.safetensors"),
        state=torch.load(path / "state.pt", map_location="cpu", weights_only=True),
    )


def load_weights(path: Path | str, which: str = "ema") -> dict[str, Tensor]:
    """A state dict for the trained objective, on the CPU: `which` is "ema", or "model" for the weights
    themselves.

    `path` is a run's folder, its `checkpoints`, or one checkpoint. What is not averaged (frozen parts,
    integer buffers) comes from the model. Raises CheckpointError where nothing sound is there.
    """
    if which not in ("ema", "model"):
        raise ValueError(f"which is {which!r}; choose ema or model")
    path = Path(path)
    if _NAME.fullmatch(path.name):
        verify(path)
        found: Path | None = path
    else:
        found = newest(path if path.name == "checkpoints" else path / "checkpoints")
    if found is None:
        raise CheckpointError(f"{path} has no checkpoints; train it first, or name another run")
    weights = load_file(found / "model.safetensors")
    return weights | load_file(found / "ema.safetensors") if which == "ema" else weights


def verify(path: Path) -> None:
    """Checks every file of a checkpoint against its manifest, and the manifest against itself.

    Raises CheckpointError with the first difference. Opens none of the files as anything but bytes.
    """
    manifest = path / "manifest.json"
    try:
        with open(manifest, "rb") as file:
            text = file.read(_MANIFEST_LIMIT)
        parsed = json.loads(text)
        step, files = parsed["step"], dict(parsed["files"])
        altered = text != _manifest(step, files) or step != _step(path)
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path} is incomplete: {manifest.name} cannot be read ({error})") from error
    if altered or not {"model.safetensors", "ema.safetensors", "state.pt"} <= files.keys():
        raise CheckpointError(f"{path} is corrupt: {manifest.name} is not as it was written")
    for name, expected in files.items():
        try:
            measured = _measure(path / name)
        except OSError as error:
            raise CheckpointError(f"{path} is incomplete: {name} cannot be read ({error.strerror})") from error
        if measured != expected:
            raise CheckpointError(f"{path} is corrupt: {name} is not what its manifest says")


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them; tied weights are written twice."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return plain


def _measure(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _manifest(step: int, files: Mapping[str, Any]) -> bytes:
    """One exact text for one content, so that any changed byte of it shows."""
    content: dict[str, Any] = {"format": 1, "step": step, "files": dict(files)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps(content | {"sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _flush(path: Path) -> None:
    """Puts a file's or a folder's content on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _point(folder: Path, name: str) -> None:
    draft = folder / ".latest"
    draft.write_text(name + "\n")
    _flush(draft)
    draft.replace(folder / "latest")
    _flush(folder)


def _latest(folder: Path) -> str | None:
    try:
        return (folder / "latest").read_bytes()[:100].decode(errors="replace").strip()
    except FileNotFoundError:
        return None


def _retain(folder: Path, step: int, keep: int) -> None:
    paths = sorted((p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)), key=_step)
    past = [p for p in paths if _step(p) <= step]
    spare = past[: -max(1, keep)] + [p for p in paths if _step(p) > step]
    for path in spare:
        try:
            path.rename(folder / f".old-{path.name}")  # gone at once; its files may take longer
        except OSError as error:
            warnings.warn(f"could not remove the old checkpoint {path}: {error}", stacklevel=2)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Removes what earlier writers left behind, or what has been replaced."""
    for path in [*folder.glob(".writing-*"), *folder.glob(".old-*")]:
        try:
            shutil.rmtree(path)
        except OSError as error:
            warnings.warn(f"could not remove {path}: {error}", stacklevel=2)
