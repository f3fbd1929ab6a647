"""The training clock: which voxels of a clip are known, drawn from a mixture of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vidiff.diffusion.known import end_frames, first_frames, last_frames
from vidiff.diffusion.process import send


@dataclass
class Tasks:
    """Weights of the tasks that a sample may be trained for, and how its known frames are shown."""

    generate: float = 0.5  # nothing is known
    first: float = 0.35  # the first k frames, k uniform
    random: float = 0.15  # each frame with a probability that is itself uniform
    last: float = 0.0  # the last k frames, k uniform: to extend backwards
    ends: float = 0.0  # some frames at both ends: to interpolate
    boxes: float = 0.0  # all but a box of some frames, or for one in four nothing but a box: to inpaint and outpaint
    clocks: float = 0.0  # nothing is known, and each frame has a time of its own (Chen et al. 2024, diffusion forcing)
    noise: float = 0.1  # largest time at which known frames are shown: 0 for half of the samples, else uniform
    forget: float = 0.1  # probability that known frames are shown as pure noise, for guidance on history
    rising: float = 0.25  # probability that the clock rises along the frames, for drawing with a lag
    slope: float = 0.3  # largest rise from one unknown frame to the next

    NAMES = ("generate", "first", "random", "last", "ends", "boxes", "clocks")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in self.NAMES and not 0 <= value < math.inf:
                raise ValueError(f"tasks.{field.name} is {value}; it is a weight: give 0 or more")
            if field.name not in self.NAMES and not 0 <= value <= 1:
                raise ValueError(f"tasks.{field.name} is {value}; give a number from 0 to 1")
        if not any(getattr(self, name) for name in self.NAMES):
            raise ValueError(f"tasks: every weight is 0; give at least one of {', '.join(self.NAMES)}")


@dataclass(frozen=True)
class Drawn:
    """What b samples are trained for.

    Args:
        task: `(b,)`, the number of each sample's task in `Tasks.NAMES`.
        known: bool `(b, 1, f, 1, 1)`, or `(b, 1, f, h, w)` where boxes are trained; some voxel is unknown.
        level: `(b, 1, 1, 1, 1)`, the time at which what is known is shown.
    """

    task: Tensor
    known: Tensor
    level: Tensor


def draw_known(tasks: Tasks, shape: torch.Size, device: torch.device) -> Drawn:
    """Draw each sample's task on its own, for `x` of `shape` `(b, c, f, h, w)`.

    Of a single frame, none can be known while another is made: but for boxes and clocks, its task is to generate it.
    """
    batch, _, frames, height, width = shape
    weights = torch.tensor([getattr(tasks, name) for name in Tasks.NAMES])
    task = send(torch.multinomial(weights, batch, replacement=True), device)
    if frames == 1:
        between = [Tasks.NAMES.index(name) for name in ("first", "random", "last", "ends")]
        task = torch.where(torch.isin(task, send(torch.tensor(between), device)), Tasks.NAMES.index("generate"), task)
    count = torch.randint(1, max(frames, 2), (batch,), device=device)  # 1 to f - 1
    draw = torch.rand(batch, frames, device=device)
    some = draw < torch.rand(batch, 1, device=device)
    some &= draw < draw.amax(dim=1, keepdim=True)  # one frame at least is left to be made
    known = torch.zeros(batch, 1, frames, 1, 1, dtype=torch.bool, device=device)
    masks: dict[str, Callable[[], Tensor]] = {  # those that no weight asks for are not drawn
        "first": lambda: first_frames(frames, count),
        "random": lambda: some.view(batch, 1, frames, 1, 1),
        "last": lambda: last_frames(frames, count),
        "ends": lambda: _ends(count, frames),
        "boxes": lambda: _boxes(batch, frames, height, width, device),
    }
    for name, mask in masks.items():
        if getattr(tasks, name) and (frames > 1 or name == "boxes"):
            known = torch.where((task == Tasks.NAMES.index(name)).view(-1, 1, 1, 1, 1), mask(), known)
    level = tasks.noise * (2 * torch.rand(batch, device=device) - 1).clamp(min=0)  # half of them exactly 0
    level = torch.where(torch.rand(batch, device=device) < tasks.forget, 1.0, level)
    return Drawn(task, known, level.view(-1, 1, 1, 1, 1))


def _ends(count: Tensor, frames: int) -> Tensor:
    """`count` frames known at both ends together, one at each at least if there are two: `(b, 1, f, 1, 1)`."""
    first = 1 + (torch.rand(count.shape, device=count.device) * (count - 1)).long()
    return end_frames(frames, first, count - first)


def _boxes(batch: int, frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Boxes of a quarter to all of each side, in a run of frames or for half of the samples in all: `(b, 1, f, h, w)`.

    What is known is the rest; for one sample in four it is the box, in all frames.
    """

    def span(length: int, least: int) -> tuple[Tensor, Tensor]:
        size = least + (torch.rand(batch, 1, device=device) * (length - least + 1)).long()
        start = (torch.rand(batch, 1, device=device) * (length - size + 1)).long()
        along = torch.arange(length, device=device)
        return (along >= start) & (along < start + size), size

    rows, tall = span(height, -(-height // 4))
    columns, wide = span(width, -(-width // 4))
    some, _ = span(frames, 1)
    always, outpaint = torch.rand(batch, 1, device=device) < 0.5, torch.rand(batch, 1, device=device) < 0.25
    outpaint &= (tall < height) | (wide < width)  # a box of the whole frame leaves nothing to be made around it
    box = rows.view(batch, 1, 1, height, 1) & columns.view(batch, 1, 1, 1, width)  # b 1 1 h w
    outpaint = outpaint.view(batch, 1, 1, 1, 1)
    inside = box & (some | always).view(batch, 1, frames, 1, 1)
    return torch.where(outpaint, box, ~inside)


def draw_clock(
    tasks: Tasks, t: Tensor, drawn: Drawn, times: Callable[[int], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The clock of each voxel: `level` where known, elsewhere `t`, or for some samples rising from frame to frame.

    Where it rises, the frames stand as they do midway in a rolling draw (Ruhe et al. 2024, rolling diffusion, section
    3): from the time `t` that is drawn for a sample follows how far the draw has come, the first frames have reached 0
    already and the last wait at 1. It rises only where frames are known or unknown as a whole.

    Args:
        t: `(b,)`.
        times: n -> `(n,)`, from which frames with times of their own have them; uniform in [0, 1] if not given.

    Returns:
        clock, shaped as `drawn.known`, and which voxels are to be learned from: the unknown ones on their way from 1
        to 0.
    """
    known, whole = drawn.known, drawn.known.shape[3:] == (1, 1)
    t = t.view(-1, 1, 1, 1, 1)
    slope = tasks.slope * torch.rand_like(t) * (torch.rand_like(t) < tasks.rising)
    for name in ("boxes", "clocks"):
        slope = torch.where((drawn.task == Tasks.NAMES.index(name)).view(-1, 1, 1, 1, 1), 0.0, slope)
    frames = known if whole else known.flatten(3).all(3)[..., None, None]  # b 1 f 1 1
    position = (~frames).cumsum(dim=2) - 1  # of each unknown frame among them
    span = slope * position[:, :, -1:]  # from the first of them to the last
    clock = (t * (1 + span) - span + slope * position).clamp(0, 1)
    learned = ~known & ((slope == 0) | ((clock > 0) & (clock < 1)))
    if tasks.clocks:
        count = clock.shape[0] * clock.shape[2]
        own = torch.rand(count, device=t.device) if times is None else times(count)
        own = own[torch.randperm(count, device=t.device)].view(-1, 1, clock.shape[2], 1, 1)  # they may come in order
        clock = torch.where((drawn.task == Tasks.NAMES.index("clocks")).view(-1, 1, 1, 1, 1), own, clock)
    return torch.where(known, drawn.level, clock), learned
