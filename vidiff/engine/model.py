"""The objective as the loop handles it: among its processes, weights in, and looked at without being disturbed.

Every process holds the weights whole, or a shard of them. Shards come from outside the model (FSDP2, and HSDP): each
block's weights are gathered just before it runs and dropped after it, so that no process ever holds more than its share
and one block (Rajbhandari et al. 2020, ZeRO, stage 3; Zhao et al. 2023). In HSDP, groups of processes, such as the GPUs
of one machine, hold shards, and the groups are copies of one another.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vidiff.engine.checkpoint import Checkpoint
from vidiff.engine.compile import compile_blocks, find_blocks, uncompiled
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import PATIENCE, Group, local, whole
from vidiff.engine.precision import DTYPES, Precision
from vidiff.nn.cast import low_weights

if TYPE_CHECKING:  # torch.distributed.fsdp takes a second, which trainings without shards need not
    from torch.distributed.device_mesh import DeviceMesh


class Model:
    """An objective that every process holds whole: one process, or several that average gradients (DDP).

    Attributes:
        module: what is trained: its parameters move.
        call: what a step calls. Methods other than `forward` bypass the averaging.
    """

    def __init__(self, objective: nn.Module, group: Group) -> None:
        self.group, self.compiled = group, False
        self.module = self.call = objective
        if group.world > 1:
            devices = [group.device] if group.device.type == "cuda" else None
            # what counts is counted by each alike; were it sent at each step, its readers would have to wait for it
            counts = [name for name, buffer in objective.named_buffers() if not buffer.is_floating_point()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, counts)
            self.call = DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True)

    def compile(self) -> None:
        """Compiles the blocks, which `compile.objection` must have found nothing against."""
        compile_blocks(self.module)
        self.compiled = True

    def unsynced(self) -> AbstractContextManager[None]:
        """Inside, `backward` adds to this process's own gradients: for all but the last part of a batch."""
        return self.call.no_sync() if isinstance(self.call, DistributedDataParallel) else nullcontext()

    def low_weights(self, precision: Precision) -> AbstractContextManager[None]:
        """Around both passes of a part: weights are in its precision, cast all at once; see `vidiff.nn.cast`."""
        return low_weights(self.module, self.group.device, DTYPES[precision])

    def settle(self) -> None:
        """After the last part's `backward`: gradients are the mean over all processes."""

    def unwrapped(self) -> AbstractContextManager[None]:
        """Inside, the objective that was given has the trained weights, whole, and is as it was before compilation."""
        return uncompiled() if self.compiled else nullcontext()

    def fill(self) -> None:
        """For good: the objective that was given has the trained weights, whole."""


class Shares:
    """How much the loss of each part of a batch counts, among the parts of all processes.

    Where an objective's loss is a mean over something of which one part has more than another, such as the voxels that
    it has drawn to be learned, it says how much as "weight": then gradients are those of the mean over the whole batch,
    however that is shared out. Parts of which nothing is said count alike.

    How much there is in all is known after the last part's `backward`. Until then the first part's weight, in the mean
    over processes, stands for each part's, which keeps gradients in their range.

    Args:
        parts: of the batch, on each process.
    """

    def __init__(self, group: Group, parts: int) -> None:
        self.group, self.parts = group, parts
        self.weights = list[Tensor]()
        self.first: Tensor | None = None

    def loss(self, result: dict[str, Tensor]) -> Tensor:
        """What `backward` is to be called of, of what the objective gave of the next part; takes "weight" out of it."""
        weight = result.pop("weight", None)
        if weight is None or self.group.world * self.parts == 1:
            return result["loss"] / self.parts
        weight = weight.detach().float()
        if self.first is None:
            self.first = self.group.reduce_mean(weight)
        self.weights.append(weight)
        return result["loss"] * (weight / self.first) / self.parts

    @torch.no_grad()
    def settle(self, results: list[dict[str, Tensor]], module: nn.Module) -> None:
        """After the last `backward`: the losses in `results`, and gradients, are made those of the whole batch."""
        if self.first is None:
            return
        mean = self.first
        if self.parts > 1:
            mean = self.group.reduce_mean(torch.stack(self.weights).mean())
            torch._foreach_mul_(local([p.grad for p in module.parameters() if p.grad is not None]), self.first / mean)
        for result, weight in zip(results, self.weights, strict=True):
            result["loss"] = result["loss"] * (weight / mean)


def load_state(objective: nn.Module, saved: Checkpoint) -> None:
    """Put a checkpoint's weights into the objective. Raises ValueError where they are another model's."""
    try:
        objective.load_state_dict(saved.model)
    except RuntimeError as error:
        raise ValueError(
            f"{saved.path} is of another model; give this one another run folder, or set its options as they "
            f"were. {textwrap.shorten(str(error), 300)}"
        ) from None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each part is in the mode it was in, frozen parts too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def shards_of(group: Group, options: TrainOptions) -> int:
    """In how many shards a model lies. Raises ValueError where the processes do not divide into groups of hsdp."""
    if group.world == 1 or options.parallel == "ddp":
        return 1
    shards = group.world if options.parallel == "fsdp" else options.shards or group.local_world
    if group.world % shards:
        raise ValueError(
            f"train.shards is {shards}, but {group.world} processes do not divide into groups of that size; "
            "give a divisor, or train.parallel=fsdp"
        )
    return shards


