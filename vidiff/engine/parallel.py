"""This process and its peers, and tensors that lie in shards over them (DTensor).

One process needs nothing, several are started by torchrun:

    python -m vidiff.train ...                           one process
    torchrun --nproc-per-node 8 -m vidiff.train ...      eight, one a GPU; without GPUs, on gloo
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# That a process waits for another in a collective. Whoever stands still is ended by the watch over each process, which
# knows what takes long; NCCL's own half an hour would end those that wait while the main one samples or saves.
PATIENCE = timedelta(days=1)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Group:
    """One process of `world`, of which `local_world` are on this machine.

    But for `main`, all processes call each method together, in one order.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local_world: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over processes, of any shape."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def reduce_max(self, values: Tensor) -> Tensor:
        """The largest over processes, of any shape."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def reduce_mean(self, values: Tensor) -> Tensor:
        """The mean over processes, of any shape."""
        return self.reduce_sum(values) / self.world

    def share(self, value: T) -> T:
        """What the main process passed."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, check: Callable[[], object]) -> None:
        """Has the main process check something. Raises on every process the ValueError that it raises."""
        wrong: ValueError | None = None
        if self.main:
            try:
                check()
            except ValueError as error:
                wrong = error
        wrong = self.share(wrong)
        if wrong is not None:
            self.gather(None)  # who leaves first would take the answer away from those that have not read it yet
            raise wrong

    def gather(self, value: Any) -> list[Any]:
        """What every process passed, by rank, on the main process; elsewhere an empty list."""
        if self.world == 1:
            return [value]
        box: list[Any] | None = [None] * self.world if self.main else None
        dist.gather_object(value, box, dst=0)
        return box or []

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.world > 1:
            dist.barrier()


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device of a name; "auto" is a GPU where there is one, else the CPU. Any name of a GPU is a process's own one,
    where torchrun has started several.

    Raises:
        ValueError: no device has that name, it is a GPU that is not there, or it is of a kind that was never tried.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"no such device: {device!r}; give auto, cpu, cuda or cuda:0") from None
    if chosen.type not in ("cpu", "cuda"):
        reason = ": samplers and grids count in float64, which it has not" if chosen.type == "mps" else ""
        raise ValueError(f"device is {device}, on which vidiff does not run{reason}; give auto, cpu, cuda or cuda:0")
    if chosen.type == "cuda":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ValueError(f"device is {device}, but torch finds no GPU here; give device=cpu, or auto")
        if (chosen.index or 0) >= count:
            raise ValueError(f"device is {chosen}, but there are {count} GPUs here, numbered from 0")
        _prepare_gpu(chosen)
    return chosen


def _prepare_gpu(device: torch.device) -> None:
    """Settle what torch would leave to chance on a GPU.

    Pinned memory and Triton's kernels go by the current device, so that is the one that was chosen. Attention is not
    left to cuDNN, whose backward pass has given wrong gradients. In fp32 products are of fp32: who wants them faster
    has bf16.
    """
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.allow_tf32 = False  # the older name: left as it was, it could no longer be read
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]


def keep_freed() -> None:
    """Have glibc keep memory that is freed: it gives large pieces back, which each step then takes anew, page by page.

    What a process holds at its peak stays the same. Who sets MALLOC_TRIM_THRESHOLD_ or its like is left alone, and so
    are other C libraries.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**28)


@contextmanager
def processes(device: str | torch.device = "auto") -> Iterator[Group]:
    """Join the processes that torchrun started, and leave them at the end. Inside another such block: a look-up."""
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group(chosen)
        return
    rank = int(os.environ["RANK"])
    group = Group(chosen, rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    if dist.is_initialized():
        yield group
        return
    cuda = chosen.type == "cuda"
    # gloo beside nccl carries the small Python objects, without a detour over the GPU
    store, _, _ = next(dist.rendezvous("env://"))
    # torchrun restarts on the same store, where further groups would find the addresses of those that are gone
    store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    own = chosen if cuda else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE, device_id=own)
    try:
        yield group
    except SystemExit:  # all leave together, as at the end; after any other error peers may hang in a collective
        leave_processes()
        raise
    leave_processes()


def leave_processes() -> None:
    """Ends the default process group.

    A thread of gloo needs Python's lock to let go of the last collective, and torch waits for that thread with the lock
    held. So the thread gets it first, or the end might be waited for without end.
    """
    time.sleep(0.2)
    dist.destroy_process_group()


def sharded(value: Any) -> bool:
    """Whether it is a DTensor; told without importing that class, which takes a second."""
    return hasattr(value, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process, which all call this together; one that is not sharded as it is."""
    return tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor, in the same memory."""
    return [tensor.detach()._local_tensor if sharded(tensor) else tensor for tensor in tensors]  # type: ignore[attr-defined]


def shard_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A tensor that every process has whole, in shards as `pattern` is; unchanged where that is not sharded."""
    if not sharded(pattern):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(pattern, DTensor)
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None)
