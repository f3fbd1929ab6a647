"""Samplers: each takes a denoiser, noise and a time grid, and returns clean data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from vidiff.diffusion.choice import choose
from vidiff.sample.ancestral import DDIM, DDPM, invert
from vidiff.sample.base import Sampler, State, start
from vidiff.sample.consistency import MultistepConsistency
from vidiff.sample.langevin import Langevin, PredictorCorrector
from vidiff.sample.multistep import DEIS, DPMSolverPP2M, UniPC
from vidiff.sample.ode import RK45, Euler, Heun
from vidiff.sample.sde import EulerMaruyama, StochasticHeun

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "rk45": RK45,
    "euler_maruyama": EulerMaruyama,
    "stochastic_heun": StochasticHeun,
    "dpmpp_2m": DPMSolverPP2M,
    "dpmpp_2m_sde": partial(DPMSolverPP2M, eta=1.0),
    "unipc": UniPC,
    "deis": DEIS,
    "langevin": Langevin,
    "predictor_corrector": PredictorCorrector,
    "consistency": MultistepConsistency,
}


def build_sampler(name: str, **options: Any) -> Sampler:
    """The sampler called `name`. Raises ValueError with the choices for an unknown name."""
    return choose("sampler", name, SAMPLERS)(**options)


__all__ = ["SAMPLERS", "Sampler", "State", "build_sampler", "invert", "start"]
__all__ += [sampler.__name__ for sampler in SAMPLERS.values() if isinstance(sampler, type)]
