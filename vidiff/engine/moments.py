"""What an optimizer remembers of each parameter, written by all processes and read by any number of others.

    training/__0_0.distcp  __1_0.distcp ...    tensors, of each process those that it holds
             .metadata                         which part of which tensor lies where

The format is torch.distributed.checkpoint's. Its .metadata is a pickle, which could run code: it is read with a list
of the few classes that belong there.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidiff.engine.publish import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import Metadata

_DCP = "torch.distributed.checkpoint"
_ALLOWED = {
    *((f"{_DCP}.metadata", name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((f"{_DCP}.metadata", name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")),
    (f"{_DCP}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)),
}
_FILE = re.compile(r"__\d+_\d+\.distcp")

# One process needs no torch.distributed, and need not hear that it has none.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def of_optimizers(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of each optimizer, by its kind, the parameter's name in `module`, and the name of the value."""
    return {
        f"{type(optimizer).__name__}.{name}.{key}": value
        for optimizer in optimizers
        for name, parameter in _parameters(module, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def into_optimizers(path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Reads `path`/training; settings such as the learning rate stay. `path` must have been verified.

    Raises:
        CheckpointError: for a file that is not what `write` makes.
        ValueError: for the moments of another optimizer or model.
    """
    saved = metadata(path).state_dict_metadata
    owners = {
        f"{type(optimizer).__name__}.{name}": (which, number, parameter)
        for which, optimizer in enumerate(optimizers)
        for number, (name, parameter) in enumerate(_parameters(module, optimizer))
    }
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    wanted: dict[str, Tensor] = {}
    for full, of in saved.items():
        owner, _, key = full.rpartition(".")
        if owner in owners:
            which, number, parameter = owners[owner]
            dtype = of.properties.dtype  # type: ignore[union-attr]
            value = _like(parameter, dtype) if of.size == parameter.shape else torch.zeros(of.size, dtype=dtype)  # type: ignore[union-attr]
            wanted[full] = states[which].setdefault(number, {})[key] = value
    if odd := sorted(saved.keys() - wanted.keys()):
        raise ValueError(
            f"{path} was made by another optimizer or for another model (it has {odd[0]}): set train.optim.name as it "
            "was, or give this one another run folder, and start=RUN to begin from the weights"
        )
    read(path, wanted)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter, in the order of the optimizer's own numbers."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [(names[parameter], parameter) for group in optimizer.param_groups for parameter in group["params"]]


def _like(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)


def write(
    path: Path, tensors: Mapping[str, Tensor], copies: Mapping[str, Tensor], group: dist.ProcessGroup | None
) -> None:
    """Writes `path`/training; all processes of `group` call this together.

    Args:
        tensors: what is to be saved, plain or spread over processes; only shapes and places are looked at.
        copies: of each, on the CPU, what this process has of it; the content.

    Raises:
        OSError: the disk is full or refuses, on every process.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import StorageMeta

    class Planner(dcp.DefaultSavePlanner):
        def lookup_object(self, index: Any) -> Any:
            return copies[index.fqn]

    class Writer(dcp.FileSystemWriter):
        def storage_meta(self) -> StorageMeta:
            return StorageMeta()  # without the path and a random name: the same state makes the same bytes

    try:
        dcp.save(
            dict(tensors),
            storage_writer=Writer(path / "training", per_thread_copy_ahead=0),
            planner=Planner(flatten_state_dict=False),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        raise OSError(_causes(error)) from None


def read(path: Path, into: Mapping[str, Tensor]) -> None:
    """Fills tensors, plain or spread over however many processes, with what `write` wrote under their names.

    Each process reads what it needs, by itself. Raises CheckpointError for a file that is not what `write` makes.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    class Reader(dcp.FileSystemReader):
        def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
            return metadata(path)

    try:
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
        dcp.load(dict(into), storage_reader=Reader(path / "training"), planner=planner, no_dist=True)
    except CheckpointException as error:
        raise CheckpointError(f"{path}/training cannot be read: {_causes(error)}") from None


def _causes(error: CheckpointException) -> str:
    """What each process met, in one line; without the tracebacks of all, which are long."""
    causes = {str(cause).split("\n")[0] or type(cause).__name__ for cause, _ in error.failures.values()}
    return "; ".join(sorted(causes))


def metadata(path: Path) -> Metadata:
    """What of which tensor lies where in `path`/training. Raises CheckpointError for one that holds anything else."""
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

    path = path / "training" / ".metadata"
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
        sound = (
            isinstance(content, Metadata)
            and all(isinstance(of, TensorStorageMetadata) for of in content.state_dict_metadata.values())
            and all(_FILE.fullmatch(of.relative_path) for of in content.storage_data.values())
        )
    except Exception as error:  # what unpickling of odd bytes may raise
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not sound:
        raise CheckpointError(f"{path} does not tell of tensors")
    content.storage_meta = StorageMeta()
    return content


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which does not belong there")
        return super().find_class(module, name)
