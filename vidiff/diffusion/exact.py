"""Data whose denoiser is known in closed form: what samplers, and all else here, are measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import NO_LABEL, Condition
from vidiff.diffusion.denoise import PREDICTIONS
from vidiff.diffusion.process import draw_noise
from vidiff.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians over clips; its components are the labels.

    Args:
        means: `(k, c, f, h, w)`.
        stds: `(k,)`, of every voxel.
        weights: `(k,)`, summing to 1; equal if not given.

    Raises:
        ValueError: numbers of components that differ, or a standard deviation that is not positive.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.means)
        if self.stds.shape != (count,) or (self.weights is not None and self.weights.shape != (count,)):
            raise ValueError(f"{count} means need stds and weights of shape ({count},), not {self.stds.shape}")
        if not (self.stds > 0).all():
            raise ValueError(f"stds {self.stds.tolist()} must be positive")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`(count, c, f, h, w)`."""
        index = torch.multinomial(self._weights(), count, replacement=True, generator=generator)
        noise = draw_noise(self.means[index], generator)
        return self.means[index] + self.stds[index].view(-1, *[1] * (self.means.ndim - 1)) * noise

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """`log p(x_t)` in nats, `(b,)`; alpha and sigma broadcast to `x`; the data has alpha 1, sigma 0."""
        return self._joint(x, alpha, sigma, label).logsumexp(1)

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The posterior mean of the data given `x_t = x`, and the label where it is not -1."""
        share = self._joint(x, alpha, sigma, label).softmax(1)  # b k
        gain = alpha[:, None] * self._variance(x) / self._spread(x, alpha, sigma)  # b k c f h w
        posterior = self.means + gain * (x[:, None] - alpha[:, None] * self.means)  # b k c f h w
        return torch.einsum("bk,bk...->b...", share, posterior)  # b c f h w

    def _weights(self) -> Tensor:
        return torch.full_like(self.stds, 1.0 / len(self.stds)) if self.weights is None else self.weights

    def _variance(self, x: Tensor) -> Tensor:
        return (self.stds**2).view(1, -1, *[1] * (x.ndim - 1))  # 1 k 1 1 1 1

    def _spread(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha[:, None] ** 2 * self._variance(x) + sigma[:, None] ** 2  # b k 1 f h w

    def _joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        spread = self._spread(x, alpha, sigma)
        off = x[:, None] - alpha[:, None] * self.means  # b k c f h w
        log_normal = -0.5 * (off**2 / spread + (2.0 * torch.pi * spread).log())
        joint = log_normal.flatten(2).sum(2) + self._weights().log()  # b k
        if label is None:
            return joint
        other = torch.arange(len(self.stds), device=x.device) != label[:, None]  # b k
        return joint.masked_fill(other & (label != NO_LABEL)[:, None], -torch.inf)


class ExactNetwork(nn.Module):
    """The network that a perfect training would end with: for `Denoiser(network, schedule, prediction)`."""

    def __init__(self, data: Mixture, schedule: Schedule, prediction: str) -> None:
        super().__init__()
        self.data = data
        self.schedule = schedule
        self.coefficients = choose("prediction", prediction, PREDICTIONS)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        alpha, sigma = self.schedule.scales(log_snr)
        x_t = x * (alpha**2 + sigma**2).sqrt()  # undo the denoiser's scaling
        x0 = self.x0(x_t, alpha, sigma, condition)
        a, b = self.coefficients(alpha, sigma)
        return a * x0 + b * (x_t - alpha * x0) / sigma

    def x0(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """What it says of the data, `(b, c, f, h, w)`."""
        return self.data.x0(x_t, alpha, sigma, condition.label)


class ExactConsistency(ExactNetwork):
    """The network that a perfect distillation ends with where the data are one Gaussian: its `x0` is the end of the
    probability-flow ODE, along which `x_t` keeps its place, in standard deviations from the mean."""

    def x0(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        (mean,), (std,) = self.data.means, self.data.stds
        return mean + std * (x_t - alpha * mean) / ((alpha * std) ** 2 + sigma**2).sqrt()
