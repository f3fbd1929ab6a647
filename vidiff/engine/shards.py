"""Weights, gradients and moments in shards over processes, from outside the model: FSDP2, and HSDP.

Each block's weights are gathered just before it runs and dropped after it, so that no process ever holds more than its
share and one block (Rajbhandari et al. 2020, ZeRO, stage 3; Zhao et al. 2023). In HSDP, groups of processes, such as
the GPUs of one machine, hold shards, and the groups are copies of one another.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vidiff.engine.blocks import find_blocks
from vidiff.engine.dtensor import whole
from vidiff.engine.model import Model
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group
from vidiff.engine.precision import DTYPES, Precision


def make_mesh(group: Group, options: TrainOptions) -> DeviceMesh:
    """All processes in a row for fsdp; for hsdp, copies by shards. Raises ValueError where they do not divide."""
    if options.parallel == "fsdp":
        return init_device_mesh(group.device.type, (group.world,), mesh_dim_names=("shard",))
    shards = options.shards or group.local_world
    if group.world % shards:
        raise ValueError(
            f"train.shards is {shards}, but {group.world} processes do not divide into groups of that size; "
            "give a divisor, or train.parallel=fsdp"
        )
    sizes = (group.world // shards, shards)
    return init_device_mesh(group.device.type, sizes, mesh_dim_names=("copy", "shard"))


class Shards(Model):
    """An objective of which every process holds a shard.

    What is trained is a twin of the objective. The objective itself, which callbacks draw and validate with, is empty
    but within `shown`, when it has the whole weights: so a single process can run it, and any part of it.

    Weights are kept in float32. Blocks get them in the precision of the run, which halves what is sent; what lies
    outside of blocks stays in float32, and gradients are summed in float32. FSDP cannot shard a single number, so
    parameters without dimensions stay whole.
    """

    def __init__(self, objective: nn.Module, group: Group, mesh: DeviceMesh, precision: Precision) -> None:
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
        assert isinstance(self.call, FSDPModule)
        self.call.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.call.set_requires_gradient_sync(True)

    def settle(self) -> None:
        grads = [p.grad for p in self.single if p.grad is not None]
        if grads:
            for grad, mean in zip(grads, self.group.reduce_mean(torch.stack(grads)), strict=True):
                grad.copy_(mean)

    @contextmanager
    def shown(self) -> Iterator[None]:
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