def make_mesh(group: Group, options: TrainOptions) -> DeviceMesh:
    """All processes in a row for fsdp; for hsdp, copies by shards. Raises ValueError as `shards_of`."""
    from torch.distributed.device_mesh import DeviceMesh

    kind = group.device.type
    if options.parallel == "fsdp":
        assert dist.group.WORLD is not None
        return DeviceMesh.from_group(dist.group.WORLD, kind, mesh_dim_names=("shard",))
    shards = shards_of(group, options)
    ranks = torch.arange(group.world).view(-1, shards)
    # groups that a mesh makes by itself would wait for minutes only
    groups = [dist.new_subgroups_by_enumeration(rows.tolist(), PATIENCE)[0] for rows in (ranks.T, ranks)]
    return DeviceMesh.from_group(groups, kind, ranks, mesh_dim_names=("copy", "shard"))


class Shards(Model):
    """An objective of which every process holds a shard.

    What is trained is a twin of the objective. The objective itself, which callbacks draw and validate with, is empty
    but within `unwrapped`, when it has the whole weights: so a single process can run it, and any part of it.

    Weights are kept in float32. Blocks get them in the precision of the run, which halves what is sent; what lies
    outside of blocks stays in float32, and gradients are summed in float32. FSDP cannot shard a single number, so
    parameters without dimensions stay whole.

    FSDP wants kernels whose last axis is the innermost, where activations have their channels there, so cuDNN lays each
    out anew at each call: in the recipe ucf that is about a hundredth of the bytes that a step moves, which is let be.
    """

    def __init__(self, objective: nn.Module, group: Group, mesh: DeviceMesh, precision: Precision) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.objective, self.group, self.compiled = objective, group, False
        shared = {id(p): p for p in objective.parameters()}
        twin = copy.deepcopy(objective, shared)  # of everything but the parameters
        self.layout = [torch.empty_like(p, device="meta") for p in objective.parameters()]  # strides, too
        for p in twin.parameters():
            p.data = p.data.contiguous()  # FSDP wants it
        for tensor in (*twin.parameters(), *twin.buffers()):
            dist.broadcast(tensor.data, src=0)
        self.single = [p for p in twin.parameters() if p.ndim == 0]
        if self.single and precision == "fp16":
            raise ValueError("train.parallel=fsdp cannot scale fp16's gradients of single numbers; use precision=bf16")
        low = None if precision == "fp32" else DTYPES[precision]
        policy = MixedPrecisionPolicy(low, torch.float32, cast_forward_inputs=False)
        ignored = set(self.single)
        for block in find_blocks(twin):
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=ignored)
        fully_shard(twin, mesh=mesh, ignored_params=ignored)
        self.module = self.call = twin
        self._replace_parameters(objective)

    @staticmethod
    def _replace_parameters(objective: nn.Module) -> None:
        """The objective's own parameters, empty: so that the twin's are freed as they are sharded."""
        empty = {p: nn.Parameter(p.new_empty(0), p.requires_grad) for p in objective.parameters()}
        for part in objective.modules():
            for name, p in part._parameters.items():
                if p is not None:
                    part._parameters[name] = empty[p]

    @contextmanager
    def unsynced(self) -> Iterator[None]:
        """Gradients are summed in shards, part by part, for whole ones would lie on every process; copies of hsdp wait
        for the last."""
        self.call.set_requires_all_reduce(False)  # type: ignore[operator]
        try:
            yield
        finally:
            self.call.set_requires_all_reduce(True)  # type: ignore[operator]

    def low_weights(self, precision: Precision) -> AbstractContextManager[None]:
        return nullcontext()  # FSDP casts what it gathers

    def settle(self) -> None:
        grads = [p.grad for p in self.single if p.grad is not None]
        if grads:
            for grad, mean in zip(grads, self.group.reduce_mean(torch.stack(grads)), strict=True):
                grad.copy_(mean)

    @contextmanager
    def unwrapped(self) -> Iterator[None]:
        self.fill()
        try:
            yield
        finally:
            for p in self.objective.parameters():
                p.data = p.data.new_empty(0)

    @torch.no_grad()
    def fill(self) -> None:
        """The whole weights into the objective, on every process."""
        for own, trained, layout in zip(
            self.objective.parameters(), self.module.parameters(), self.layout, strict=True
        ):
            own.data = torch.empty_like(layout, device=trained.device).copy_(whole(trained))
        for buffer, trained_buffer in zip(self.objective.buffers(), self.module.buffers(), strict=True):
            buffer.copy_(trained_buffer)


def spread(objective: nn.Module, group: Group, options: TrainOptions, precision: Precision) -> Model:
    """The objective among the processes of `group`, as `options.parallel` says.

    Raises:
        ValueError: the processes do not divide into groups of `options.shards`.
    """
    if group.world == 1 or options.parallel == "ddp":
        return Model(objective, group)
    return Shards(objective, group, make_mesh(group, options), precision)
