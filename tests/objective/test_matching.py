"""Students that are to draw what is as likely as their teacher's draws: they are led there, and stay there."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.objective.test_few_steps import SCHEDULE, teacher, train  # noqa: F401
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Denoises
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.schedule import Cosine, Flow, Schedule
from vidiff.objective.distill import Lesson, StudentLoss, Teacher, teacher_of
from vidiff.objective.matching import Matching
from vidiff.objective.task import Tasks
from vidiff.sample import DDIM, Sampler, UniPC, start

DOUBLE = torch.float64
PLAIN = [1.0, 1.0]
NEW = Tasks(generate=1.0, first=0.0, random=0.0, rising=0.0)


class Affine(nn.Module):
    """A generator of numbers, `a x + b`: what it says is its `x0`, whatever the time."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=DOUBLE)) for value in (a, b))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.a * x + self.b


def normal(mean: float, deviation: float) -> Mixture:
    return Mixture(torch.full((1, 1, 1, 1, 1), mean, dtype=DOUBLE), torch.tensor([deviation], dtype=DOUBLE))


def exact(data: Mixture, schedule: Schedule) -> Denoiser:
    return Denoiser(ExactNetwork(data, schedule, "x0"), schedule, "x0")


def pupil(schedule: Schedule, a: float, b: float, loss: StudentLoss) -> Matching:
    """A generator of one step of the normal distribution of mean 0.7 and deviation 0.5."""
    student = Denoiser(Affine(a, b), schedule, "x0")
    return Matching(student, loss, Teacher(exact(normal(0.7, 0.5), schedule)), torch.tensor([1.0], dtype=DOUBLE))


@pytest.mark.parametrize("schedule", [Cosine(shift=2), Flow()], ids=lambda s: type(s).__name__)
def test_draws_as_likely_as_the_teacher_s_are_left_as_they_are_and_others_led_there(schedule: Schedule) -> None:
    """The optimum of a normal distribution in closed form, where what the student's draws are like is known exactly."""
    torch.manual_seed(0)
    alpha, sigma = (float(value) for value in schedule(torch.tensor(1.0, dtype=DOUBLE)))
    at_the_end = (0.5**2 / (sigma**2 + alpha**2)) ** 0.5  # x is noise and hardly anything else
    clips = torch.randn(4000, 1, 1, 1, 1, dtype=DOUBLE)
    objective = pupil(schedule, at_the_end, 0.7, StudentLoss(guidance=PLAIN, tasks=NEW, times="uniform"))
    network = objective.denoiser.network

    def told() -> None:
        objective.fake = exact(normal(network.b.item(), abs(network.a.item()) * math.hypot(alpha, sigma)), schedule)

    told()
    found = objective({"video": clips})
    gradients = torch.autograd.grad(found["loss"], list(network.parameters()))
    assert float(found["mismatch"]) < 1e-3 and max(float(g.abs()) for g in gradients) < 2e-3
    with torch.no_grad():
        network.a.fill_(0.1), network.b.fill_(-0.4)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        told()
        optimizer.zero_grad()
        objective({"video": clips[:256]})["loss"].backward()
        optimizer.step()
        falls.step()
    assert network.b.item() == pytest.approx(0.7, abs=1e-3)
    assert abs(network.a.item()) * math.hypot(alpha, sigma) == pytest.approx(0.5, abs=1e-3)


def energy(one: Tensor, other: Tensor) -> float:
    """The energy distance of two sets of clips: 0 where they are of one distribution."""
    a, b = one.flatten(1), other.flatten(1)
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def test_a_student_of_one_step_draws_as_likely_as_its_teacher_does_in_many(teacher: Denoiser) -> None:  # noqa: F811
    """Guided, of each label: nearer than the teacher in one step, which draws a mean, and on both sides."""
    torch.manual_seed(1)
    student, scale, times = copy.deepcopy(teacher), 2.0, Grid()(SCHEDULE, 1)
    options = StudentLoss(guidance=[scale, scale], tasks=Tasks(0.5, 0.5, 0.0, forget=0.0, rising=0.0), history=False)
    train(Matching(student, options, teacher_of(student, False, False), times), 600, 2e-3)
    noise, guided = torch.randn(2000, 1, 2, 1, 1), ClassifierFree(teacher, scale)

    def draw(denoiser: Denoises, condition: Condition, times: Tensor, sampler: Sampler) -> Tensor:
        return sampler(denoiser, start(SCHEDULE, noise, times), condition, times)

    for label in (0, 1):
        condition = Condition(label=torch.full((2000,), label))
        wanted = draw(guided, condition, Grid()(SCHEDULE, 32), UniPC(2))
        few = draw(guided, condition, times, DDIM())
        own = draw(student, replace(condition, guidance=torch.full((2000,), scale)), times, DDIM())
        assert energy(own, wanted) < 0.3 * energy(few, wanted)
        assert float((own[:, 0, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.15)


def test_a_student_is_shown_what_it_has_made_at_the_times_before() -> None:
    """Of three times: nothing at the first, one draw at the second, a draw of that at the third."""
    asked = list[Tensor]()

    class Counts(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            asked.append(log_snr)
            return torch.full_like(x, float(len(asked)))

    student = Denoiser(Counts(), SCHEDULE, "x0")
    objective = Matching(student, StudentLoss(guidance=PLAIN), Teacher(student), Grid()(SCHEDULE, 3))
    first, second, third = objective.path.times[:3].float().tolist()
    clock = torch.tensor([0.0, first, second, third, 1.0]).view(1, 1, 5, 1, 1)
    known, learned = clock == 0.0, (clock > 0.0) & (clock < 1.0)
    x0 = torch.full((1, 1, 5, 1, 1), 9.0)
    made = objective.made(x0, clock, learned, Lesson(Condition(), None, known, x0))
    assert made.flatten().tolist() == [9.0, 9.0, 1.0, 2.0, 9.0]
    levels = [SCHEDULE.time_of(one).flatten() for one in asked]
    torch.testing.assert_close(levels[0], torch.tensor([0.0, first, first, first, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(levels[1], torch.tensor([0.0, first, second, second, 1.0]), atol=1e-4, rtol=0)
