"""Dynamic thresholding, against estimates that strong guidance drives beyond the data."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.schedule import Schedule


class Threshold(nn.Module):
    """Dynamic thresholding: `x0` clamped to `[-s, s]` and scaled by `floor / s`, where `s` is a percentile of `|x0|`
    in each sample, or `floor` if that is larger (Saharia et al. 2022, Imagen, section 2.3, where `floor` is 1).

    A sample that lies within the floor comes back bit for bit.

    Args:
        denoiser: the inner denoiser, guided or not.
        percentile: from 50 to 100, of the values in a sample, by nearest rank.
        floor: the largest `|x0|` of good data: 1 for video in [-1, 1].

    Raises:
        ValueError: a percentile outside [50, 100], or a floor that is not positive.
    """

    def __init__(self, denoiser: Denoises, percentile: float = 99.5, floor: float = 1.0) -> None:
        super().__init__()
        check_threshold(percentile, floor)
        self.denoiser = denoiser
        self.percentile = percentile
        self.floor = floor

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        estimate = self.denoiser(x_t, t, condition)
        size = estimate.x0.abs().flatten(1)  # b (c f h w)
        rank = math.ceil(self.percentile / 100.0 * size.shape[1])
        limit = size.kthvalue(rank, dim=1).values.clamp(min=self.floor)  # b
        limit = limit.view(-1, *[1] * (x_t.ndim - 1))  # b 1 1 1 1
        return Estimate(estimate.x0.clamp(-limit, limit) * (self.floor / limit), estimate.variance)


def check_threshold(percentile: float = 99.5, floor: float = 1.0) -> None:
    """Raises ValueError for a percentile outside [50, 100], or a floor that is not positive."""
    if not 50.0 <= percentile <= 100.0:
        raise ValueError(f"percentile = {percentile} must be from 50 to 100; the usual value is 99.5")
    if not floor > 0.0:
        raise ValueError(f"floor = {floor} must be positive; for video in [-1, 1] it is 1")
