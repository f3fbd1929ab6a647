"""Saving beside the training: a quick copy of what is to be saved, and a thread that writes it."""

from __future__ import annotations

import copy
import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidiff.engine import checkpoint, snapshots
from vidiff.engine.dtensor import local, whole
from vidiff.engine.parallel import Group
from vidiff.engine.publish import sweep


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
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._what = ""
        importlib.import_module("torch.distributed.checkpoint")  # takes a second, which a save at a signal has not
        # What the thread sends must not mix with what the training does.
        self._wire = dist.new_group(backend="gloo") if group.world > 1 else None
        if group.main:
            sweep(folder)  # of a training that was killed after its last save, nothing else would

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        ema: Mapping[str, Tensor],
        state: Mapping[str, Any],
        averages: Mapping[float, Mapping[str, Tensor]],
        moments: Mapping[str, Tensor],
        updates: int = 0,
        **keep: int,
    ) -> None:
        """Begins to save, once the save before has ended: copies everything, and returns.

        model, ema, averages  of which spread tensors are gathered
        state                 of the main process
        moments               of which each process saves what it has
        updates               that the averages had, where a snapshot of them is to be left as well
        keep                  which stay, as `checkpoint.save` takes it
        """
        self.settle()
        copied = {width: self._take(f"ema-{width}", tensors) for width, tensors in averages.items()}
        job: dict[str, Any] = {
            "model": self._take("model", model),
            "ema": self._take("ema", ema),
            "state": copy.deepcopy(state),  # the training goes on counting in it
            "averages": copied,
            "moments": moments,
            "copies": {name: self._copy(f"moments.{name}", local([t])[0]) for name, t in moments.items()},
            "group": self._wire,
            **keep,
        }

        def write() -> None:
            if updates and self.group.main:  # first: so that each checkpoint has the snapshots up to its step
                snapshots.write(self.folder.parent / "ema", step, updates, copied)
            checkpoint.save(self.folder, step, **job)

        self.begun = step
        self._start(f"checkpoint of step {step}", write)

    def snapshot(self, step: int, averages: Mapping[float, Mapping[str, Tensor]], updates: int) -> None:
        """Begins to leave a snapshot of the averages alone, once the save before has ended."""
        self.settle()
        taken = {width: self._take(f"ema-{width}", tensors) for width, tensors in averages.items()}

        def write() -> None:
            if self.group.main:
                snapshots.write(self.folder.parent / "ema", step, updates, taken)

        self._start(f"EMA snapshot of step {step}", write)

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
        """On the CPU, into the same memory each time: pinned, where it comes from a GPU."""
        kept = self._copies.get(key)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
            self._copies[key] = kept
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
