"""Consistency models: a student whose `x0` is where the probability-flow ODE ends, from any time on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vidiff.diffusion.denoise import PREDICTIONS, Denoiser, eps_from
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.process import add_noise
from vidiff.objective.distill import (
    Lesson,
    Path,
    StudentLoss,
    StudentObjective,
    Teacher,
    ddim_step,
    mean_between,
    share_of,
)

STILL = 0.1  # added to the length of a slope before it is brought to 1 (Lu & Song 2024, section 4.1)


class ConsistencyObjective(StudentObjective):
    """Consistency distillation and training (Song et al. 2023, eqs. 7 to 10): what the student says at a time is what
    it says, without a gradient, a step of the teacher further; at the end it is what the teacher says.

    The step is of second order, of two evaluations, on a grid of `loss.steps` times, on which each voxel stands
    wherever its clock does; without a teacher, the data stand for its estimates, which is unbiased in the limit of
    short steps (the same paper, theorem 2). The boundary, `f(x, 0) = x`, holds by how predictions are read. That the
    student compares with itself and not with an average of its past is of Song & Dhariwal 2024 (improved techniques,
    section 3.2).

    With `segments` above 1, the way is cut at the times of the student's own draws, and the student leads to the end of
    the part that a voxel is in (Heek et al. 2024, multistep consistency models, algorithm 1): as many steps of DDIM
    draw a clip, and it is sooner learned. One segment is the consistency model.

    With no steps time is continuous, in the stabilised form of Lu & Song 2024 (sCM, algorithm 1): the target lies off
    what the student says by `cos(phi) dx0 / dphi` along the ODE, `phi = atan(sigma / alpha)`, which forward
    differentiation gives exactly and which is brought to unit length. There is no step to be wrong by, at the cost of
    one more pass; the paper's warm-up of that slope is left out, and `loss.weighting` stands for its adaptive weight.

    Raises:
        ValueError: several segments in continuous time.
    """

    def __init__(
        self, denoiser: Denoiser, loss: StudentLoss, teacher: Teacher | None, times: Tensor, lowres_noise: float = 0.0
    ) -> None:
        super().__init__(denoiser, loss, teacher, times, lowres_noise)
        if not loss.steps and loss.segments > 1:
            raise ValueError(f"loss.segments is {loss.segments}, but loss.steps=0 is for one: set loss.segments=1")
        self.steps = Path(denoiser.schedule, Grid()(denoiser.schedule, loss.steps)) if loss.steps else None

    def answer(self, x0: Tensor, eps: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
        schedule = self.denoiser.schedule
        x_t = add_noise(schedule, x0, eps, clock)
        teacher = self.teacher

        def ask(x: Tensor, t: Tensor) -> Tensor:
            return x0 if teacher is None else teacher(x, t, lesson)

        if self.steps is None:
            return x_t, self._continuous(x_t, ask(x_t, clock), clock, learned, lesson)
        end = torch.zeros_like(clock) if self.path.count == 1 else self.path.end(clock)
        moving = ~lesson.known  # and frames that wait behind others, so that no further apart is asked than is trained
        end = torch.where(moving, end, clock)
        there = torch.where(moving, torch.maximum(self.steps.ahead(clock), end), clock)
        estimate = mean_between(ask, schedule, x_t, clock, there)
        with torch.no_grad():
            own = self.denoiser(ddim_step(schedule, estimate, x_t, clock, there), there, lesson.told).x0
        return x_t, torch.lerp(estimate, own, share_of(schedule, clock, there, end).to(own.dtype))

    @torch.no_grad()
    def _continuous(self, x_t: Tensor, estimate: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> Tensor:
        """The `x0` to be said in continuous time, `(b, c, f, h, w)`, where the teacher's is `estimate`."""
        schedule, prediction = self.denoiser.schedule, PREDICTIONS[self.denoiser.prediction]
        alpha, sigma = schedule(clock)
        norm = (alpha**2 + sigma**2).sqrt()
        cos, sin = alpha / norm, sigma / norm
        velocity = (cos * eps_from(schedule, estimate, x_t, clock) - sin * estimate) * learned  # dz / dphi
        log_snr = schedule.log_snr(clock).expand(len(x_t), 1, *x_t.shape[2:]).contiguous()

        def own(z: Tensor, log_snr: Tensor) -> Tensor:
            """What the student says of `z`, which is `x_t` scaled to unit variance."""
            alpha, sigma = schedule.scales(log_snr)
            a, b = prediction(alpha, sigma)
            output = self.denoiser.network(z, log_snr, lesson.told)
            return (b * z * (alpha**2 + sigma**2).sqrt() - sigma * output) / (alpha * b - sigma * a)

        along = cos * sin * velocity, (-2.0 * learned).expand_as(log_snr).to(log_snr.dtype).contiguous()
        with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated forward
            said, *slopes = torch.func.jvp(own, ((x_t / norm).to(x_t.dtype), log_snr), along)
        slope = slopes[0] / sin * learned  # cos dx0 / dphi
        count = learned.expand_as(slope).flatten(1).sum(1).clamp(min=1)
        size = (slope.square().flatten(1).sum(1) / count).sqrt().view(-1, *[1] * (slope.ndim - 1))
        return said - sin * slope / (size + STILL)
