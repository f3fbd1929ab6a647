"""At which noise a model knows half of what its data vary in: where few steps are best spent."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.grid import LEAST, MOST

HALVINGS = 7  # so that it is found to 0.16


@torch.no_grad()
def half_known(denoiser: Denoiser, x0: Tensor, condition: Condition) -> float | None:
    """The log-SNR at which the squared error of the denoiser's estimate is half of the data's variance.

    Error falls as noise does (the minimum mean square error of a Gaussian channel: Guo, Shamai and Verdu 2005), so it
    is found by halving. Data that are decided in many numbers together are known in more noise than data on a line.

    Args:
        x0: clips `(b, c, f, h, w)`, of different files; 16 are enough.
        condition: what the model is told of them.

    Returns:
        between -14 and 6; None where it lies beyond, as of clips that are all alike.
    """
    eps, low, high = torch.randn_like(x0), LEAST, MOST
    variance = (x0 - x0.mean(0)).square().mean() * len(x0) / max(len(x0) - 1, 1)
    for _ in range(HALVINGS):
        middle = torch.full((len(x0), 1, 1, 1, 1), 0.5 * (low + high), dtype=torch.float64, device=x0.device)
        t = denoiser.schedule.time_of(middle).to(x0)
        alpha, sigma = denoiser.schedule(t)
        error = (denoiser(alpha * x0 + sigma * eps, t, condition).x0 - x0).square().mean()
        low, high = (0.5 * (low + high), high) if error > 0.5 * variance else (low, 0.5 * (low + high))
    return None if low == LEAST or high == MOST else 0.5 * (low + high)
