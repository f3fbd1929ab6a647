"""How much each noise level counts in the loss, and how times are drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

Weighting = Callable[[Tensor, Tensor], Tensor]

MIN_SNR_GAMMA = 5.0

WEIGHTINGS: dict[str, Weighting] = {
    # (log_snr, factor) -> weight of a squared error of the network's output F, where an error of F is `factor` times
    # as large in x0
    "simple": lambda log_snr, factor: torch.ones_like(log_snr),  # Ho et al. 2020, eq. 14
    # Hang et al. 2023, eq. 8: min(snr, gamma) on the error of x0
    "min_snr": lambda log_snr, factor: log_snr.exp().clamp(max=MIN_SNR_GAMMA) * factor.square(),
}


def _uniform(batch: int, device: torch.device) -> Tensor:
    return torch.rand(batch, device=device)


def _stratified(batch: int, device: torch.device) -> Tensor:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    place = torch.arange(batch, device=device) * world + rank
    return (place + torch.rand(batch, device=device)) / (batch * world)


TIMES: dict[str, Callable[[int, torch.device], Tensor]] = {
    # batch size -> times (b,) in [0, 1]
    "uniform": _uniform,
    "stratified": _stratified,  # one in each of b equal parts, over all processes: Kingma et al. 2021, appendix I.1
}
