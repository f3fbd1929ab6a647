"""The training clock: which voxels of a clip are known, drawn from a mixture of tasks."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vidiff.diffusion.known import first_frames


@dataclass
class Tasks:
    """Weights of the tasks that a sample may be trained for, and how its known frames are shown."""

    generate: float = 0.5  # nothing is known
    first: float = 0.35  # the first k frames, k uniform
    random: float = 0.15  # each frame with a probability that is itself uniform
    noise: float = 0.1  # largest time at which known frames are shown: 0 for half of the samples, else uniform
    forget: float = 0.1  # probability that known frames are shown as pure noise, for guidance on history
    rising: float = 0.25  # probability that the clock rises along the frames, for drawing with a lag
    slope: float = 0.3  # largest rise from one unknown frame to the next

    NAMES = ("generate", "first", "random")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0 or (field.name not in self.NAMES and value > 1):
                raise ValueError(f"tasks.{field.name} is {value}; give a number from 0 to 1")
        if not any(getattr(self, name) for name in self.NAMES):
            raise ValueError("tasks: every weight is 0; give at least one of generate, first, random")


def draw_known(tasks: Tasks, batch: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw each sample's task on its own.

    Returns:
        known, bool `(b, 1, f, 1, 1)`, with at least one frame unknown; the time at which known frames are shown,
        `(b, 1, 1, 1, 1)`; the number of each sample's task in `Tasks.NAMES`, `(b,)`.
    """
    weights = torch.tensor([getattr(tasks, name) for name in Tasks.NAMES])
    task = torch.multinomial(weights, batch, replacement=True).to(device)
    count = torch.randint(1, max(frames, 2), (batch,), device=device)  # 1 to f - 1
    first = first_frames(frames, count)  # b 1 f 1 1
    draw = torch.rand(batch, frames, device=device)
    some = draw < torch.rand(batch, 1, device=device)
    some &= draw < draw.amax(dim=1, keepdim=True)  # one frame at least is left to be made
    known = torch.where((task == 1).view(-1, 1, 1, 1, 1), first, some.view(batch, 1, frames, 1, 1))
    known &= (task > 0).view(-1, 1, 1, 1, 1) & (frames > 1)
    level = tasks.noise * (2 * torch.rand(batch, device=device) - 1).clamp(min=0)  # half of them exactly 0
    level = torch.where(torch.rand(batch, device=device) < tasks.forget, 1.0, level)
    return known, level.view(-1, 1, 1, 1, 1), task


def draw_clock(tasks: Tasks, t: Tensor, known: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The clock of each frame: `level` where known, elsewhere `t`, or for some samples rising from frame to frame.

    Where it rises, the frames stand as they do midway in a rolling draw (Ruhe et al. 2024, rolling diffusion, section
    3): from the time `t` that is drawn for a sample follows how far the draw has come, the first frames have reached 0
    already and the last wait at 1.

    Args:
        t: `(b,)`.
        known: bool `(b, 1, f, 1, 1)`; level: `(b, 1, 1, 1, 1)`.

    Returns:
        clock `(b, 1, f, 1, 1)`, and which frames are to be learned from: the unknown ones on their way from 1 to 0.
    """
    t = t.view(-1, 1, 1, 1, 1)
    slope = tasks.slope * torch.rand_like(t) * (torch.rand_like(t) < tasks.rising)
    place = (~known).cumsum(dim=2) - 1  # of each unknown frame among them
    span = slope * place[:, :, -1:]  # from the first of them to the last
    clock = (t * (1 + span) - span + slope * place).clamp(0, 1)
    learned = ~known & ((slope == 0) | ((clock > 0) & (clock < 1)))
    return torch.where(known, level, clock), learned
