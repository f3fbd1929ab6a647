"""The loss of a denoiser: clock, noise, target and weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.diffusion.cascade import augment
from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import APART, Condition
from vidiff.diffusion.denoise import Denoiser, Output, target
from vidiff.diffusion.half import half_known
from vidiff.diffusion.likelihood import reconstruction_term, step_term
from vidiff.diffusion.process import add_noise
from vidiff.objective.latents import Batch, condition_of, draw_clips, normalised
from vidiff.objective.task import Drawn, Tasks, draw_clock, draw_known
from vidiff.objective.weighting import TIMES, WEIGHTINGS, Uncertainty, level_weight, surprise

DISTANCES = {
    "l2": lambda output, wanted: (output - wanted).square(),
    "l1": lambda output, wanted: (output - wanted).abs(),
    "huber": lambda output, wanted: F.huber_loss(output, wanted, reduction="none"),
}

BOUND_STEPS = 1000  # that the bound is divided into


@dataclass
class DiffusionLoss:
    """Options of the diffusion loss."""

    distance: str = "l2"  # or l1, huber
    weighting: str = "simple"  # or score_matching, min_snr, edm, sigmoid, uncertainty (by level and what is known near)
    times: str = "stratified"  # or uniform, logit_normal, log_normal
    spread: float = 0.0  # of how well it tells how much of a frame is new, with unet.previous; 1 is usual for film
    bound: float = 0.0  # weight of the variational bound, which trains a variance head: 0.001 with one is usual
    drop: float = 0.1  # probability that a sample's label and text are dropped, for classifier-free guidance
    drop_known: float = 0.5  # the same where frames are known, so that a clip can be extended without a label
    drop_action: float = 0.1  # probability that a sample's actions are dropped, apart from the rest
    drop_control: float = 0.1  # the same of the video beside it (data.control)
    tasks: Tasks = field(default_factory=Tasks)
    rollout: float = 0.0  # probability that known frames are shown as the model itself makes them, errors and all
    rollout_time: float = (
        0.5  # largest time to which they are noised for that, and from which the model then makes them
    )

    def __post_init__(self) -> None:
        for name in ("drop", "drop_known", "rollout", "rollout_time", *(f"drop_{part}" for part in APART)):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"loss.{name} is {value}; give a number from 0 to 1")
        if not 0.0 <= self.bound < math.inf:
            raise ValueError(f"loss.bound is {self.bound}; give 0 or more: 0.001 is usual")
        if not 0.0 <= self.spread < math.inf:
            raise ValueError(f"loss.spread is {self.spread}; give 0 or more: 1 is usual for film")


class DiffusionObjective(nn.Module):
    """Denoising loss over the unknown voxels of each clip (Ho et al. 2020, algorithm 1, with a clock a voxel).

    Args:
        lowres_noise: largest time to which a low-resolution video that conditions the model is noised.
    """

    free: ClassVar[bool] = True  # what is learned may be asked at any times, and not at those of its own draws alone

    def __init__(self, denoiser: Denoiser, loss: DiffusionLoss, lowres_noise: float = 0.0) -> None:
        super().__init__()
        self.denoiser, self.options, self.lowres_noise = denoiser, loss, lowres_noise
        self.distance = choose("loss distance", loss.distance, DISTANCES)
        choose("loss weighting", loss.weighting, WEIGHTINGS)
        self.times = choose("time distribution", loss.times, TIMES)
        self.uncertainty = Uncertainty() if loss.weighting == "uncertainty" else None
        if isinstance(denoiser.schedule, nn.Module):
            raise ValueError(
                "a learned schedule would make this loss easy rather than the model good; "
                "train it with BoundObjective, or choose linear, cosine, ve or flow"
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch.

        Returns:
            "loss"; "weight", the number of unknown voxels (as the clock has them) over which it is the mean; and its
            mean over each task and over each quarter of the time axis (NaN where none was drawn).
        """
        batch = normalised(batch)
        x0, schedule, prediction = draw_clips(batch), self.denoiser.schedule, self.denoiser.prediction
        drawn = draw_known(self.options.tasks, x0.shape, x0.device)
        condition = self._condition(batch, drawn)

        def times(count: int) -> Tensor:
            return self.times(count, x0.device, schedule)

        t = times(len(x0))
        if self.options.bound:
            t = (t * BOUND_STEPS).ceil().clamp(min=1) / BOUND_STEPS  # the bound's own times, the last of each step
        clock, learned = draw_clock(self.options.tasks, t, drawn, times)  # b 1 f 1 1, or b 1 f h w

        eps = torch.randn_like(x0)
        shown = self._rolled_out(x0, drawn, condition) if self.options.rollout else x0
        x_t = add_noise(schedule, shown, eps, clock)
        output = self.denoiser.output(x_t, clock, condition)
        wanted = target(prediction, schedule, x0, eps, clock)
        errors, counted = self._errors(output.said, wanted, clock, learned, output.spread)
        voxels = counted.sum()
        loss, extra = errors.sum() / voxels, {"weight": voxels}
        if self.options.bound:
            term = self._bound(output, x0, x_t, torch.where(learned, clock, 0.5))
            term = BOUND_STEPS * term.mean(dim=_over(learned), keepdim=True)  # as the clock
            limit = (term * learned).sum() / voxels
            loss, extra = loss + self.options.bound * limit, extra | {"bound": limit.detach()}
        return {"loss": loss, **extra, **self._report(errors.detach() / counted, drawn, t)}

    @torch.no_grad()
    def half_known(self, batch: Batch) -> float | None:
        """The log-SNR at which half of a batch is known, by `half_known`, told all that comes with it."""
        batch = normalised(batch)
        condition = augment(condition_of(batch), self.denoiser.schedule, 0.0)
        return half_known(self.denoiser, draw_clips(batch), condition)

    def _errors(
        self, output: Tensor, wanted: Tensor, clock: Tensor, learned: Tensor, spread: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is wrong with a network's output, weighted by noise level and summed over what is learned from; and with
        how far off it says that it may be, the logarithm of a variance.

        Returns:
            the sums and the numbers of voxels that they are over, both `(b,)`.
        """
        schedule, prediction = self.denoiser.schedule, self.denoiser.prediction
        log_snr = schedule.log_snr(clock)
        weight = level_weight(self.options.weighting, prediction, schedule, torch.where(learned, clock, 0.5)) * learned
        error = self.distance(output.float(), wanted).mean(dim=_over(learned), keepdim=True) * weight  # as the clock
        if self.uncertainty is not None:
            expected = self.uncertainty(log_snr)
            error = error / expected.exp() + expected * learned
        if spread is not None and self.options.spread:
            unlikely = surprise(output.detach().float() - wanted, spread.float())
            error = error + self.options.spread * unlikely.mean(dim=_over(learned), keepdim=True) * learned
        return error.flatten(1).sum(1), learned.flatten(1).sum(1).clamp(min=1)

    def _condition(self, batch: Batch, drawn: Drawn) -> Condition:
        """The condition of a batch, with what it asks for dropped at random and its low resolution noised."""
        nothing = (drawn.task == Tasks.NAMES.index("generate")) | (drawn.task == Tasks.NAMES.index("clocks"))
        drop = torch.where(nothing, self.options.drop, self.options.drop_known)  # b
        condition = condition_of(batch).drop(drop)
        for name in APART:
            condition = condition.drop(getattr(self.options, f"drop_{name}"), names=(name,))
        return augment(condition, self.denoiser.schedule, self.lowres_noise)

    @torch.no_grad()
    def _rolled_out(self, x0: Tensor, drawn: Drawn, condition: Condition) -> Tensor:
        """Clips of which some samples' known voxels are what the model itself makes of them, so that it learns to go on
        from its own errors and not from what is real alone: `(b, c, f, h, w)`, the others as they are.

        Each sample's clip is noised to a time of its own, up to `rollout_time`, and estimated without a gradient: a
        draw of one step, near enough to what is real for the frames after it to follow (after Huang et al. 2025, self
        forcing, which rolls out whole draws).
        """
        rows = (len(x0), 1, 1, 1, 1)
        t = self.options.rollout_time * torch.rand(rows, device=x0.device)
        chosen = torch.rand(rows, device=x0.device) < self.options.rollout
        made = self.denoiser(add_noise(self.denoiser.schedule, x0, torch.randn_like(x0), t), t, condition).x0
        return torch.where(drawn.known & chosen, made.to(x0.dtype), x0)

    def _report(self, errors: Tensor, drawn: Drawn, t: Tensor) -> dict[str, Tensor]:
        """The mean of the samples' errors `(b,)` over each task and over each quarter of the time axis."""

        def mean(these: Tensor) -> Tensor:  # and not errors[these], for whose size the program would wait
            return errors.where(these, 0.0).sum() / these.sum()

        names = [name for name in Tasks.NAMES if getattr(self.options.tasks, name)]
        report = {f"loss/{name}": mean(drawn.task == Tasks.NAMES.index(name)) for name in names}
        quarters = (t * 4).long().clamp(max=3)
        return report | {f"loss/t{quarter}": mean(quarters == quarter) for quarter in range(4)}

    def _bound(self, output: Output, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The bound's term at `t`, in nats: `(b, c, f, h, w)`.

        With a variance head it trains that alone, since the mean is stopped: L_hybrid of Nichol & Dhariwal 2021, eq.
        16.
        """
        told = output if output.variance is None else output._replace(said=output.said.detach())
        estimate = self.denoiser.estimate(told, x_t, t)
        s = t - 1.0 / BOUND_STEPS
        first = s < 0.5 / BOUND_STEPS
        variance = "small" if output.variance is None else "learned"
        step = step_term(self.denoiser, x0, x_t, estimate, t, torch.where(first, 0.5 * t, s), variance)
        return torch.where(first, reconstruction_term(self.denoiser, x0, estimate, t, None), step)


def _over(learned: Tensor) -> tuple[int, ...]:
    """The axes over which an error is a mean: a frame's, or where boxes are trained a voxel's."""
    return (1, 3, 4) if learned.shape[3:] == (1, 1) else (1,)
