"""Numbers to vectors: clock, label, stride, guidance and action embeddings, and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.diffusion.condition import ASKED, Condition


def sinusoidal(x: Tensor, dim: int, period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of real numbers (Vaswani et al. 2017, section 3.5).

    Args:
        x: any shape.
        dim: even; the first half holds sines, the second cosines.

    Returns:
        `(*x.shape, dim)` in float32.
    """
    frequency = torch.exp(torch.arange(dim // 2, device=x.device) * (-math.log(period) / (dim // 2)))
    angle = x.float()[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Embedding(nn.Module):
    """A layer that makes of each frame what blocks are told of it: its clock, what was done before it, and the sample's
    label, stride, noise of the videos that it is shown, and scale of guidance.

    Args:
        dim: width of the result.
        labels: number of classes; 0 for a model without labels.
        strided: whether clips come with a frame stride.
        videos: names of the videos, which may be noised, that condition the model.
        guided: whether it is told the scale of guidance (Meng et al. 2023, on distillation of guided diffusion models,
            section 3.1).
        actions: numbers by which it is told what led to a frame; 0 for none.
    """

    def __init__(
        self,
        dim: int,
        labels: int = 0,
        strided: bool = False,
        videos: Sequence[str] = (),
        guided: bool = False,
        actions: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.labels = dim, labels
        self.clock = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(labels + 1, dim) if labels else None  # row 0 is "no label"
        self.stride = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)) if strided else None
        if self.stride is not None:  # says nothing at first: a model of one stride may begin to learn others
            for parameter in self.stride[-1].parameters():
                nn.init.zeros_(parameter)
        self.videos = [*videos]
        for name in self.videos:
            last = nn.Linear(dim, dim)
            self.add_module(name, nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), last))
            if name in ASKED:  # says nothing at first: a model of clips may begin to learn what is shown beside them
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)
        self.guidance = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)) if guided else None
        if self.guidance is not None:  # says nothing at first, so that a student begins as its teacher
            for parameter in self.guidance[-1].parameters():
                nn.init.zeros_(parameter)
        self.actions = actions
        self.action = nn.Sequential(nn.Linear(actions, dim), nn.SiLU(), nn.Linear(dim, dim)) if actions else None
        if self.action is not None:  # says nothing at first: a model of clips may begin to learn what leads to them
            for parameter in self.action[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, log_snr: Tensor, condition: Condition) -> Tensor:
        """Embed each frame.

        Args:
            log_snr: `(b, f)`, the mean clamped log-SNR of each frame.
            condition: its label, stride, guidance, action and the noise of its videos are read; one that is absent
                stands for "none", or for a video without noise.

        Returns:
            `(b, f, dim)`.

        Raises:
            ValueError: if a label is outside the model's classes, or an action is of another shape.
        """
        # Log-SNR spans [-20, 20]; times 25 it spans what a discrete clock of 1,000 steps would.
        emb = self.clock(sinusoidal(log_snr * 25, self.dim))  # b f dim
        if self.label is not None:
            label = condition.label
            if label is None:
                label = torch.full(log_snr.shape[:1], -1, device=log_snr.device)
            elif label.device.type == "cpu" and not bool(((label >= -1) & (label < self.labels)).all()):
                raise ValueError(f"label {label.tolist()} is outside 0 to {self.labels - 1} (-1 means none)")
            emb = emb + self.label(label + 1)[:, None]
        if self.stride is not None and condition.stride is not None:
            emb = emb + self.stride(sinusoidal(condition.stride.float().log2() * 100, self.dim))[:, None]
        for name in self.videos:
            noise = condition.noise_of(name, log_snr)
            emb = emb + self.get_submodule(name)(sinusoidal(noise * 25, self.dim))[:, None]
        if self.guidance is not None and condition.guidance is not None:
            emb = emb + self.guidance(sinusoidal(condition.guidance.float() * 100, self.dim))[:, None]
        if self.action is not None:
            told = condition.action
            told = log_snr.new_zeros(*log_snr.shape, 0) if told is None else told.to(log_snr.dtype).flatten(2)
            if told.shape[:2] != log_snr.shape or told.shape[2] > self.actions:
                raise ValueError(
                    f"condition.action is {tuple(told.shape)}; expected {(*log_snr.shape, self.actions)}: a row for "
                    "each frame"
                )
            emb = emb + self.action(F.pad(told, (0, self.actions - told.shape[2])))
        return emb


def rotary(sizes: tuple[int, ...], head_dim: int, device: torch.device, period: float = 100.0) -> Tensor:
    """Angles of rotary position embedding over one or more axes (Su et al. 2021, eq. 15; axes share the pairs).

    Only differences of positions reach the attention weights, so a model works at other lengths and sizes. The last
    pair is not turned: it is free for what does not depend on position.

    Args:
        sizes: tokens along each axis, in the order in which they are flattened.
        head_dim: channels a head; all but the last of its `head_dim // 2` pairs are shared out among the axes.

    Returns:
        `(prod(sizes), head_dim // 2)` angles in radians.
    """
    pairs = head_dim // 2 - 1
    share = [pairs // len(sizes) + (axis < pairs % len(sizes)) for axis in range(len(sizes))]
    angles = []
    for axis, (size, count) in enumerate(zip(sizes, share, strict=True)):
        frequency = period ** (-torch.arange(count, device=device) / max(count, 1))
        angle = torch.arange(size, device=device)[:, None] * frequency  # size count
        shape = [1] * len(sizes) + [count]
        shape[axis] = size
        angles.append(angle.view(shape).expand(*sizes, count))
    return F.pad(torch.cat(angles, dim=-1).reshape(-1, pairs), (0, 1))


class Turn(NamedTuple):
    """What turns queries, keys and values by the angles of their tokens, and results back: as `rotate` takes it."""

    there: Tensor
    back: Tensor

    def last(self, count: int) -> Turn:
        """That of the last tokens."""
        return Turn(self.there[..., -count:, :], self.back[..., -count:, :])


def turn_by(angles: Tensor, real: bool) -> Turn:
    """Angles `(n, d // 2)` as a turn: complex `(n, d // 2)`, or cosines and sines `(2, n, d // 2)`.

    Args:
        real: as a GPU needs it, whose compilers cannot fuse complex numbers; on a CPU those are one pass, and faster.
    """
    if real:
        cos, sin = angles.cos(), angles.sin()
        return Turn(torch.stack([cos, sin]), torch.stack([cos, -sin]))
    there = torch.polar(torch.ones_like(angles), angles)
    return Turn(there, there.conj().resolve_conj())


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels by its token's angle.

    Args:
        x: `(..., n, d)` in float32.
        turn: one of a `Turn`'s.
    """
    if turn.is_complex():
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
    cos, sin = turn
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)  # ... n d/2
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)
