"""The sides that are compared: vidiff's U-Net, and others' of as many parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.engine.precision import Precision, autocast, automatic
from vidiff.nn.unet import UNet, UNetConfig

Shape = tuple[int, int, int, int, int]  # clips, channels, frames, height, width
Pass = Literal["train", "forward"]
SHAPES: tuple[Shape, ...] = ((4, 4, 16, 16, 16), (8, 4, 16, 8, 8))
MULTIPLIERS = (1, 2, 4)
TOLERANCE = 0.05  # by which the numbers of parameters may differ
STEP = 16  # widths are multiples of it


@dataclass(frozen=True)
class Side:
    """One of the networks compared: how it was built, and how it predicts the noise in `(b, c, f, h, w)`."""

    name: str
    settings: str
    network: nn.Module
    predict: Callable[[Tensor], Tensor]

    @property
    def parameters(self) -> int:
        return parameters(self.network)


class Loss(nn.Module):
    """The mean square error of a side's prediction, as an objective."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.network, self.predict = side.network, side.predict

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.predict(batch["x"]).float() - batch["noise"]).square().mean()}


def work(side: Side, shape: Shape, kind: Pass, precision: Precision = "fp32") -> Callable[[], object]:
    """A function that trains for a step, by AdamW on the error, or that predicts."""
    x, noise = torch.randn(2, *shape)
    cpu = torch.device("cpu")

    def forward() -> None:
        with torch.no_grad(), autocast(cpu, precision):
            side.predict(x)

    if kind == "forward":
        return forward
    loss, optimizer = Loss(side), torch.optim.AdamW(side.network.parameters(), lr=1e-4)

    def step() -> None:
        with autocast(cpu, precision):
            error = loss({"x": x, "noise": noise})["loss"]
        error.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def chosen_precision(side: Side, shape: Shape) -> Precision:
    """What `train.precision=auto` stands for here."""
    x, noise = torch.randn(2, *shape)
    return automatic(Loss(side), {"x": x, "noise": noise}, torch.device("cpu"))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def head_dim(width: int) -> int:
    """Channels of a head: even, at most 64, and half of the narrowest level's at most."""
    return max(d for d in range(2, 65, 2) if width // 2 % d == 0)


def config(width: int, multipliers: tuple[int, ...], blocks: tuple[int, ...], channels: int = 4) -> UNetConfig:
    """vidiff's usual plan: joint attention at the lowest level, attention over time above it."""
    lowest = len(multipliers) - 1
    return UNetConfig(
        channels=channels,
        width=width,
        multipliers=list(multipliers),
        blocks=list(blocks),
        temporal_attention=list(range(lowest)),
        joint_attention=[lowest],
        head_dim=head_dim(width),
    )


def matching(size: int, multipliers: tuple[int, ...]) -> UNetConfig:
    """The plan with `size` parameters, or nearly, that one would really build.

    Widths are multiples of 16, and a level has the usual 2 blocks; where that is not near enough, as few levels as do
    have 3. Of those plans the nearest.

    Raises:
        ValueError: none comes near enough.
    """

    def size_at(width: int, blocks: tuple[int, ...]) -> int:
        with torch.device("meta"):
            return parameters(UNet(config(width, multipliers, blocks)))

    found: list[tuple[int, float, int, tuple[int, ...]]] = []
    counts = list(product((2, 3), repeat=len(multipliers)))
    for width in range(STEP, 1025, STEP):
        if size_at(width, counts[0]) > size * (1 + TOLERANCE):
            break
        if size_at(width, counts[-1]) < size * (1 - TOLERANCE):
            continue
        for blocks in counts:
            away = abs(size_at(width, blocks) / size - 1)
            if away <= TOLERANCE:
                found.append((sum(blocks), away, width, blocks))
    if not found:
        raise ValueError(f"no width gives {list(multipliers)} levels {size:,} parameters: choose another --dim")
    _, _, width, blocks = min(found)
    return config(width, multipliers, blocks)


def ours(plan: UNetConfig) -> Side:
    """vidiff's U-Net, told a time for each clip."""
    network = UNet(plan)

    def predict(x: Tensor) -> Tensor:
        log_snr = torch.linspace(-4, 4, len(x))[:, None, None, None, None].expand(-1, 1, *x.shape[2:])
        return network(x, log_snr, Condition())

    return Side("vidiff", f"width {plan.width}, {plan.multipliers}, blocks {plan.blocks}", network, predict)
