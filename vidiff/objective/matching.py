"""Distribution matching: a student whose draws are to be as likely as its teacher's, and need not be the same."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from vidiff.diffusion.denoise import Denoiser, target
from vidiff.diffusion.process import add_noise
from vidiff.objective.distill import Lesson, StudentLoss, StudentObjective, Teacher
from vidiff.objective.latents import Batch, draw_clips, normalised
from vidiff.objective.task import draw_clock, draw_known

ENDS = 0.02, 0.98
"""The least and the largest time at which scores are compared (Yin et al. 2024, DMD, appendix)."""


class Matching(StudentObjective):
    """Distribution matching distillation (Yin et al. 2024, One-step Diffusion with Distribution Matching Distillation,
    eqs. 7 and 8; several steps after Yin et al. 2024, Improved Distribution Matching Distillation, sections 4.4, 4.5).

    What the student makes is noised, and moved from what a denoiser of its own draws, `fake`, says of it to what the
    guided teacher says: the gradient of the KL divergence between both distributions, at every noise level, with the
    weights of eq. 8 but for a factor `alpha`. `fake` begins as the student, and learns beside it of what that makes.
    Each sees the other as a constant, so that one backward pass gives each network the gradient of its own part alone,
    and one optimizer moves both.

    The student is asked at the times of its own draws, and shown what it has made itself at the times before, noised
    anew: it is drawn by the sampler `consistency`. Known frames are the data's, at their own clock, to all three.

    Args, errors: as of `StudentObjective`; there is a teacher.
    """

    def __init__(
        self, denoiser: Denoiser, loss: StudentLoss, teacher: Teacher | None, times: Tensor, lowres_noise: float = 0.0
    ) -> None:
        super().__init__(denoiser, loss, teacher, times, lowres_noise)
        self.fake = copy.deepcopy(denoiser)
        # It must know what the student draws before that draws otherwise (Yin et al. 2024, section 4.2, for which
        # there it takes five steps to each of the student's).
        self.paces = {"denoiser": loss.pace}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch, from which both networks learn; its value is that of `fake`, as of `DiffusionObjective`.

        Returns:
            as of `DiffusionObjective`; "matching", half the mean square of the way that the student is to go; and
            "mismatch", how far what is said of its draws is from what the teacher says, as a share of how far the
            teacher would change them (both mean absolute).
        """
        batch = normalised(batch)
        x0, schedule = draw_clips(batch), self.denoiser.schedule
        drawn = draw_known(self.options.tasks, x0.shape, x0.device)
        lesson = self._lesson(batch, x0, drawn)
        told = lesson.told

        def times(count: int) -> Tensor:
            return self.times(count, x0.device, schedule)

        clock, learned = draw_clock(self.options.tasks, times(len(x0)), drawn, times)
        clock = torch.where(learned, self.path.nearest(clock), clock)
        x_t = add_noise(schedule, self.made(x0, clock, learned, lesson), torch.randn_like(x0), clock)
        clips = torch.where(learned, self.denoiser(x_t, clock, told).x0, x0)

        t = times(len(x0)).clamp(*ENDS)
        t = t[torch.randperm(len(t), device=t.device)]  # they may come in order, as those of the student do
        level, eps = torch.where(learned, t.view(-1, 1, 1, 1, 1), clock), torch.randn_like(x0)
        fixed = clips.detach()
        noised = add_noise(schedule, fixed, eps, level)
        assert self.teacher is not None
        real = self.teacher(noised, level, lesson)
        output = self.fake.output(noised, level, told)
        wanted = target(self.fake.prediction, schedule, fixed, eps, level)
        errors, counted = self._errors(output.said, wanted, level, learned)
        voxels = counted.sum()

        with torch.no_grad():
            away = self.fake.estimate(output, noised, level).x0 - real
            rest = _mean((fixed - real).abs(), learned).clamp(min=1e-6)  # b 1 1 1 1
            nearer = fixed - away / rest
        free = learned.expand_as(clips)
        matching = 0.5 * ((clips - nearer).square() * free).sum() / free.sum()
        mismatch = (_mean(away.abs(), learned) / rest).mean()
        scores = {"weight": voxels, "matching": matching.detach(), "mismatch": mismatch}
        report = self._report(errors.detach() / counted, drawn, t)
        # of the student's part the gradient counts, and not how large it is
        return {"loss": errors.sum() / voxels + matching - matching.detach(), **scores, **report}

    @torch.no_grad()
    def made(self, x0: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> Tensor:
        """The clips that the student is shown, noised to `clock`: what it has made at the times of its draws before.

        Args:
            x0: `(b, c, f, h, w)`, of which is left what stands at the first time, or is not learned from.
        """
        schedule, clips = self.denoiser.schedule, x0
        for time in self.path.times[:-2].tolist():
            here = torch.where(learned, clock.clamp(min=time), clock)
            x_t = add_noise(schedule, clips, torch.randn_like(x0), here)
            estimate = self.denoiser(x_t, here, lesson.told).x0
            clips = torch.where(learned & (clock < here), estimate.to(x0.dtype), clips)
        return clips

    @torch.no_grad()
    def gaps(self, batch: Batch, exact: tuple[float, Tensor] | None = None) -> tuple[dict[str, float], Any]:
        """How far both networks are apart on what is made of held-out clips' tasks: "mismatch", as of a training step.

        Its draws are its own, and no nearer to those that its teacher makes of the same noise.
        """
        return {"mismatch": float(self(batch)["mismatch"])}, exact


def _mean(x: Tensor, learned: Tensor) -> Tensor:
    """The mean of `(b, c, f, h, w)` over what is learned from: `(b, 1, 1, 1, 1)`."""
    learned = learned.expand_as(x)
    over = (1, 2, 3, 4)
    return (x * learned).sum(over, keepdim=True) / learned.sum(over, keepdim=True).clamp(min=1)
