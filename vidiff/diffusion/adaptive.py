"""A schedule that depends on the sample: `beta = MLP(t, x)`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from vidiff.diffusion.schedule import Schedule


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(Schedule):
    """A schedule for each sample of one batch: `AdaptiveBeta.given` makes it.

    A map of times, whose first length is that of the batch or 1, gives each sample its own log-SNR. Times without a
    batch, such as a grid's, give the mean over the samples, and so does `time_of`.

    Args:
        table: log-SNR of each sample at times even from 0 to 1, falling, `(b, k + 1)`.
    """

    table: Tensor

    def _log_snr(self, t: Tensor) -> Tensor:
        table = self.table.to(t.device, t.dtype)
        if t.ndim < 2:
            table = table.mean(0, keepdim=True)
        position = t * (table.shape[1] - 1)
        index = position.detach().floor().long().clamp(0, table.shape[1] - 2)
        if t.ndim < 2:
            return torch.lerp(table[0][index], table[0][index + 1], position - index)
        batch = len(table)
        position, index = (part.expand(batch, *t.shape[1:]) for part in (position, index))
        at, after = (table.gather(1, (index + step).flatten(1)).view_as(index) for step in (0, 1))
        return torch.lerp(at, after, position - index)

    def _time_of(self, log_snr: Tensor) -> Tensor:
        knots = self.table.detach().mean(0).to(log_snr.device, log_snr.dtype)
        steps = len(knots) - 1
        index = (torch.searchsorted(-knots, -log_snr.contiguous()) - 1).clamp(0, steps - 1)
        return (index + (log_snr - knots[index]) / (knots[index + 1] - knots[index])) / steps


class AdaptiveBeta(nn.Module):
    """`beta(t, x) = softplus(MLP(t, x))`, the rate at which log-SNR falls, as much faster for one sample than for
    another.

    The ends are the same for all samples: log-SNR at `t` has fallen by its share of the whole integral of beta. What
    the network sees of `x` are the mean and the standard deviation of each channel, since `x` has to be at hand when
    sampling as well: known frames, or a low-resolution clip.

    Args:
        channels: of `x`.
        ends: log-SNR at `t = 0` and at `t = 1`.
        width: of the MLP.
        steps: in which the integral is taken.

    Raises:
        ValueError: ends that do not fall, or fewer than 2 steps.
    """

    def __init__(
        self, channels: int, *, ends: tuple[float, float] = (14.0, -12.0), width: int = 32, steps: int = 64
    ) -> None:
        super().__init__()
        if not ends[0] > ends[1]:
            raise ValueError(f"ends = {ends} must fall: log-SNR at t = 0, then at t = 1")
        if steps < 2:
            raise ValueError(f"steps = {steps} must be at least 2")
        self.ends, self.steps = ends, steps
        self.layers = nn.Sequential(nn.Linear(1 + 2 * channels, width), nn.SiLU(), nn.Linear(width, 1))

    def beta(self, t: Tensor, x: Tensor) -> Tensor:
        """`t` `(k,)` and `x` `(b, c, f, h, w)` -> `(b, k)`, positive."""
        flat = x.flatten(2)
        seen = torch.cat([flat.mean(2), flat.std(2, unbiased=False)], 1)  # b 2c
        both = torch.cat([t.view(1, -1, 1).expand(len(x), -1, 1), seen[:, None].expand(-1, len(t), -1)], 2)
        return softplus(self.layers(both.to(x.dtype))).squeeze(2)  # b k

    def given(self, x: Tensor) -> Given:
        """The schedule of these samples; gradients reach the network through it."""
        middle = (torch.arange(self.steps, device=x.device, dtype=x.dtype) + 0.5) / self.steps
        share = self.beta(middle, x).cumsum(1)  # b k
        share = torch.nn.functional.pad(share / share[:, -1:], (1, 0))  # b k+1, from 0 to 1
        return Given(table=self.ends[0] + (self.ends[1] - self.ends[0]) * share)
