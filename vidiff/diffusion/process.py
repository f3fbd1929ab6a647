"""The noising process between any two times, and its rates: forward, transition, posterior, Gaussian KL."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidiff.diffusion.schedule import Schedule


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise of the shape, type and device of `like`, drawn where the generator lives.

    A generator on the CPU therefore gives the same noise to a model on any device.
    """
    device = like.device if generator is None else generator.device
    return send(torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype), like.device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From the CPU to a GPU it goes by pinned memory, so that nothing waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def expand_time(t: float | Tensor, x: Tensor) -> Tensor:
    """Give `t` the rank of `x`, so that it broadcasts: a number, 0-d, `(b,)` one a sample, or a map already.

    Raises:
        ValueError: a `t` that does not broadcast to the map `(b, 1, ...)` of `x`, or a number outside [0, 1].
    """
    if not isinstance(t, Tensor):
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"diffusion time t = {t:g} is outside [0, 1]; 0 is data and 1 is noise")
        t = torch.tensor(t, dtype=x.dtype, device=x.device)
    t = t.to(x.device, torch.promote_types(t.dtype, torch.float32))
    if t.ndim < 2:
        t = t.reshape(-1, *[1] * (x.ndim - 1))  # 1 or b, 1, ...
    fits = t.ndim == x.ndim and t.shape[1] == 1
    if not fits or any(n not in (1, m) for n, m in zip(t.shape, x.shape, strict=True)):
        expected = (x.shape[0], 1, *x.shape[2:])
        raise ValueError(f"t of shape {tuple(t.shape)} does not broadcast to {expected}; give a number, (b,) or a map")
    return t


def add_noise(schedule: Schedule, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
    """`x_t = alpha * x0 + sigma * eps`, a draw from `q(x_t given x0)` (Ho et al. 2020, eq. 4)."""
    alpha, sigma = schedule(expand_time(t, x0))
    return alpha * x0 + sigma * eps


def transition(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """`q(x_t given x_s) = N(scale * x_s, variance)` for `s <= t`: returns `(scale, variance)`, elementwise.

    One discrete step is Ho et al. 2020, eq. 2: `scale^2 = 1 - beta` and `variance = beta`. The form by
    log-SNR is Kingma et al. 2021, appendix A.1; it loses no digits when `s` is close to `t`.
    """
    alpha_t, sigma_t = schedule(t)
    alpha_s, _ = schedule(s)
    return alpha_t / alpha_s, -(sigma_t**2) * torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))


def rates(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """The process in continuous time, `dx = f x dt + g dw`: `(f, g^2)` at `t`, of its shape.

    Every schedule has them: `f = d log(alpha) / dt` and `g^2 = d sigma^2 / dt - 2 f sigma^2`. For a variance-preserving
    schedule that is `f = -beta / 2`, `g^2 = beta`; for VE it is `f = 0`, `g^2 = d sigma^2 / dt` (Song et al. 2021,
    equations 9 and 11). `g^2` is written as `-sigma^2 dlog_snr / dt`, which is the same and never negative. Both are 0
    where the log-SNR is clamped.
    """
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        log_snr = schedule.log_snr(t)
        alpha, sigma = schedule.scales(log_snr)
        log_alpha = alpha.log() + 0.0 * log_snr  # VE's alpha is constant, and has no graph of its own
        (f,) = torch.autograd.grad(log_alpha.sum(), t, retain_graph=True)
        (fall,) = torch.autograd.grad(log_snr.sum(), t)
    return f, -(sigma.detach() ** 2) * fall


def posterior(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of `q(x_s given x_t, x0)` for `s <= t` (Ho et al. 2020, eqs. 6 and 7; for any alpha,
    sigma).

    At `s = t` it is `x_t` with variance 0. The variance has the shape of the times.
    """
    alpha_t, _ = schedule(t)
    alpha_s, sigma_s = schedule(s)
    change = schedule.log_snr(t) - schedule.log_snr(s)  # <= 0
    mean = alpha_s / alpha_t * change.exp() * x_t - alpha_s * torch.expm1(change) * x0
    return mean, -(sigma_s**2) * torch.expm1(change)


def _learned(small: Tensor, large: Tensor, share: Tensor | None) -> Tensor:
    """Between the two on a logarithmic scale (Nichol & Dhariwal 2021, eq. 15)."""
    if share is None:
        raise ValueError("variance 'learned' needs a denoiser with a variance head; choose 'small' or 'large'")
    tiny = torch.finfo(small.dtype).tiny  # where a frame's clock stands still both are 0
    return torch.lerp(small.clamp(min=tiny).log(), large.clamp(min=tiny).log(), share.to(small.dtype)).exp()


VARIANCES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    # variance of the posterior, of the transition, and what the network says -> that of the reverse step
    "small": lambda small, large, share: small,
    "large": lambda small, large, share: large,
    "learned": _learned,
}


def gaussian_kl(mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor) -> Tensor:
    """`KL(N(mean1, variance1) || N(mean2, variance2))` in nats, elementwise."""
    ratio = variance1 / variance2
    return 0.5 * (ratio - 1.0 - torch.log(ratio) + (mean1 - mean2) ** 2 / variance2)
