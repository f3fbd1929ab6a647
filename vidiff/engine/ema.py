"""Averages of weights: exponential ones, and ones by a power function of time, of which any other is made afterwards.

Karras et al. 2024 ("Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C):
after n updates, the weights of update k count as k^gamma. Unlike a fixed decay, the average grows with the training and
forgets where it began. Its relative width, sigma_rel, is the standard deviation of that profile over n:

    sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))

What is linear in the profile is linear in the average. So the profile of any other width and time is fitted by those of
the snapshots that were kept, by least squares, and the same factors then make its average of theirs. A run keeps

    ema/step-0001000/0.050.safetensors  0.100.safetensors    the averages of each width, in half precision
                     manifest.json                           sizes, hashes, and the number of updates so far
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidiff.engine.parallel import local, shard_like
from vidiff.engine.publish import (
    CheckpointError,
    begin,
    publish,
    published,
    read_tensors,
    step_of,
    verify,
    write_tensors,
)
from vidiff.store.files import remove


class EMA:
    """The average of a module's trainable parameters and of its saved float buffers (such as running means).

    After update n (from 1), average += (1 - decay_n) (weights - average), with

        decay_n = min(decay, (1 + n) / (warmup + n)).

    The warm-up makes the average forget the first weights in short runs: it spans about the last 1 / warmup
    of all steps until `decay` takes over. `warmup=1` is a plain average with a fixed decay.

    Frozen parameters and integer buffers are not averaged; `state_dict` leaves them out.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: int = 10) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema is {decay}; the decay must be in [0, 1), such as 0.999")
        if warmup < 1:
            raise ValueError(f"ema_warmup is {warmup}; give 1 (none) or more")
        saved = module.state_dict(keep_vars=True).keys()
        tracked: dict[str, Tensor] = {n: p for n, p in module.named_parameters() if p.requires_grad}
        tracked |= {n: b for n, b in module.named_buffers() if n in saved and b.is_floating_point()}
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._names = list(tracked)
        self._live: list[Tensor] = [t.detach() for t in tracked.values()]  # share memory with the module
        self._mean: list[Tensor] = [t.clone() for t in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the module's weights in, once after each optimizer step."""
        self.updates += 1
        torch._foreach_lerp_(local(self._mean), local(self._live), 1 - self.next_decay())

    def next_decay(self) -> float:
        """By what the update that is under way multiplies the average."""
        return min(self.decay, (1 + self.updates) / (self.warmup + self.updates))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module runs with the average; afterwards it has its own weights back, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # One tensor at a time and in place: needs little memory, and whoever holds the parameters sees it.
        for live, mean in zip(self._live, self._mean, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors under the module's own names."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Raises ValueError where names or shapes are not this module's."""
        if set(tensors) != set(self._names):
            odd = sorted(set(tensors) ^ set(self._names))[:3]
            raise ValueError(f"the saved EMA is of another model: {', '.join(odd)} on one side only")
        for name, mean in zip(self._names, self._mean, strict=True):
            if tensors[name].shape != mean.shape:
                raise ValueError(
                    f"the saved EMA is of another model: {name} is {tuple(tensors[name].shape)}, "
                    f"expected {tuple(mean.shape)}"
                )
            mean.copy_(shard_like(tensors[name], mean))
        self.updates = updates


def gamma_of(width: float) -> float:
    """The exponent of a relative width (sigma_rel). Raises ValueError for one too small or too large."""
    if not 0.01 <= width <= 0.28:
        raise ValueError(f"an EMA's width is {width}; give 0.01 (the last steps) to 0.28 (nearly all), such as 0.1")
    inverse = width**-2
    # sigma_rel squared, cleared of fractions, is a cubic in gamma; its largest root is the one of falling width
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEMA(EMA):
    """The power-function average of a module, of one relative width.

    After update n, average += (1 - decay_n) (weights - average), with decay_n = (1 - 1 / n)^(gamma + 1), so that the
    weights of update k have the share (k / n)^(gamma + 1) - ((k - 1) / n)^(gamma + 1).
    """

    def __init__(self, module: nn.Module, width: float) -> None:
        super().__init__(module)
        self.width = width
        self.gamma = gamma_of(width)

    def next_decay(self) -> float:
        return (1 - 1 / self.updates) ** (self.gamma + 1)


def synthesis(have: Sequence[tuple[int, float]], want: tuple[int, float]) -> NDArray[np.float64]:
    """By what to multiply averages of (updates, gamma) to get one that was not tracked.

    Returns:
        `(len(have),)`, the least-squares fit of the wanted profile (Karras et al. 2024, appendix C), among those of sum
        1: so that what stands still is its own average, exactly.
    """
    times, gammas = (np.array(values, np.float64) for values in zip(*have, strict=True))
    count = len(have)
    matrix = np.ones((count + 1, count + 1))  # the last row and column hold the sum, by a Lagrange multiplier
    matrix[:count, :count] = _product(times[:, None], gammas[:, None], times[None], gammas[None])
    matrix[count, count] = 0
    wanted = np.append(_product(times, gammas, np.float64(want[0]), np.float64(want[1])), 1)
    return np.linalg.solve(matrix, wanted)[:count]


def _product(
    t: NDArray[np.float64], gamma: NDArray[np.float64], other_t: NDArray[np.float64], other_gamma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The inner product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1), for 0 < tau < t."""
    shared = np.minimum(t, other_t)
    factor = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return factor * (shared / t) ** gamma * (shared / other_t) ** other_gamma / np.maximum(t, other_t)


def write_snapshot(folder: Path, step: int, updates: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Publishes `folder`/step-... with each width's average after so many updates. Raises OSError as the disk does."""
    draft = begin(folder, step)
    for width, tensors in averages.items():
        write_tensors({name: _half(tensor) for name, tensor in tensors.items()}, draft / f"{width:.3f}.safetensors")
    publish(draft, step, updates=updates)


def _half(tensor: Tensor) -> Tensor:
    """In float16, where no value is too large for it."""
    half = tensor.half()
    return half if half.isfinite().all() else tensor


def trim_snapshots(folder: Path, step: int) -> None:
    """Removes snapshots of later steps: of a course that the run has left."""
    for path in published(folder):
        if step_of(path) > step:
            remove(path)


@dataclass(frozen=True)
class Snapshot:
    """One file: the average of a width after so many updates."""

    path: Path
    step: int
    updates: int
    width: float


def find_snapshots(folder: Path, say: Callable[[str], None] = warnings.warn) -> list[Snapshot]:
    """All that are sound, from old to new; each that is not is told to `say`."""
    snapshots = []
    for path in published(folder):
        try:
            facts = verify(path)
        except CheckpointError as error:
            say(f"{error}; making do without it")
            continue
        for name in sorted(facts["files"]):
            width = float(name.removesuffix(".safetensors"))
            snapshots.append(Snapshot(path / name, facts["step"], facts["updates"], width))
    return snapshots


def synthesise(
    snapshots: list[Snapshot], width: float, step: int | None = None, bar: Callable[[Iterable], Iterable] = iter
) -> tuple[dict[str, Tensor], int]:
    """The average of any width, by default as of the last snapshot.

    Args:
        snapshots: as `find_snapshots` returns them.
        width: relative, as of `train.ema_widths`.
        step: of one of the snapshots.
        bar: shows how far it is, as tqdm does.

    Returns:
        the average's tensors, in float32, and its step.

    Raises:
        ValueError: no snapshots, none of that step, or a width that cannot be.
    """
    gamma = gamma_of(width)
    if not snapshots:
        raise ValueError("there are no snapshots: train with ema_widths=[0.05,0.1], which keeps some in the run's ema/")
    steps = sorted({snapshot.step for snapshot in snapshots})
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(f"step is {step}; there are snapshots of {', '.join(map(str, steps))}")
    used = [snapshot for snapshot in snapshots if snapshot.step <= step]
    factors = synthesis([(snapshot.updates, gamma_of(snapshot.width)) for snapshot in used], (used[-1].updates, gamma))
    total: dict[str, Tensor] = {}
    for snapshot, factor in bar(list(zip(used, factors.tolist(), strict=True))):
        for name, tensor in read_tensors(snapshot.path).items():
            total[name] = total.get(name, torch.zeros(())) + factor * tensor.float()
    return total, step
