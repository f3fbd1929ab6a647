"""Rectified flow: a student learns of pairs that its teacher draws, between which its paths are straighter."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.process import add_noise
from vidiff.objective.distill import Lesson, Shown, StudentObjective
from vidiff.sample import UniPC, start


class Reflow(StudentObjective):
    """Reflow (Liu et al. 2022, rectified flow, algorithm 1): the loss of a denoiser on noise and the clip that the
    teacher makes of it, in place of noise and any clip.

    The paths of a straight flow do not cross, so that few steps follow them. It is written for the straight line from
    noise to data; for every other schedule, `x / (alpha + sigma)` moves along that same line, by another clock.

    Known frames are those of the data, shown as in training; the rest is drawn from the noise by `loss.steps`
    evaluations of UniPC.
    """

    def answer(self, x0: Tensor, eps: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        schedule, teacher = self.denoiser.schedule, self.teacher
        shown = Shown(lambda x, t: teacher(x, t, lesson), schedule, lesson.known, x0, eps, clock)
        pair = shown.draw(eps, Grid()(schedule, self.student.steps), UniPC(2))  # as given where known
        return add_noise(schedule, pair, eps, clock), pair


@torch.no_grad()
def straightness(denoiser: Denoises, noise: Tensor, condition: Condition, times: Tensor) -> Tensor:
    """How far the paths of a model's ODE are from straight: `S = mean over t of |(Z_1 - Z_0) - dZ_t / dt|^2`, a mean
    over numbers too; 0 where one step draws as well as many (Liu et al. 2022, rectified flow, section 2.2).

    Paths are those of Euler's method along `times`, scaled to the straight line between noise and data.

    Args:
        noise: `(b, c, f, h, w)`, standard normal.
        times: `(n,)`, falling.

    Returns:
        a number.
    """
    schedule = denoiser.schedule
    x, places, paths = start(schedule, noise, times), [], []
    alpha, sigma = schedule(times)
    for number in range(len(times)):
        a, s = alpha[number], sigma[number]
        places.append(s / (a + s))
        paths.append(x / (a + s))
        x0 = denoiser(x, times[number].expand(len(x)), condition).x0
        eps = (x - a * x0) / s
        if number + 1 < len(times):
            x = alpha[number + 1] * x0 + sigma[number + 1] * eps
    places.append(torch.zeros_like(places[0]))
    paths.append(x0)
    whole = (paths[-1] - paths[0]) / (places[-1] - places[0])  # b c f h w, along the whole way
    total = torch.zeros((), dtype=noise.dtype, device=noise.device)
    for a, b, x, y in zip(places, places[1:], paths, paths[1:], strict=False):
        total = total + (a - b) * ((y - x) / (b - a) - whole).square().mean()
    return total / (places[0] - places[-1])
