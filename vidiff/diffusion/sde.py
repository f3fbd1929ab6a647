"""The same process in continuous time: `dx = f x dt + g dw`, its reverse, and the ODE with the same marginals.

Every schedule has them, since `f` and `g` follow from `(alpha, sigma)`: `f = d log(alpha) / dt` and
`g^2 = d sigma^2 / dt - 2 f sigma^2`. For a variance-preserving schedule that is `f = -beta / 2`, `g^2 = beta`; for VE
it is `f = 0`, `g^2 = d sigma^2 / dt` (Song et al. 2021, equations 9 and 11).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.denoise import eps_from
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Schedule


def rates(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """`(f, g^2)` at `t`, of its shape; both are 0 where the log-SNR is clamped.

    `g^2` is written as `-sigma^2 dlog_snr / dt`, which is the same and never negative.
    """
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        log_snr = schedule.log_snr(t)
        alpha, sigma = schedule.scales(log_snr)
        log_alpha = alpha.log() + 0.0 * log_snr  # VE's alpha is constant, and has no graph of its own
        (f,) = torch.autograd.grad(log_alpha.sum(), t, retain_graph=True)
        (fall,) = torch.autograd.grad(log_snr.sum(), t)
    return f, -(sigma.detach() ** 2) * fall


def score_from(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`grad log p(x_t)` by the posterior mean of the data: `-eps / sigma` (Song et al. 2021, section 3.3)."""
    _, sigma = schedule(expand_time(t, x))
    return -eps_from(schedule, x0, x, t) / sigma


def reverse_drift(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`f x - g^2 score`: drift of the reverse SDE, whose noise is `g dw` (Song et al. 2021, equation 6)."""
    f, g2 = rates(schedule, expand_time(t, x))
    return f * x - g2 * score_from(schedule, x0, x, t)


def flow_drift(schedule: Schedule, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """`f x - g^2 score / 2`: the probability-flow ODE, which has no noise (Song et al. 2021, equation 13)."""
    f, g2 = rates(schedule, expand_time(t, x))
    return f * x - 0.5 * g2 * score_from(schedule, x0, x, t)
