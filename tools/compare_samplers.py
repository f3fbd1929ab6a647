"""Compare the default sampler and grid with diffusers' at few evaluations, on mixtures whose every path is known."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.cli.command import exit_code
from vidiff.evaluate.samplers import MODES, Problem, ours, problem, root_mean

DOUBLE = torch.float64
BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "flow": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
}


def settings(name: str) -> Iterator[tuple[str, str, Callable[[], Any], int]]:
    """Of diffusers: scheduler, setting, what makes it, and evaluations a step."""
    import diffusers as d

    flow = name == "flow"
    spaced: list[dict[str, Any]] = [{"timestep_spacing": one} for one in ("linspace", "leading", "trailing")]
    spaced += [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
    for how in [{}, {"flow_shift": 3.0}] if flow else spaced:
        look = " ".join(f"{key}={value}" for key, value in how.items())
        for final in ["zero"] if flow else ["zero", "sigma_min"]:
            for solver in ("midpoint", "heun"):
                more = {**BETAS[name], **how, "solver_type": solver, "final_sigmas_type": final}
                make: Any = partial(d.DPMSolverMultistepScheduler, **more)
                yield "DPM-Solver++ 2M", f"{look} {solver} {final}", make, 1
            for order in (2, 3):
                for solver in ("bh1", "bh2"):
                    more = {**BETAS[name], **how, "solver_type": solver, "final_sigmas_type": final}
                    make = partial(d.UniPCMultistepScheduler, solver_order=order, **more)
                    yield f"UniPC-{order}", f"{look} {solver} {final}", make, 1
        for order in (2, 3):
            make = partial(d.DEISMultistepScheduler, solver_order=order, **BETAS[name], **how)
            yield "DEIS", f"{look} order {order}", make, 1
        heun = partial(d.HeunDiscreteScheduler, **BETAS[name], **how)
        shift = how.get("flow_shift", 1.0)
        yield "Heun", look, partial(d.FlowMatchHeunDiscreteScheduler, shift=shift) if flow else heun, 2
    for kind in ("karras", "exponential"):
        for least in (0.002, 0.01):
            yield "EDM", f"{kind} {least}", partial(d.EDMDPMSolverMultistepScheduler, least, sigma_schedule=kind), 1


def theirs(of: Problem, name: str, scheduler: Any, steps: int) -> Tensor:
    """By a scheduler's own tables, grid and last step, with the exact estimate at its noise levels."""
    scheduler.set_timesteps(steps)
    edm = type(scheduler).__name__.startswith("EDM")
    x = of.noise * (1.0 if name == "flow" and not edm else float(scheduler.init_noise_sigma))
    for number, t in enumerate(scheduler.timesteps):
        ratio = torch.as_tensor(scheduler.sigmas[number], dtype=DOUBLE)
        if name == "flow" and not edm:
            alpha, sigma, seen = 1 - ratio, ratio, x
        else:
            alpha = (1 + ratio**2).rsqrt()
            sigma, seen = ratio * alpha, alpha * x if edm else scheduler.scale_model_input(x, t)
        x0 = of.data.x0(seen, alpha.view(1, 1, 1, 1, 1), sigma.view(1, 1, 1, 1, 1))
        eps = (seen - alpha * x0) / sigma
        output = eps - x0 if name == "flow" else eps
        if edm:
            scheduler.scale_model_input(x, t)
            half = scheduler.config.sigma_data**2 / (ratio**2 + scheduler.config.sigma_data**2)
            output = (x0 - half * x) / (half.sqrt() * ratio)
        x = scheduler.step(output, t, x).prev_sample.double()
    return x


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12], help="of the mixtures; 0 to 2 chose")
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--schedules", nargs="+", default=list(BETAS), choices=list(BETAS))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 8, 10, 15, 20])
    parser.add_argument("--unmeasured", action="store_true", help="our grid without what a training measures")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> None:
    ratios, cells = [], [(n, d, k) for n in options.schedules for d in options.dimensions for k in options.evaluations]
    print("| schedule, dimensions, evaluations | RMS | best there | W2 | best there |\n|---|---|---|---|---|")
    for name, dimension, count in tqdm(cells, leave=False, disable=None):
        problems = [problem(dimension, seed, name) for seed in options.seeds]
        found, best = (
            root_mean([one.errors(ours(one, name, count, not options.unmeasured)) for one in problems]),
            [(math.inf, "")] * 2,
        )
        for family, _, make, cost in settings(name):
            try:
                steps = count if cost == 1 else (count + 1) // 2
                errors = root_mean([one.errors(theirs(one, name, make(), steps)) for one in problems])
            except (IndexError, AssertionError):  # of diffusers, where a setting does not go with the schedule
                continue
            best = [min(old, (error, family)) for old, error in zip(best, errors, strict=True)]
        ratios += [[own / other for own, (other, _) in zip(found, best, strict=True)]]
        parts = [f"{own:.3f} | {other:.3f} {which}" for own, (other, which) in zip(found, best, strict=True)]
        print(f"| {name}, {dimension}, {count} | {' | '.join(parts)} |", flush=True)
    for what, column in zip(("RMS", "W2"), zip(*ratios, strict=True), strict=True):
        near = sum(ratio <= 1.1 for ratio in column)
        average = sum(column) / len(column)
        print(
            f"{what}: {average:.2f} times theirs on average, {max(column):.2f} at most, {near} of {len(column)} <= 1.1"
        )


def main(arguments: list[str] | None = None) -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    return exit_code(compare, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
