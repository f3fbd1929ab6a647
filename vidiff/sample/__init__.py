"""Samplers: each takes a denoiser, noise and a time grid, and returns clean data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vidiff.diffusion.choice import choose
from vidiff.sample.ancestral import DDIM, DDPM, invert
from vidiff.sample.base import Sampler, State, start
from vidiff.sample.multistep import DPMSolverPP2M
from vidiff.sample.ode import Euler, Heun

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2m": DPMSolverPP2M,
}


def build_sampler(name: str, **options: Any) -> Sampler:
    """The sampler called `name`. Raises ValueError with the choices for an unknown name."""
    return choose("sampler", name, SAMPLERS)(**options)


__all__ = [
    "DDIM",
    "DDPM",
    "SAMPLERS",
    "DPMSolverPP2M",
    "Euler",
    "Heun",
    "Sampler",
    "State",
    "build_sampler",
    "invert",
    "start",
]
