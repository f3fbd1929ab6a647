"""Plot the error of the samplers against their steps, on data whose path is known: docs/w2.png."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from vidiff.cli.command import exit_code
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import time_grid
from vidiff.diffusion.schedule import Cosine
from vidiff.sample import DDIM, DPMSolverPP2M, Heun, Sampler, State, UniPC
from vidiff.sample.base import frame_times

matplotlib.use("Agg")
from matplotlib import pyplot

DOUBLE = torch.float64
SAMPLERS: dict[str, tuple[Sampler, int]] = {  # with their orders
    "DDIM": (DDIM(), 1),
    "Heun": (Heun(), 2),
    "DPM-Solver++(2M)": (DPMSolverPP2M(), 2),
    "UniPC-3, predictor": (UniPC(3, corrector=False), 3),
    "UniPC-3": (UniPC(3), 4),
}
STEPS = (10, 20, 40, 80, 160, 320)
DATA = Mixture(
    torch.tensor([-1.5, 0.5, 1.5], dtype=DOUBLE).view(3, 1, 1, 1, 1),
    torch.tensor([0.4, 0.3, 0.5], dtype=DOUBLE),
    torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE),
)


def quantiles(alpha: float, sigma: float, count: int) -> Tensor:
    """Of `x_t`, for data on a line, by bisection: `(count,)`."""
    level = (torch.arange(count, dtype=DOUBLE) + 0.5) / count
    means, spread = alpha * DATA.means.flatten(), ((alpha * DATA.stds) ** 2 + sigma**2).sqrt()
    low, high = torch.full_like(level, -20.0), torch.full_like(level, 20.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = torch.special.ndtr((middle[:, None] - means) / spread) @ DATA.weights < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


@torch.no_grad()
def w2(sampler: Sampler, steps: int, count: int = 200) -> float:
    """Wasserstein distance to the true marginal where the grid ends.

    On a line the probability-flow ODE takes each quantile to its quantile, so the start is exact and there is no
    chance.
    """
    schedule = Cosine()
    denoiser = Denoiser(ExactNetwork(DATA, schedule, "v"), schedule, "v")
    times = time_grid(schedule, steps, ends=(-8.0, 8.0), dtype=DOUBLE)
    first, last = (quantiles(*map(float, schedule(time)), count) for time in (times[0], times[-1]))
    x, state = first.view(-1, 1, 1, 1, 1), State()
    grid = frame_times(times, x)
    for number, t in enumerate(grid[:-1]):
        x, state = sampler.step(denoiser, x, t, grid[number + 1], Condition(), state)
    return float((x.flatten().sort().values - last).square().mean().sqrt())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/w2.png"))
    parser.add_argument("--most", type=int, default=STEPS[-1], help="the largest number of steps")
    return parser.parse_args(arguments)


def plot(options: argparse.Namespace) -> None:
    steps = [count for count in STEPS if count <= options.most]
    if len(steps) < 2:
        raise ValueError(f"--most is {options.most}; give {STEPS[1]} or more")
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, (sampler, order) in SAMPLERS.items():
        axes.loglog(steps, [w2(sampler, count) for count in steps], marker=".", label=f"{name}: order {order}")
    axes.set(xlabel="steps", ylabel="W2 to the data's marginal")
    axes.legend()
    figure.savefig(options.out, dpi=110)
    print(f"{options.out}: {', '.join(SAMPLERS)} at {steps[0]} to {steps[-1]} steps")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(plot, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
