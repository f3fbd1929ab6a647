"""Students on data whose teacher is known in closed form: what each is to say, and that nothing else has less loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import PREDICTIONS, Denoiser, target
from vidiff.diffusion.exact import ExactConsistency, ExactNetwork, Mixture
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import first_frames
from vidiff.diffusion.process import add_noise
from vidiff.diffusion.schedule import VE, Cosine, Flow, Linear, Schedule
from vidiff.objective.consistency import ConsistencyObjective
from vidiff.objective.distill import (
    Guided,
    Lesson,
    Path,
    Progressive,
    StudentLoss,
    Teacher,
    angle_between,
    ddim_step,
    mean_between,
    teacher_of,
)
from vidiff.objective.flow import Reflow, straightness
from vidiff.objective.task import Tasks

DOUBLE = torch.float64
SCHEDULES = [Cosine(shift=2), Flow(), VE(), Linear()]
EVERY = Tasks(0.3, 0.3, 0.2, clocks=0.2, noise=0.2, forget=0.0)
PLAIN = [1.0, 1.0]


def gaussian(frames: int = 4) -> Mixture:
    return Mixture(torch.full((1, 1, frames, 1, 1), 0.7, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))


def two(frames: int = 4) -> Mixture:
    """Clips about -1 and about 1, which are their labels."""
    means = torch.tensor([-1.0, 1.0], dtype=DOUBLE).view(2, 1, 1, 1, 1).expand(2, 1, frames, 1, 1)
    return Mixture(means, torch.tensor([0.3, 0.3], dtype=DOUBLE))


def exact(data: Mixture, schedule: Schedule, prediction: str = "v") -> Denoiser:
    return Denoiser(ExactNetwork(data, schedule, prediction), schedule, prediction)


class Shifted(nn.Module):
    """A network, and an affine error to be found to be 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.error = network, nn.Parameter(torch.zeros(2, dtype=DOUBLE))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.network(x, log_snr, condition) + self.error[0] + self.error[1] * x


class Walked(nn.Module):
    """The network whose `x0` is where a teacher of independent voxels leads, step by step, to the end of each part."""

    def __init__(self, teacher: Denoiser, steps: Path, parts: Path) -> None:
        super().__init__()
        self.teacher, self.steps, self.parts = teacher, steps, parts

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        schedule = self.teacher.schedule
        alpha, sigma = schedule.scales(log_snr)
        begin, t = x * (alpha**2 + sigma**2).sqrt(), schedule.time_of(log_snr)
        end = torch.zeros_like(t) if self.parts.count == 1 else self.parts.end(t)
        x, here = begin, t
        for _ in range(self.steps.count + 1):
            there = torch.maximum(self.steps.ahead(here), end)
            mean = mean_between(lambda x, t: self.teacher(x, t, condition).x0, schedule, x, here, there)
            x, here = ddim_step(schedule, mean, x, here, there), there
        # the x0 whose one step from `begin` leads there (Salimans & Ho 2022, algorithm 2)
        (a, s), (a_end, s_end) = schedule(t), schedule(end)
        x0 = torch.where(s_end < s, (x - s_end / s * begin) / (a_end - s_end / s * a), begin)
        return target(self.teacher.prediction, schedule, x0, (begin - a * x0) / s, t)


