"""A toy under FSDP2 in processes of gloo, or whole in one, saved and loaded by vidiff's own parts."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from vidiff.engine import checkpoint, moments
from vidiff.engine.checkpoint import Saver
from vidiff.engine.ema import EMA
from vidiff.engine.model import load_state
from vidiff.engine.optim import Optim, build_optimizer
from vidiff.engine.parallel import Group, leave_processes, whole


def toy() -> nn.Module:
    """Sizes that two processes cannot share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 1))


def train(rank: int, world: int, folder: str, out: str, steps: int, start: int) -> None:
    """Goes on from step `start`, takes `steps`, saves, and leaves what it has, whole, before and after."""
    torch.set_num_threads(1)
    with open(f"{out}.{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if world > 1:
        os.environ["LOCAL_RANK"] = str(rank)
        dist.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=world)
    group = Group(torch.device("cpu"), rank, world)
    module = toy()
    path = checkpoint.newest(Path(folder))
    found = checkpoint.load(path) if path else None
    if found:
        load_state(module, found)
    if world > 1:
        from torch.distributed.fsdp import fully_shard

        for part in module:
            fully_shard(part)
        fully_shard(module)
    optimizer = build_optimizer(Optim(lr=0.1, weight_decay=0.1), module)
    ema = EMA(module, decay=0.9)
    if found:
        ema.load_state_dict(found.ema, found.state["updates"])
        moments.into_optimizers(found.path, module, optimizer.parts)
    saver = Saver(Path(folder), group, print)

    def content() -> dict[str, torch.Tensor]:
        parts = {
            "model": module.state_dict(),
            "ema": ema.state_dict(),
            "moments": moments.of_optimizers(module, optimizer.parts),
        }
        return {f"{n}.{k}": whole(t.detach()).clone() for n, part in parts.items() for k, t in part.items()}

    before = content()
    for _ in range(steps):
        x = torch.linspace(-1, 1, 12).view(4, 3)[rank * 4 // world : (rank + 1) * 4 // world]
        (module(x) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
    state = {"updates": ema.updates}
    kept = moments.of_optimizers(module, optimizer.parts)
    saver.save(start + steps, module.state_dict(), ema.state_dict(), state, {}, kept)
    after = content()
    with torch.no_grad():  # what goes on while the thread writes must not be in the checkpoint
        for parameter in module.parameters():
            parameter.zero_()
    saver.finish()
    with ema.swapped(), torch.no_grad():
        shown = module(torch.linspace(-1, 1, 12).view(4, 3))
    if rank == 0:
        torch.save({"before": before, "after": after, "shown": whole(shown)}, out)
    if world > 1:
        leave_processes()
