"""AdamW, Muon, and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidiff.engine.parallel import local, shard_like, sharded, whole

# Channels, at least, on both sides of a kernel that goes by Muon. So the first and last layers of a network do not, but
# for those that are as wide, since they see patches, or latents of many channels.
HIDDEN = 32
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5


@dataclass
class Optim:
    """How weights move.

    Args:
        name: with muon, convolutions of `HIDDEN` channels or more on both sides go by Muon and all else by AdamW, at
            one `lr`.
        momentum: of Muon.
        warmup: steps of linear rise to `lr`.
        decay: what follows the warm-up, until the last step.
        floor: where the decay ends, as a fraction of `lr`.
        clip: largest norm of the gradient over all parameters; 0 leaves it as it is.

    Raises:
        ValueError: for values that cannot work.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 100
    decay: Literal["constant", "cosine", "linear"] = "constant"
    floor: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise ValueError(f"optim.name is {self.name!r}; choose adamw or muon")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum is {self.momentum}; it must be in [0, 1), such as 0.95")
        for name, usual in (("lr", "3e-4"), ("eps", "1e-8")):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; give a number above 0, such as {usual}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas is {tuple(self.betas)}; both must be in [0, 1), such as (0.9, 0.99)")
        if self.decay not in ("constant", "cosine", "linear"):
            raise ValueError(f"optim.decay is {self.decay!r}; choose constant, cosine or linear")
        for name in ("weight_decay", "warmup", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
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


def adamw(options: Optim, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019).

    Weight decay is for matrices and kernels alone: biases, norms and other parameters of fewer than two
    dimensions go without. The fused kernel is about four times as fast as the plain one on a CPU, and as
    repeatable.
    """
    groups = [  # a kernel takes either sharded ones or whole ones
        {"params": alike, "weight_decay": options.weight_decay if matrices else 0.0}
        for matrices in (True, False)
        for spread in (True, False)
        if (alike := [p for p in parameters if (p.ndim >= 2) == matrices and sharded(p) == spread])
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    betas = (options.betas[0], options.betas[1])
    return torch.optim.AdamW(groups, lr=options.lr, betas=betas, eps=options.eps, fused=fused)


def orthogonalise(x: Tensor, iterations: int = 5) -> Tensor:
    """Bring every singular value of matrices `(n, rows, columns)` to between about 0.7 and 1.2.

    A quintic Newton-Schulz iteration with the coefficients of Jordan et al. 2024 (Muon), steep at 0, so that small
    singular values rise within few iterations. Its products take the precision of the autocast around it, but for
    matrices so wide or high that a CPU is as fast, or faster, with fewer of them in float32.
    """
    device, least = x.device.type, 2
    if torch.is_autocast_enabled(device):
        least = 8 if device == "cpu" else 0  # never on a GPU
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    if least and x.shape[2] >= least * x.shape[1]:
        with torch.autocast(device, enabled=False):
            x = _iterated(x @ x.mT, iterations) @ x
    else:
        for _ in range(iterations):
            x = _polynomial(x @ x.mT) @ x + NEWTON_SCHULZ[0] * x
    return x.mT if tall else x


def _polynomial(gram: Tensor) -> Tensor:
    return NEWTON_SCHULZ[1] * gram + NEWTON_SCHULZ[2] * (gram @ gram)


def _iterated(gram: Tensor, iterations: int) -> Tensor:
    """By what all iterations together multiply matrices `(n, rows, columns)` of this `gram` `(n, rows, rows)`.

    Each multiplies them by a polynomial of their Gram matrix, which commutes with that matrix: so the products can be
    of `rows` by `rows` alone, a third of the work where a matrix is nine times as wide as it is high. It squares small
    singular values, which takes float32.
    """
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    whole = factor = NEWTON_SCHULZ[0] * eye + _polynomial(gram)
    for _ in range(iterations - 1):
        gram = factor @ (gram @ factor)
        factor = NEWTON_SCHULZ[0] * eye + _polynomial(gram)
        whole = factor @ whole
    return whole


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for kernels `(outputs, inputs, ...)` of wide layers.

    A step's root mean square is `0.2 lr`, about what AdamW's is (Liu et al. 2025, eq. 4), so both go by one rate.
    PyTorch's own Muon takes matrices alone, not kernels. A sharded kernel's momentum is gathered, since only whole
    matrices can be orthogonalised: every process computes the same move, and takes its shard of it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():  # those of one shape go together
                steps = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    assert parameter.grad is not None
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    step = parameter.grad.lerp(state["momentum"], group["momentum"])  # Nesterov's
                    steps.append(whole(step).flatten(1))
                moves = orthogonalise(torch.stack(steps)).float()
                size = 0.2 * math.sqrt(max(moves.shape[1:]))
                for parameter, move in zip(parameters, moves, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(shard_like(move.view(shape), parameter), alpha=-group["lr"] * size)


class Together:
    """Several optimizers as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)


def build_optimizer(options: Optim, module: nn.Module) -> Together:
    """What moves all that trains in `module`.

    Where `module` has `paces`, those name parts of it whose rate is a share of the rate of all else: the "pace" of
    their groups, by which whoever sets rates multiplies.

    Raises:
        ValueError: nothing trains.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("nothing to train: every parameter of the objective has requires_grad=False")
    shares: dict[str, float] = getattr(module, "paces", {})
    paces = {p: share for name, share in shares.items() for p in module.get_submodule(name).parameters()}
    parts = list[torch.optim.Optimizer]()
    for pace in dict.fromkeys(paces.get(p, 1.0) for p in parameters):
        for part in _optimizers(options, [p for p in parameters if paces.get(p, 1.0) == pace]):
            for group in part.param_groups if pace != 1 else ():
                group["pace"] = pace
            parts.append(part)
    return Together(parts)


def _optimizers(options: Optim, parameters: Sequence[nn.Parameter]) -> list[torch.optim.Optimizer]:
    hidden = [p for p in parameters if p.ndim > 2 and min(p.shape[:2]) >= HIDDEN] if options.name == "muon" else []
    chosen = set(hidden)
    rest = [p for p in parameters if p not in chosen]
    parts: list[torch.optim.Optimizer] = [adamw(options, rest)] if rest else []
    if hidden:
        parts.append(Muon(hidden, options.lr, options.momentum, options.weight_decay))
    return parts


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scales gradients down to norm `largest` (0: leaves them) and returns the norm () that they had."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if any(map(sharded, grads)):
        kinds = [[g for g in grads if sharded(g)], [g for g in grads if not sharded(g)]]
        norm = torch.stack([whole(nn.utils.get_total_norm(kind)) for kind in kinds if kind]).norm()
        if largest > 0:
            torch._foreach_mul_(local(grads), (largest / (norm + 1e-6)).clamp(max=1))
        return norm
    if largest > 0:
        return nn.utils.clip_grad_norm_(parameters, largest)
    return nn.utils.get_total_norm(grads)
