"""A step of a diffusion model whose tasks differ from sample to sample, as a process of its own or one of several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.schedule import Cosine
from vidiff.engine import loop
from vidiff.engine.loop import fit
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import whole
from vidiff.objective import diffusion
from vidiff.objective.diffusion import DiffusionLoss, DiffusionObjective
from vidiff.objective.task import Drawn

SIZE, FRAMES = 8, 5
KNOWN = [0, 4, 1, 4, 3, 0, 4, 4]
"""First frames that are known of each sample: among two halves, or quarters, of the batch there is unequally much to
learn."""


class Network(nn.Module):
    """Each number on its own, with weights that gradients differ for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        both = torch.stack([x, log_snr.expand_as(x) / 10], dim=-1)
        return self.layers(both).squeeze(-1)


class Fixed(DiffusionObjective):
    """In which all that is drawn follows from the number of a sample, and from nothing else."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        keys = batch["key"]
        generator = torch.Generator().manual_seed(0)
        eps = torch.randn(SIZE, 2, FRAMES, 3, 3, generator=generator)[keys]
        clock = torch.rand(SIZE, 1, FRAMES, 1, 1, generator=generator)[keys]
        known = torch.arange(FRAMES).view(1, 1, -1, 1, 1) < torch.tensor(KNOWN)[keys].view(-1, 1, 1, 1, 1)
        drawn = Drawn(torch.ones_like(keys), known, torch.zeros(len(keys), 1, 1, 1, 1))
        diffusion.draw_known = lambda *_: drawn
        diffusion.draw_clock = lambda *_: (torch.where(known, 0.0, clock), ~known)
        torch.randn_like = lambda _: eps  # type: ignore[assignment]
        return super().forward(batch)


def batches(rank: int, world: int, parts: int) -> Iterator[dict[str, Tensor]]:
    """The samples, in order, shared out among parts, and of these among processes."""
    share = SIZE // (world * parts)
    video = torch.randn(SIZE, 2, FRAMES, 3, 3, generator=torch.Generator().manual_seed(1))
    while True:
        for part in range(parts):
            first = (part * world + rank) * share
            keys = torch.arange(first, first + share)
            yield {"video": video[keys], "key": keys}


def gradients(
    rank: int, world: int, port: str, out: str, parts: int, parallel: str, weighting: str, bound: float
) -> None:
    """Takes a step; the gradients that the optimizer gets, and the loss that is logged, are left in `out`."""
    torch.set_num_threads(1)
    with open(f"{out}.{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    clip = loop.clip_gradients

    def kept(parameters: list[nn.Parameter], most: float) -> Tensor:
        found = [whole(p.grad).clone() for p in parameters if p.grad is not None]
        if rank == 0:
            torch.save(found, out)
        return clip(parameters, most)

    loop.clip_gradients = kept
    loss = DiffusionLoss(weighting=weighting, bound=bound)
    objective = Fixed(Denoiser(Network(), Cosine(), "v"), loss)
    options = TrainOptions(steps=1, precision="fp32", accumulate=parts, parallel=parallel, log_every=1)
    fit(objective, lambda _: batches(rank, world, parts), SIZE, options, Path(f"{out}.run"), device="cpu")
