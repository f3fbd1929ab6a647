"""AdamW, and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass
class Optim:
    """How weights move. Raises ValueError for values that cannot work."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 100
    """Steps of linear rise to `lr`."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """What follows the warm-up, until the last step."""
    floor: float = 0.0
    """Where the decay ends, as a fraction of `lr`."""
    clip: float = 1.0
    """Largest norm of the gradient over all parameters; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr is {self.lr}; give a number above 0, such as 3e-4")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas is {tuple(self.betas)}; both must be in [0, 1), such as (0.9, 0.99)")
        if self.decay not in ("constant", "cosine", "linear"):
            raise ValueError(f"optim.decay is {self.decay!r}; choose constant, cosine or linear")
        for name in ("weight_decay", "warmup", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; give 0 (off) or more")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"optim.floor is {self.floor}; it is a fraction of lr, from 0 to 1")


def learning_rate(options: Optim, step: int, steps: int) -> float:
    """The rate of step number `step` (from 0) of `steps`.

    It rises as lr (step + 1) / warmup, so that the first step already moves, reaches `lr` at the last step of
    the warm-up, and falls to floor * lr at step `steps`, which is one past the last.
    """
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    done = min(1.0, (step - options.warmup) / max(1, steps - options.warmup))
    left = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}[options.decay]
    return options.lr * (options.floor + (1 - options.floor) * left)


def adamw(options: Optim, module: nn.Module) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over what trains in `module`.

    Weight decay is for matrices and kernels alone: biases, norms and other parameters of fewer than two
    dimensions go without. The fused kernel is about four times as fast as the plain one on a CPU, and as
    repeatable.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("nothing to train: every parameter of the objective has requires_grad=False")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    betas = (options.betas[0], options.betas[1])
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=options.lr, betas=betas, eps=options.eps, fused=fused
    )


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scales gradients down to norm `largest` (0: leaves them) and returns the norm () that they had."""
    if largest > 0:
        return nn.utils.clip_grad_norm_(parameters, largest)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