def loss_and_gradient(objective: nn.Module, error: nn.Parameter, clips: Tensor) -> tuple[float, float]:
    loss = objective({"video": clips})["loss"]
    (gradient,) = torch.autograd.grad(loss, error)
    return float(loss.detach()), float(gradient.abs().max())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_path_goes_from_knot_to_knot_and_ends_at_the_data(schedule: Schedule) -> None:
    times = Grid()(schedule, 5)
    path = Path(schedule, times)
    knots = torch.cat([times, torch.zeros(1)])
    torch.testing.assert_close(path.ahead(times), knots[1:])
    assert torch.equal(path.end(times), knots[1:])
    log_snr = schedule.log_snr(knots.double())
    for share in (0.25, 0.5, 0.75):  # between two knots, a step leads as far between the next two
        t = schedule.time_of(torch.lerp(log_snr[:-2], log_snr[1:-1], share))
        further = schedule.time_of(torch.lerp(log_snr[1:-1], log_snr[2:], share))
        torch.testing.assert_close(path.ahead(t), further, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(path.end(t), knots[1:-1].double(), atol=1e-6, rtol=0)
    every = path.nearest(torch.linspace(0.0005, 0.9995, 1000))
    assert (
        torch.equal(every.unique(), times.sort().values) and every.unique(return_counts=True)[1].tolist() == [200] * 5
    )
    late = torch.tensor([1.0, 0.5 * float(times[-1]), 0.0])
    assert path.ahead(late).tolist() == pytest.approx([float(times[1]), 0.0, 0.0]) and float(path.end(late)[1]) == 0.0


@pytest.mark.parametrize("prediction", ["v", "eps", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_one_step_of_a_progressive_student_is_two_of_its_teacher(schedule: Schedule, prediction: str) -> None:
    """Salimans & Ho 2022, algorithm 2, with a clock for each frame, around known frames that stand at theirs."""
    teacher, times = exact(two(), schedule, prediction), Grid()(schedule, 4, DOUBLE)
    student = Progressive(
        exact(two(), schedule, prediction), StudentLoss(steps=8, guidance=PLAIN), Teacher(teacher), times
    )
    x0, eps = torch.randn(2, 6, 1, 4, 1, 1, dtype=DOUBLE)
    known = first_frames(4, 1)
    clock = torch.cat([torch.tensor([0.0], dtype=DOUBLE), times[[2, 0, 3]]]).view(1, 1, 4, 1, 1)
    lesson = Lesson(Condition(), None, known, eps)
    x_t, wanted = student.answer(x0, eps, clock, ~known, lesson)
    torch.testing.assert_close(x_t, add_noise(schedule, x0, eps, clock))
    end = torch.cat([torch.tensor([0.0], dtype=DOUBLE), times[[3, 1]], torch.zeros(1, dtype=DOUBLE)]).view_as(clock)
    middle = angle_between(schedule, clock, end, 0.5)
    half = ddim_step(schedule, teacher(x_t, clock, Condition()).x0, x_t, clock, middle)
    whole = ddim_step(schedule, teacher(half, middle, Condition()).x0, half, middle, end)
    (a, s), (a_end, s_end) = schedule(clock), schedule(end)
    paper = (whole - s_end / s * x_t) / (a_end - s_end / s * a)
    torch.testing.assert_close(wanted[:, :, 1:], paper[:, :, 1:], atol=1e-8, rtol=1e-8)
    alone = ddim_step(schedule, wanted, x_t, clock, end)
    torch.testing.assert_close(alone[:, :, 1:], whole[:, :, 1:], atol=1e-8, rtol=1e-8)
    assert torch.equal(alone[:, :, :1], x_t[:, :, :1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_steps_of_second_order_lead_a_progressive_student_nearer_to_the_ode(schedule: Schedule) -> None:
    """At as many evaluations of the teacher, against where the ODE of a Gaussian ends in closed form."""
    teacher, times = exact(gaussian(), schedule), Grid()(schedule, 2, DOUBLE)
    x0 = gaussian().sample(100).double()
    clock, known = times[1].view(1, 1, 1, 1, 1), torch.zeros(1, dtype=torch.bool).view(1, 1, 1, 1, 1)
    lesson = Lesson(Condition(), None, known, x0)
    eps, off = torch.randn_like(x0), []
    for steps, order in ((16, 1), (8, 2)):
        loss = StudentLoss(steps=steps, order=order, guidance=PLAIN)
        x_t, wanted = Progressive(exact(gaussian(), schedule), loss, Teacher(teacher), times).answer(
            x0, eps, clock, ~known, lesson
        )
        ends = Denoiser(ExactConsistency(gaussian(), schedule, "v"), schedule, "v")(x_t, clock, Condition()).x0
        off.append(float((wanted - ends).square().mean().sqrt()))
    assert off[1] < 0.4 * off[0] and off[1] < 0.02
    with pytest.raises(ValueError, match=r"loss.order is 3; give 1, which is DDIM, or 2"):
        StudentLoss(order=3)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_teacher_s_walk_is_where_a_consistency_student_ends(schedule: Schedule, segments: int) -> None:
    """Its loss and its gradient are 0 there, with every task and clock, to rounding; and not beside it."""
    teacher, loss = exact(gaussian(), schedule), StudentLoss(steps=8, segments=segments, guidance=PLAIN, tasks=EVERY)
    times = Grid()(schedule, segments, DOUBLE)
    walked = Shifted(Walked(teacher, Path(schedule, Grid()(schedule, 8)), Path(schedule, times)))
    objective = ConsistencyObjective(Denoiser(walked, schedule, "v"), loss, Teacher(teacher), times)
    found, gradient = loss_and_gradient(objective, walked.error, gaussian().sample(200))
    assert found < 1e-8 and gradient < 1e-4
    walked.error.data[0] = 0.1
    found, gradient = loss_and_gradient(objective, walked.error, gaussian().sample(200))
    assert found > 1e-4 and gradient > 1e-3


@pytest.mark.parametrize("prediction", [name for name in PREDICTIONS if name not in ("x0", "score")])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_end_of_the_ode_is_the_optimum_in_continuous_time(schedule: Schedule, prediction: str) -> None:
    """`mean + std * (x - alpha mean) / std of x_t`, to 1e-3 and far below; the teacher's mean is none."""
    losses = []
    for kind in (ExactConsistency, ExactNetwork):
        network = Shifted(kind(gaussian(), schedule, prediction))
        objective = ConsistencyObjective(
            Denoiser(network, schedule, prediction),
            StudentLoss(steps=0, guidance=PLAIN, tasks=EVERY),
            Teacher(exact(gaussian(), schedule, prediction)),
            Grid()(schedule, 1),
        )
        losses.append(loss_and_gradient(objective, network.error, gaussian().sample(200)))
    assert losses[0][0] < 1e-6 and losses[0][1] < 1e-3
    assert losses[1][0] > 1e-2


def test_in_small_steps_the_end_of_the_ode_is_the_optimum_of_distillation() -> None:
    """The loss there falls with the steps' length, as the fourth power: that of DDIM's error, squared."""
    schedule, found = Cosine(), []
    for steps in (32, 64, 128):
        student = Denoiser(ExactConsistency(gaussian(), schedule, "v"), schedule, "v")
        loss = StudentLoss(steps=steps, guidance=PLAIN, tasks=EVERY)
        objective = ConsistencyObjective(student, loss, Teacher(exact(gaussian(), schedule)), Grid()(schedule, 1))
        found.append(float(objective({"video": gaussian().sample(4000)})["loss"].detach()))
    assert 12 < found[0] / found[1] < 40 and 12 < found[1] / found[2] < 40 and found[2] < 1e-6


class Line(nn.Module):
    """`v = offset + slope * x`, both polynomials in `phi = atan(sigma / alpha)`, of Chebyshev."""

    def __init__(self, degree: int = 12) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(2, degree + 1, dtype=DOUBLE))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        offset, slope = (self.basis(log_snr) @ self.weight.T).unbind(-1)
        return offset + slope * x

    def basis(self, log_snr: Tensor) -> Tensor:
        """`(..., degree + 1)`."""
        place = 1.0 - 4.0 / torch.pi * torch.atan((-0.5 * log_snr).exp())  # 1 at the data, -1 at noise
        return torch.cos(torch.arange(self.weight.shape[1]) * place.clamp(-1, 1).acos()[..., None])


def trained(objective: nn.Module, clips: Callable[[], Tensor], steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate, betas=(0.9, 0.99))
    falls = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective({"video": clips()})["loss"].backward()
        optimizer.step()
        falls.step()


@pytest.mark.parametrize("interval", [None, (0.5, 0.7), (0.7, 1.0)])
def test_guidance_of_each_sample_s_own_scale_is_classifier_free_guidance(interval: tuple[float, float] | None) -> None:
    """On the label, and where frames are known on them too, forgotten as the same noise."""
    schedule = Cosine()
    teacher, mask = exact(two(), schedule), first_frames(4, 2)
    x, frames, noise = torch.randn(3, 3, 1, 4, 1, 1, dtype=DOUBLE)
    clock = torch.where(mask, 0.0, torch.tensor(0.6, dtype=DOUBLE))
    shown = torch.where(mask, add_noise(schedule, frames, noise, clock), x)
    condition, scales = Condition(label=torch.tensor([0, 1, -1])), [1.0, 2.5, 4.0]
    for history in (True, False):
        lesson = Lesson(condition, torch.tensor(scales, dtype=DOUBLE), mask, noise)
        found = Teacher(teacher, history=history, interval=interval)(shown, clock.expand(3, 1, 4, 1, 1), lesson)
        for row, scale in enumerate(scales):
            guided = ClassifierFree(teacher, scale, interval=interval, history=mask if history else None)
            guided.noise = noise[row : row + 1]
            one = guided(shown[row : row + 1], clock, condition[row : row + 1]).x0
            torch.testing.assert_close(found[row : row + 1], one, rtol=1e-10, atol=1e-10)


class Led(nn.Module):
    """An exact network that is guided on the label by the scale that it is told."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        assert condition.guidance is not None
        told = replace(condition, guidance=None)
        free, plain = (self.network(x, log_snr, one) for one in (told.null(), told))
        return torch.lerp(free, plain, condition.guidance.to(x).view(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_guided_teacher_is_the_optimum_of_distilled_guidance(schedule: Schedule) -> None:
    """Meng et al. 2023, section 3.1: its loss and gradient are 0 there with every task and clock; not beside it, nor
    unguided."""
    loss = StudentLoss(guidance=[1.5, 3.0], history=False, tasks=EVERY)
    found = []
    for guided, off in ((True, 0.0), (True, 0.1), (False, 0.0)):
        torch.manual_seed(0)
        teacher = exact(two(), schedule)
        network = Shifted(Led(teacher.network) if guided else ExactNetwork(two(), schedule, "v"))
        network.error.data[0] = off
        objective = Guided(Denoiser(network, schedule, "v"), loss, Teacher(teacher, history=False), Grid()(schedule, 4))
        made = objective({"video": two().sample(400), "label": torch.arange(400) % 2})["loss"]
        (gradient,) = torch.autograd.grad(made, network.error)
        found.append((float(made.detach()), float(gradient.abs().max())))
    assert found[0][0] < 1e-9 and found[0][1] < 1e-6, found
    assert found[1][0] > 1e-4 and found[1][1] > 1e-3 and found[2][0] > 1e-4, found


def test_a_teacher_is_no_part_of_what_is_trained_and_stays_as_it_was() -> None:
    student = Denoiser(Small(), Cosine(), "v")
    loss = StudentLoss(steps=8, guidance=PLAIN)
    objective = ConsistencyObjective(student, loss, teacher_of(student, False, True), Grid()(Cosine(), 1))
    before = [p.clone() for p in objective.teacher.denoiser.parameters()]
    assert len(list(objective.parameters())) == len(before) == len(objective.state_dict())
    trained(objective, lambda: torch.randn(8, 1, 4, 1, 1), 3, 0.1)
    assert all(map(torch.equal, before, objective.teacher.denoiser.parameters()))
    assert not any(map(torch.equal, before, student.parameters()))


def test_a_small_student_of_a_gaussian_ends_within_a_thousandth_of_the_closed_form() -> None:
    """From weights of no meaning, by least squares on what it is to say, which each turn brings a step further. The
    form is that of a teacher's 16 steps; that of the ODE itself is within a hundredth."""
    schedule, data = Cosine(), gaussian(1)
    student = Denoiser(network := Line(), schedule, "v")
    loss = StudentLoss(steps=16, guidance=PLAIN)
    objective = ConsistencyObjective(student, loss, Teacher(exact(data, schedule)), Grid()(schedule, 1))
    nothing = torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool)
    for _ in range(20):
        x0, eps = data.sample(3000), torch.randn(3000, 1, 1, 1, 1, dtype=DOUBLE)
        clock = torch.rand(3000, 1, 1, 1, 1, dtype=DOUBLE)
        x_t, wanted = objective.answer(x0, eps, clock, ~nothing, Lesson(Condition(), None, nothing, eps))
        alpha, sigma = schedule(clock)
        v = target("v", schedule, wanted, (x_t - alpha * wanted) / sigma, clock).flatten()
        basis = network.basis(schedule.log_snr(clock)).flatten(0, -2)
        rows = torch.cat([basis, x_t.view(-1, 1) * basis], dim=1)
        network.weight.data = torch.linalg.lstsq(rows, v[:, None]).solution.view(2, -1)
    parts = Path(schedule, Grid()(schedule, 16)), Path(schedule, Grid()(schedule, 1))
    walked = Denoiser(Walked(exact(data, schedule), *parts), schedule, "v")
    end = Denoiser(ExactConsistency(data, schedule, "v"), schedule, "v")
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        for t in (0.9, 0.7, 0.5, 0.3, 0.1):
            found, step, ode = (one(x, t, Condition()).x0 for one in (student, walked, end))
            assert float((found - step).square().mean().sqrt()) < 1e-3
            assert float((found - ode).abs().max()) < 1e-2


def test_reflow_makes_paths_straight() -> None:
    """On a mixture of two kinds: the straightness of Liu et al. 2022, section 2.2, before and after."""
    schedule = Flow()
    data = Mixture(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1), torch.tensor([0.2, 0.2]))
    teacher, times = exact(data, schedule), Grid(kind="uniform", ends=[-7.0, 7.0])(schedule, 50)
    noise = torch.randn(1000, 1, 1, 1, 1)
    student = Denoiser(Small(), schedule, "v")
    before = float(straightness(teacher, noise, Condition(), times))
    objective = Reflow(student, StudentLoss(steps=8, guidance=PLAIN, tasks=Tasks(1, 0, 0)), Teacher(teacher), times)
    trained(objective, lambda: data.sample(128), 120, 1e-2)
    after = float(straightness(student, noise, Condition(), times))
    assert after < 0.5 * before


class Small(nn.Module):
    """A network of a few numbers, for clips of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.layers(torch.cat([x, 0.2 * log_snr], 1).movedim(1, -1)).movedim(-1, 1)
