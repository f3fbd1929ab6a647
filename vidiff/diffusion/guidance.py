"""Guidance makes a denoiser from a denoiser, so that it works with every sampler and every task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.known import check_mask
from vidiff.diffusion.process import draw_noise, expand_time
from vidiff.diffusion.schedule import Schedule

CONVENTIONS = {"cfg": 0.0, "ho": 1.0}  # what to add to the number given, so that 1 is the plain model


class ClassifierFree(nn.Module):
    """Classifier-free guidance: `x0 = null + scale * (conditional - null)` (Ho & Salimans 2022, eq. 6).

    Since `eps` is affine in `x0` this is the same as guiding `eps`. Both branches are one call of the
    network, and where the scale is neutral the plain denoiser is called, once, so its estimate comes back bit
    for bit.

    Args:
        scale: 1 is the plain model under "cfg"; under "ho", the paper's own `w`, 0 is.
        convention: "cfg" or "ho".
        interval: times `(low, high)` in which to guide; outside, the model is plain (Kynkäänniemi et al.
            2024).
        history: mask as `Known` has it, of the known voxels that the null branch forgets as well: their clock
            goes to 1 and their content to noise, which is drawn with `generator` (Song et al. 2025, history
            guidance). Put it
            inside: `Known(ClassifierFree(denoiser, scale, history=mask), frames, mask)`.

    Raises:
        ValueError: an unknown convention, or an interval that is not within [0, 1].
    """

    history: Tensor | None

    def __init__(
        self,
        denoiser: Denoises,
        scale: float,
        convention: str = "cfg",
        *,
        interval: tuple[float, float] | None = None,
        history: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if interval is not None and not 0.0 <= interval[0] <= interval[1] <= 1.0:
            raise ValueError(f"interval = {interval} must satisfy 0 <= low <= high <= 1, in diffusion time")
        self.denoiser = denoiser
        self.scale = scale + choose("guidance convention", convention, CONVENTIONS)
        self.interval = interval
        self.generator = generator
        self.noise: Tensor | None = None
        self.register_buffer("history", history, persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        t = expand_time(t, x_t)
        scale: float | Tensor = self.scale
        if self.interval is not None:
            inside = (t >= self.interval[0]) & (t <= self.interval[1])
            scale = torch.where(inside, scale, 1.0) if inside.any() else 1.0
        if not isinstance(scale, Tensor) and scale == 1.0:
            return self.denoiser(x_t, t, condition)
        clock = t.expand(x_t.shape[0], *t.shape[1:])
        null_x, null_clock = self._forget(x_t, clock)
        both = self.denoiser(
            torch.cat([x_t, null_x]),
            torch.cat([clock.expand_as(null_clock), null_clock]),
            condition.cat(condition.null()),
        )
        plain, null = both.x0.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return Estimate(null + scale * (plain - null), variance)

    def _forget(self, x_t: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        if self.history is None:
            return x_t, clock
        check_mask(self.history, x_t)
        if self.noise is None or self.noise.shape != x_t.shape:
            self.noise = draw_noise(x_t, self.generator)  # once: the same noise at every step keeps the path smooth
        _, sigma = self.schedule(clock.new_ones(()))
        gone = (sigma * self.noise).to(x_t.dtype)
        return torch.where(self.history, gone, x_t), torch.where(self.history, 1.0, clock)
