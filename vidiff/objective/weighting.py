"""How much each noise level counts in the loss, and how times are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.denoise import prediction_scale
from vidiff.diffusion.process import rates
from vidiff.diffusion.schedule import Schedule

Weighting = Callable[[Tensor, Tensor], Tensor]

MIN_SNR_GAMMA = 5.0
SIGMOID_BIAS = 2.0
KNOWN = 5.0  # the log-SNR from which up a voxel is known
TAILS = 3.0  # degrees of freedom of what errors are taken to be: few, for film has cuts
FAR = 6.0  # the logarithm of the frames, to base 2, that the nearest known one is away where none is


def _edm(log_snr: Tensor, factor: Tensor) -> Tensor:
    return (1.0 + log_snr.exp()) * factor.square()


WEIGHTINGS: dict[str, Weighting] = {
    # (log_snr, factor) -> weight of a squared error of the network's output F, where an error of F is `factor` times
    # as large in x0
    "simple": lambda log_snr, factor: torch.ones_like(log_snr),  # Ho et al. 2020, eq. 14
    # denoising score matching, each level weighted by sigma^2 (Vincent 2011; Song & Ermon 2019, eq. 6): on the error of
    # eps, which is snr times that of x0
    "score_matching": lambda log_snr, factor: log_snr.exp() * factor.square(),
    # Hang et al. 2023, eq. 8: min(snr, gamma) on the error of x0
    "min_snr": lambda log_snr, factor: log_snr.exp().clamp(max=MIN_SNR_GAMMA) * factor.square(),
    # Karras et al. 2022, table 1, with sigma_data = 1: (sigma^2 + 1) / sigma^2 on the error of x0
    "edm": _edm,
    # Kingma & Gao 2023, appendix D: sigmoid(2 - log_snr) on the error of eps, in an integral over log-SNR
    "sigmoid": lambda log_snr, factor: torch.sigmoid(SIGMOID_BIAS - log_snr) * log_snr.exp() * factor.square(),
    # that of edm, over the error to be expected at each level and distance to what is known, which `Uncertainty` learns
    "uncertainty": _edm,
}

PER_LOG_SNR = frozenset({"sigmoid"})  # weights of a loss that is an integral over log-SNR, not over t


def level_weight(weighting: str, prediction: str, schedule: Schedule, t: Tensor) -> Tensor:
    """The weight of a squared error of the network's output at `t`, of its shape, for times that are uniform in t.

    That of an integral over log-SNR has `-dlog_snr / dt` as a factor (Kingma & Gao 2023, equation 2), by which it is
    the same for every schedule with the same ends.
    """
    log_snr = schedule.log_snr(t)
    weight = choose("loss weighting", weighting, WEIGHTINGS)(log_snr, prediction_scale(prediction, schedule, t))
    if weighting in PER_LOG_SNR:
        _, diffusion = rates(schedule, t)  # -sigma^2 dlog_snr / dt
        weight = weight * diffusion / schedule.scales(log_snr)[1].square()
    return weight


class Uncertainty(nn.Module):
    """`u`, trained by `error / exp(u) + u`, whose least is at `u = log(error)` (Karras et al. 2024, eq. 21).

    There it is of the noise level; here also of how far the nearest known frame is, since beside one far less is left
    to be expected: weighed by the level alone, a voxel of which nearly all is known would count next to nothing.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.randn(width) * 0.5)
        self.register_buffer("phase", torch.rand(width) * 2.0 * torch.pi)
        self.register_buffer("near", torch.linspace(-1.0, 1.0, width), persistent=False)
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    frequency: Tensor
    phase: Tensor
    near: Tensor

    def forward(self, log_snr: Tensor) -> Tensor:
        """Of clocks `(b, 1, f, h, w)`, of any height and width; as large."""
        far = distance_to_known(log_snr).log2().clamp(max=FAR)
        angle = log_snr.float()[..., None] * self.frequency + far[..., None] * self.near
        with torch.autocast(log_snr.device.type, enabled=False):  # a logarithm in bf16 has steps of 1/64
            return torch.cos(angle + self.phase) @ self.weight + self.bias  # of ..., width


def distance_to_known(log_snr: Tensor) -> Tensor:
    """How many frames away the nearest other one is in which a voxel is known, infinite where in none; clocks and
    result `(b, 1, f, h, w)`."""
    place = torch.arange(log_snr.shape[2], device=log_snr.device)
    apart = (place[:, None] - place).abs().float()[..., None, None]  # f n 1 1
    others = (log_snr > KNOWN).unsqueeze(2) & (apart > 0)  # b 1 f n h w
    return torch.where(others, apart, math.inf).amin(dim=3)


def surprise(error: Tensor, spread: Tensor) -> Tensor:
    """How unlikely errors are by the logarithm of a variance, both of one shape: the negative log-likelihood of a t
    distribution, but for a constant (Lange, Little & Taylor 1989). A normal one would have cuts and other
    outliers decide."""
    return 0.5 * ((TAILS + 1) * torch.log1p(error.square() / (TAILS * spread.exp())) + spread)


def _uniform(batch: int, device: torch.device, schedule: Schedule) -> Tensor:
    return torch.rand(batch, device=device)


def _stratified(batch: int, device: torch.device, schedule: Schedule) -> Tensor:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    stratum = torch.arange(batch, device=device) * world + rank
    return (stratum + torch.rand(batch, device=device)) / (batch * world)


def _logit_normal(batch: int, device: torch.device, schedule: Schedule) -> Tensor:
    return torch.sigmoid(torch.randn(batch, device=device))


def _log_normal(batch: int, device: torch.device, schedule: Schedule) -> Tensor:
    centre = math.log(2.0) - 1.2  # sigma / alpha in units of the data's standard deviation: 0.5 in the paper, 1 here
    return schedule.time_of(-2.0 * (1.2 * torch.randn(batch, device=device) + centre))


TIMES: dict[str, Callable[[int, torch.device, Schedule], Tensor]] = {
    # batch size -> times (b,) in [0, 1]
    "uniform": _uniform,
    "stratified": _stratified,  # one in each of b equal parts, over all processes: Kingma et al. 2021, appendix I.1
    "logit_normal": _logit_normal,  # Esser et al. 2024, eq. 19, with mean 0 and scale 1
    # Karras et al. 2022, table 1: log(sigma) is normal, of mean -1.2 and std 1.2 for data of std 0.5; here mean log-SNR
    # is therefore 1.01
    "log_normal": _log_normal,
}
