"""Checkpoints that are whole or not there, saved while the training goes on.

    checkpoints/step-0001000/model.safetensors    the objective's weights
                             ema.safetensors      their average, of what trains
                             ema-0.100.safetensors ...  averages of other widths, where there are any
                             training/            what the optimizer remembers, see `moments`
                             state.json           counters, random states
                             manifest.json        size and SHA-256 of each file, and of itself
    checkpoints/latest                            the name of the folder that a run goes on from

A checkpoint is written into a hidden folder, flushed to disk and renamed; then `latest` is replaced. So a process that
is killed at any moment leaves the old state or the new one. The manifest is verified before any file is opened, for one
flipped byte loads silently everywhere.
"""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidiff.engine.ema import write_snapshot
from vidiff.engine.moments import metadata as metadata_of_moments
from vidiff.engine.moments import write as write_moments
from vidiff.engine.parallel import PATIENCE, Group, local, sharded, whole
from vidiff.engine.publish import (
    LAST_THREE,
    CheckpointError,
    Keep,
    begin,
    hidden,
    is_step,
    metadata_of,
    name_of,
    publish,
    published,
    read_tensors,
    retain,
    step_of,
    tidy,
    verify,
    write_tensors,
)
from vidiff.store.files import sha256, write_whole

LATEST = "latest"
NEEDED = ("model.safetensors", "ema.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, on the CPU; the optimizer's part is read from `path` by `moments.into_optimizers`.

    Attributes:
        averages: of other widths, by width.
    """

    path: Path
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    averages: dict[float, dict[str, Tensor]]
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
    keep: Keep = LAST_THREE,
    *,
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
        keep: which checkpoints stay.
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
        _refuse_absent(draft)
        publish(draft, step, best=keep.best)
        write_whole(folder / LATEST, name_of(step) + "\n", durable=True)
        retain(folder, step, keep)

    try:
        _by_the_first(group, lambda: begin(folder, step))
        write_moments(draft, kept, kept if copies is None else copies, group)
        _by_the_first(group, finish)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder / name_of(step)


def _refuse_absent(draft: Path) -> None:
    """Raises OSError where a process's part of the moments is not there: a manifest would call the rest sound."""
    named = {of.relative_path for of in metadata_of_moments(draft).storage_data.values()}
    for name in sorted(named - {file.name for file in (draft / "training").iterdir()}):
        raise FileNotFoundError(ENOENT, "a process's part of the moments is not there", str(draft / "training" / name))


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

    Each one passed over is told to `say`.

    Returns:
        None where there are no checkpoints at all.

    Raises:
        CheckpointError: there are some, and none is sound.
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

    Raises:
        CheckpointError: it is of vidiff 0.1, whose weights alone can be read; or a file cannot be read.
    """
    if not (path / "state.json").is_file():
        raise CheckpointError(
            f"{path} was made by vidiff 0.1, or shared without what a training needs: its weights can be used, but its "
            "training cannot go on; give this one another run folder, and start=RUN to begin from those weights"
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
    """A state dict for the trained objective, on the CPU. What is not averaged (frozen parts) comes from the model.

    Args:
        path: a run's folder, its `checkpoints`, or one checkpoint.
        which: `ema`, the average of the newest checkpoint, or of the one that `path` is; `model`, the weights
            themselves; `best`, the average of the checkpoint that `train.keep_best` found best; or the name of a file,
            the average that `vidiff ema` wrote there.

    Raises:
        ValueError: `which` is none of these.
        CheckpointError: nothing sound is there.
    """
    if which not in ("ema", "model", "best") and not which.endswith(".safetensors"):
        raise ValueError(f"weights is {which!r}; choose ema, model, best, or a .safetensors file of vidiff ema")
    folder = _sound(Path(path), which)
    weights = read_tensors(folder / "model.safetensors")
    if which == "model":
        if not weights:
            raise CheckpointError(f"{folder} was shared with one set of weights alone: leave out weights=model")
        return weights
    ema = read_tensors(folder / "ema.safetensors")
    if which in ("ema", "best"):
        return weights | ema
    tensors = read_tensors(Path(which))
    if odd := sorted(tensors.keys() ^ ema.keys()):
        raise CheckpointError(f"{which} is no average of {folder}: {odd[0]} is on one side only")
    return weights | tensors


def load_part(path: Path | str, part: str, which: str = "ema") -> dict[str, Tensor]:
    """The state dict of one module of the trained objective, such as "denoiser"; otherwise as `load_weights`."""
    weights, prefix = load_weights(path, which), f"{part}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def describe_weights(path: Path | str, which: str = "ema") -> dict[str, Any]:
    """Which weights `load_weights` reads: `checkpoint`, its step; `weights`, as asked for; and `weights_sha256`.

    The step of a file is the one that `vidiff ema` noted in it, None where it notes none.
    """
    if which.endswith(".safetensors"):
        noted = metadata_of(Path(which)).get("step")
        step, digest = int(noted) if noted else None, sha256(Path(which))
    else:
        folder = _sound(Path(path), which)
        file = "model.safetensors" if which == "model" else "ema.safetensors"
        step, digest = step_of(folder), verify(folder, NEEDED)["files"][file]["sha256"]
    return {"checkpoint": step, "weights": which, "weights_sha256": digest}


def _sound(path: Path, which: str) -> Path:
    """The checkpoint that `load_weights` reads, verified."""
    if is_step(path):
        verify(path, NEEDED)
        folder: Path | None = path
    else:
        folder = newest(path if path.name == "checkpoints" else path / "checkpoints")
    if folder is None:
        raise CheckpointError(f"{path} has no checkpoints; train it first, or name another run")
    if which == "best":
        step = verify(folder, NEEDED).get("best", 0)
        if not step:
            raise CheckpointError(f"{folder} knows of no best one: train with keep_best=val/loss, or use its ema")
        folder = folder.with_name(name_of(step))
        verify(folder, NEEDED)
    return folder


def _latest(folder: Path) -> str | None:
    try:
        return (folder / LATEST).read_bytes()[:100].decode(errors="replace").strip()
    except FileNotFoundError:
        return None


def share_out(tensors: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """Of tensors that every process has whole, those that this one writes, about as many bytes as any other; of those
    that are spread, all.

    Processes must agree on names and sizes, as they do under DistributedDataParallel.
    """
    loads, own = [0] * group.world, dict[str, Tensor]()
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].numel(), item[0])):
        if not sharded(tensor):
            least = loads.index(min(loads))
            loads[least] += tensor.numel() * tensor.element_size()
            if least != group.rank:
                continue
        own[name] = tensor
    return {name: own[name] for name in tensors if name in own}


class Room:
    """Memory on the CPU for copies; pinned, for those from a GPU.

    Pinned memory is asked for in large pieces. One by one, a thousand small tensors would each wait for the driver, and
    take the next power of two.
    """

    PIECE = 64 << 20  # bytes

    def __init__(self) -> None:
        self._piece: Tensor | None = None
        self._used = 0

    def like(self, tensor: Tensor) -> Tensor:
        """For a tensor of that shape, type and layout."""
        if tensor.device.type != "cuda":
            return torch.empty_like(tensor, device="cpu", requires_grad=False)
        size, begin = tensor.numel() * tensor.element_size(), -(-self._used // 64) * 64
        if self._piece is None or begin + size > len(self._piece):
            self._piece, begin = pinned(max(size, self.PIECE)), 0
        self._used = begin + size
        flat = self._piece[begin : self._used].view(tensor.dtype)
        return flat.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride(), flat.storage_offset())


def pinned(size: int) -> Tensor:
    """So many bytes that a GPU can write to by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class Saver:
    """Saves checkpoints of a run while the training goes on, one at a time.

    All processes call `save`, `settle` and `finish` together, at the same steps.

    Attributes:
        begun: the step of which a save was last begun.
        saved: the step of the newest published checkpoint, as far as is known.
    """

    def __init__(self, folder: Path, group: Group, say: Callable[[str], None]) -> None:
        self.folder, self.group, self.say = folder, group, say
        self.begun = self.saved = 0
        self._copies: dict[str, Tensor] = {}
        self._room = Room()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._what = ""
        importlib.import_module("torch.distributed.checkpoint")  # takes a second, which a save at a signal has not
        # What the thread sends must not mix with what the training does.
        self._wire = dist.new_group(backend="gloo", timeout=PATIENCE) if group.world > 1 else None
        if group.main:
            tidy(folder)  # of a training that was killed after its last save, nothing else would

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        ema: Mapping[str, Tensor],
        state: Mapping[str, Any],
        averages: Mapping[float, Mapping[str, Tensor]],
        moments: Mapping[str, Tensor],
        updates: int = 0,
        keep: Keep = LAST_THREE,
    ) -> None:
        """Begins to save, once the save before has ended: copies everything, and returns.

        Args:
            model, ema, averages: of which spread tensors are gathered.
            state: of the main process.
            moments: of which each process saves what it alone has, and its share of what all have.
            updates: that the averages had, where a snapshot of them is to be left as well.
            keep: which checkpoints stay.
        """
        self.settle()
        moments = share_out(moments, self.group)
        copied = {width: self._take(f"ema-{width}", tensors) for width, tensors in averages.items()}
        job: dict[str, Any] = {
            "model": self._take("model", model),
            "ema": self._take("ema", ema),
            "state": copy.deepcopy(state),  # the training goes on counting in it
            "averages": copied,
            "moments": moments,
            "copies": {name: self._copy(f"moments.{name}", local([t])[0]) for name, t in moments.items()},
            "group": self._wire,
            "keep": keep,
        }

        def write() -> None:
            if updates:  # first: so that each checkpoint has the snapshots up to its step
                self._write_snapshot(step, updates, copied)
            save(self.folder, step, **job)

        self.begun = step
        self._start(f"checkpoint of step {step}", write)

    def snapshot(self, step: int, averages: Mapping[float, Mapping[str, Tensor]], updates: int) -> None:
        """Begins to leave a snapshot of the averages alone, once the save before has ended."""
        self.settle()
        taken = {width: self._take(f"ema-{width}", tensors) for width, tensors in averages.items()}

        self._start(f"EMA snapshot of step {step}", lambda: self._write_snapshot(step, updates, taken))

    def _write_snapshot(self, step: int, updates: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
        """By the main process. Raises OSError on every process: those that went on to `save` would wait for it."""
        _by_the_first(self._wire, lambda: write_snapshot(self.folder.parent / "ema", step, updates, averages))

    def _start(self, what: str, work: Callable[[], None]) -> None:
        if self.group.device.type == "cuda":
            torch.cuda.synchronize(self.group.device)
        self._what = what
        self._thread = threading.Thread(target=self._work, args=(work,), name="saving")
        self._thread.start()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error

    def _take(self, kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of whole tensors, on the main process. One after another, so that no two are whole on the device."""
        taken = {}
        for name, tensor in tensors.items():
            full = whole(tensor.detach())
            if self.group.main:
                taken[name] = self._copy(f"{kind}.{name}", full)
        return taken

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        """On the CPU, into the same memory each time."""
        kept = self._copies.get(key)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = self._copies[key] = self._room.like(tensor)
        return kept.copy_(tensor.detach(), non_blocking=True)

    def poll(self) -> None:
        """Tells of a save that has failed meanwhile; does not wait for one."""
        if self._thread is not None and not self._thread.is_alive():
            self.settle()

    def settle(self) -> None:
        """Waits for the save that is under way. Where the disk refused it, that is told; any other error is raised."""
        try:
            self.finish()
        except OSError as error:
            self.say(f"could not write the {self._what} ({error}); training goes on")

    def finish(self) -> None:
        """Waits for the save that is under way, and raises what it met."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
        if self._what.startswith("checkpoint"):
            self.saved = self.begun
