"""Checkpoints that are whole or not there.

    checkpoints/step-0001000/model.safetensors    the objective's weights
                             ema.safetensors      their average, of what trains
                             ema-0.100.safetensors ...  averages of other widths, where there are any
                             training/            what the optimizer remembers, see `moments`
                             state.json           counters, random states
                             manifest.json        size and SHA-256 of each file, and of itself
    checkpoints/latest                            the name of the folder that a run goes on from

A checkpoint is written into a hidden folder, flushed to disk and renamed; then `latest` is replaced. So a
process killed at any moment leaves the old state or the new one. The manifest is verified before any file is
opened, for one flipped byte loads silently everywhere.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from vidiff.engine.moments import write as write_moments
from vidiff.engine.publish import (
    CheckpointError,
    begin,
    hidden,
    is_step,
    metadata_of,
    name_of,
    publish,
    published,
    read_tensors,
    step_of,
    verify,
    write_tensors,
)
from vidiff.engine.retention import retain
from vidiff.store.files import sha256, write_whole

LATEST = "latest"
NEEDED = ("model.safetensors", "ema.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, on the CPU; the optimizer's part is read from `path` by `moments.into_optimizers`."""

    path: Path
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    averages: dict[float, dict[str, Tensor]]
    """By width."""
    state: dict[str, Any]

    def average(self, width: float) -> dict[str, Tensor]:
        """Raises ValueError where it was not tracked."""
        if width not in self.averages:
            raise ValueError(
                f"train.ema_widths has {width}, but {self.path} only {sorted(self.averages)}: an average cannot begin "
                "on the way. Give those, or give this one another run folder"
            )
        return self.averages[width]


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 3,
    *,
    keep_every: int = 0,
    best: int = 0,
    averages: Mapping[float, Mapping[str, Tensor]] | None = None,
    moments: Mapping[str, Tensor] | None = None,
    copies: Mapping[str, Tensor] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Publishes `folder`/step-..., points `latest` at it and removes what need not stay.

    All processes of `group` call it together; what is not moments is written by the first. Checkpoints of later steps
    are dropped: they belong to a course that the run has left.

    Args:
        model, ema: plain tensors.
        state: what JSON can hold.
        keep, keep_every, best: which checkpoints stay, as `retain` takes it.
        averages: by width, of three decimals at most.
        moments: of the optimizer; may be spread over the processes.
        copies: of the moments, what this process has; by default, where nothing is spread, themselves.

    Raises:
        OSError: on every process, where the disk is full or refuses; what was there stays, and nothing partial is
            visible.
    """
    draft = folder / hidden(step)
    kept = moments or {}

    def finish() -> None:
        write_tensors(model, draft / "model.safetensors")
        write_tensors(ema, draft / "ema.safetensors")
        for width, tensors in (averages or {}).items():
            write_tensors(tensors, draft / f"ema-{width:.3f}.safetensors")
        (draft / "state.json").write_text(json.dumps(state))
        publish(draft, step, best=best)
        write_whole(folder / LATEST, name_of(step) + "\n", durable=True)
        retain(folder, step, keep, keep_every, best)

    try:
        _by_the_first(group, lambda: begin(folder, step))
        write_moments(draft, kept, kept if copies is None else copies, group)
        _by_the_first(group, finish)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder / name_of(step)


def _by_the_first(group: dist.ProcessGroup | None, work: Callable[[], object]) -> None:
    """The first process works; all wait for it, and raise what it raises."""
    error: list[Exception | None] = [None]
    if group is None or dist.get_rank(group) == 0:
        try:
            work()
        except Exception as caught:
            error = [caught]
    if group is not None:
        dist.broadcast_object_list(error, src=0, group=group)
    if error[0] is not None:
        raise error[0]


def newest(folder: Path, say: Callable[[str], None] = warnings.warn) -> Path | None:
    """The checkpoint to go on from: the one `latest` names, or the newest before it that is sound.

    Each one passed over is told to `say`. Returns None where there are no checkpoints at all. Raises
    CheckpointError where there are some and none is sound.
    """
    paths = published(folder)[::-1]
    named = _latest(folder)
    paths.sort(key=lambda p: p.name != named)  # stable: `latest` first, then from new to old
    for path in paths:
        try:
            verify(path, NEEDED)
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
    """Reads a checkpoint whole. Verify it first: `newest` has, for what it returns.

    Raises CheckpointError for one of vidiff 0.1, whose weights alone can be read.
    """
    if not (path / "state.json").is_file():
        raise CheckpointError(
            f"{path} was made by vidiff 0.1: its weights can be used, but its training cannot go on; give this one "
            "another run folder, and start=RUN to begin from those weights"
        )
    try:
        state = json.loads((path / "state.json").read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / 'state.json'} cannot be read: {error}") from error
    return Checkpoint(
        path=path,
        model=read_tensors(path / "model.safetensors"),
        ema=read_tensors(path / "ema.safetensors"),
        averages={float(file.stem.removeprefix("ema-")): read_tensors(file) for file in path.glob("ema-*.safetensors")},
        state=state,
    )


def load_weights(path: Path | str, which: str = "ema") -> dict[str, Tensor]:
    """A state dict for the trained objective, on the CPU.

    `path` is a run's folder, its `checkpoints`, or one checkpoint; `which` is

        ema      the average of the newest checkpoint, or of the one that `path` is
        model    the weights themselves
        best     the average of the checkpoint that `train.keep_best` found best
        a file   the average that `tools/ema.py` wrote there

    What is not averaged (frozen parts, integer buffers) comes from the model. Raises CheckpointError where nothing
    sound is there.
    """
    if which not in ("ema", "model", "best") and not which.endswith(".safetensors"):
        raise ValueError(f"weights is {which!r}; choose ema, model, best, or a .safetensors file of tools/ema.py")
    path = Path(path)
    if is_step(path):
        verify(path, NEEDED)
        found: Path | None = path
    else:
        found = newest(path if path.name == "checkpoints" else path / "checkpoints")
    if found is None:
        raise CheckpointError(f"{path} has no checkpoints; train it first, or name another run")
    if which == "best":
        found = _best(found)
    weights = read_tensors(found / "model.safetensors")
    if which == "model":
        return weights
    ema = read_tensors(found / "ema.safetensors")
    if which in ("ema", "best"):
        return weights | ema
    tensors = read_tensors(Path(which))
    if odd := sorted(tensors.keys() ^ ema.keys()):
        raise CheckpointError(f"{which} is no average of {found}: {odd[0]} is on one side only")
    return weights | tensors


def load_part(path: Path | str, part: str, which: str = "ema") -> dict[str, Tensor]:
    """The state dict of one module of the trained objective, such as "denoiser"; otherwise as `load_weights`."""
    weights, prefix = load_weights(path, which), f"{part}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def describe_weights(path: Path | str, which: str = "ema") -> dict[str, Any]:
    """Which weights `load_weights` reads: `checkpoint`, its step; `weights`, as asked for; and `weights_sha256`.

    The step of a file is the one that `tools/ema.py` noted in it, None where it notes none.
    """
    path = Path(path)
    if which.endswith(".safetensors"):
        step = metadata_of(Path(which)).get("step")
        return {
            "checkpoint": int(step) if step else None,
            "weights": which,
            "weights_sha256": sha256(Path(which)),
        }
    found = path if is_step(path) else newest(path if path.name == "checkpoints" else path / "checkpoints")
    if found is None:
        raise CheckpointError(f"{path} has no checkpoints; train it first, or name another run")
    found = _best(found) if which == "best" else found
    file = "model.safetensors" if which == "model" else "ema.safetensors"
    digest = verify(found, NEEDED)["files"][file]["sha256"]
    return {"checkpoint": step_of(found), "weights": which, "weights_sha256": digest}


def _best(newest: Path) -> Path:
    step = verify(newest, NEEDED).get("best", 0)
    if not step:
        raise CheckpointError(f"{newest} knows of no best one: train with keep_best=val/loss, or use its ema")
    found = newest.with_name(name_of(step))
    verify(found, NEEDED)
    return found


def _latest(folder: Path) -> str | None:
    try:
        return (folder / LATEST).read_bytes()[:100].decode(errors="replace").strip()
    except FileNotFoundError:
        return None
