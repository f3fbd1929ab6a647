"""Training on the variational bound itself, which is what a learned schedule needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidiff.diffusion.cascade import augment
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.likelihood import prior_term, reconstruction_term, step_term
from vidiff.diffusion.process import add_noise
from vidiff.objective.latents import Batch, condition_of, draw_clips, normalised


class BoundObjective(nn.Module):
    """L_vlb = L_0 + sum of L_t + L_T (Ho et al. 2020, equation 5), on `steps` steps even in `t`, in bits a number.

    Each sample estimates the sum by one of its terms; the schedule gets its gradient through all of them.

    Args:
        steps: at least 2.
        variance: of the reverse steps, as for `DDPM`; "learned" where the denoiser has a variance head, if not given.
        lowres_noise: largest time to which a low-resolution video that conditions the model is noised.

    Raises:
        ValueError: fewer steps.
    """

    def __init__(
        self, denoiser: Denoiser, steps: int = 1000, variance: str | None = None, lowres_noise: float = 0.0
    ) -> None:
        super().__init__()
        if steps < 2:
            raise ValueError(f"steps = {steps} must be at least 2")
        self.denoiser, self.steps, self.lowres_noise = denoiser, steps, lowres_noise
        self.variance = variance or ("learned" if denoiser.variance else "small")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """An estimate of the bound of a batch.

        Args:
            batch: as for `DiffusionObjective`.

        Returns:
            "loss", and apart "L_0", "L_t" and "L_T", all in bits a number.
        """
        batch = normalised(batch)
        x0, denoiser, schedule = draw_clips(batch), self.denoiser, self.denoiser.schedule
        with torch.no_grad():  # else a schedule would learn to show more of it
            condition = augment(condition_of(batch), schedule, self.lowres_noise)
        count = len(x0)
        quantile = (torch.randperm(count, device=x0.device) + torch.rand(count, device=x0.device)) / count
        number = 2 + (quantile * (self.steps - 1)).long().clamp(max=self.steps - 2)  # from 2 to steps
        ends = torch.stack(
            [number / self.steps, (number - 1) / self.steps, torch.full_like(quantile, 1.0 / self.steps)]
        )
        t, s, first = schedule.clock(ends.T.view(count, 1, 3, 1, 1), condition).split(1, dim=2)

        x_t, x_1 = (add_noise(schedule, x0, torch.randn_like(x0), time) for time in (t, first))
        step = step_term(denoiser, x0, x_t, denoiser(x_t, t, condition), t, s, self.variance)
        terms = {
            "L_0": reconstruction_term(denoiser, x0, denoiser(x_1, first, condition), first, None).mean(),
            "L_t": (self.steps - 1) * step.mean(),
            "L_T": prior_term(denoiser, x0, torch.ones_like(first)).mean(),
        }
        bits = {name: term / math.log(2.0) for name, term in terms.items()}
        return {"loss": sum(bits.values(), x0.new_zeros(())), **{name: term.detach() for name, term in bits.items()}}
