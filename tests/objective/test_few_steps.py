"""Students of a small trained teacher: in as few steps, they come nearer to where its ODE ends than it does itself."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.schedule import Cosine
from vidiff.objective.consistency import ConsistencyObjective
from vidiff.objective.diffusion import DiffusionLoss, DiffusionObjective
from vidiff.objective.distill import EXACT, Guided, Progressive, StudentLoss, StudentObjective, Teacher, teacher_of
from vidiff.objective.flow import Reflow
from vidiff.objective.task import Tasks

SCHEDULE = Cosine(shift=2)


class Pair(nn.Module):
    """A network for clips of two frames of one pixel, which sees label and scale."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (6, 64, 64, 64)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(64, 2))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        none = torch.ones(len(x))
        label = -none if condition.label is None else condition.label.float()
        scale = none if condition.guidance is None else condition.guidance.float()
        seen = [x.flatten(1), 0.2 * log_snr.flatten(1), label[:, None] - 0.5, scale[:, None] - 1.0]
        return self.layers(torch.cat(seen, dim=1)).view_as(x)


def clips(count: int) -> dict[str, Tensor]:
    """The first frame is about -1 or 1, and the second follows it, or for the other label is its opposite."""
    label, side = torch.randint(2, (count,)), 2.0 * torch.randint(2, (count,)) - 1
    first = side + 0.15 * torch.randn(count)
    second = 0.7 * side * (2 * label - 1) + 0.3 * first + 0.15 * torch.randn(count)
    return {"video": torch.stack([first, second], dim=1).view(count, 1, 2, 1, 1), "label": label}


def train(objective: nn.Module, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate, betas=(0.9, 0.99))
    falls = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(clips(256))["loss"].backward()
        optimizer.step()
        falls.step()


@pytest.fixture(scope="module")
def teacher() -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(Pair(), SCHEDULE, "v")
    tasks = Tasks(generate=0.4, first=0.6, random=0.0, forget=0.2)
    train(DiffusionObjective(denoiser, DiffusionLoss(tasks=tasks, drop_known=0.1)), 600, 1e-2)
    with torch.no_grad():
        denoiser.network.layers[0].weight[:, -1] = 0.0  # it was told no scale, so it is to say nothing of one
    return denoiser


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "loss", "steps"),
    [
        pytest.param(Progressive, {"steps": 8}, 4, id="progressive"),
        pytest.param(ConsistencyObjective, {"steps": 16, "segments": 4}, 4, id="consistency in parts", marks=SLOW),
        pytest.param(ConsistencyObjective, {"steps": 16}, 1, id="consistency", marks=SLOW),
        pytest.param(ConsistencyObjective, {"steps": 0}, 1, id="consistency in continuous time", marks=SLOW),
        pytest.param(Reflow, {"steps": 8}, 4, id="reflow", marks=SLOW),
    ],
)
def test_a_student_is_nearer_to_its_teacher_s_ode_than_the_teacher_in_as_few_steps(
    teacher: Denoiser, kind: type[StudentObjective], loss: dict, steps: int
) -> None:
    """Guided by scales of 1 to 3, with and without a known frame; of noise and clips that it was not trained on."""
    torch.manual_seed(1)
    student = copy.deepcopy(teacher)
    tasks = Tasks(generate=0.5, first=0.5, random=0.0, forget=0.0, rising=0.25 if loss["steps"] else 0.0)
    options = StudentLoss(guidance=[1.0, 3.0], tasks=tasks, **loss)
    objective = kind(student, options, teacher_of(student, False, True), Grid()(SCHEDULE, steps))
    test = clips(1000)
    torch.manual_seed(2)
    before, exact = objective.gaps(test)
    train(objective, 300 if kind is Progressive else 800, 5e-3)
    torch.manual_seed(2)
    after, _ = objective.gaps(test, exact)
    assert after["gap_teacher"] == before["gap_teacher"]
    assert after["gap"] < 0.9 * after["gap_teacher"] and after["gap"] < 0.6 * before["gap"], (before, after)


def test_a_student_that_is_guided_by_itself_draws_what_its_teacher_draws_for_half_the_evaluations(
    teacher: Denoiser,
) -> None:
    """By any sampler, in as many steps: as near to the teacher's ODE as that, where it began far off."""
    torch.manual_seed(1)
    student = copy.deepcopy(teacher)
    options = StudentLoss(guidance=[1.0, 3.0], tasks=Tasks(generate=0.5, first=0.5, random=0.0, forget=0.0))
    objective = Guided(student, options, teacher_of(student, False, True), Grid()(SCHEDULE, 8))
    test = clips(1000)
    torch.manual_seed(2)
    before, exact = objective.gaps(test)
    train(objective, 800, 5e-3)
    torch.manual_seed(2)
    after, _ = objective.gaps(test, exact)
    assert after["gap"] < 1.3 * after["gap_teacher"] and after["gap"] < 0.6 * before["gap"], (before, after)


def test_a_teacher_and_its_student_know_as_little_of_what_guidance_forgets(
    teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise that stands for forgotten frames moves a draw, and is another where the teacher takes few steps."""
    tasks = Tasks(generate=0.0, first=1.0, random=0.0, forget=0.0)
    options = StudentLoss(steps=8, guidance=[3.0, 3.0], tasks=tasks)
    objective = Progressive(copy.deepcopy(teacher), options, teacher_of(teacher, False, True), Grid()(SCHEDULE, 4))
    asked, call = list[Tensor](), Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, x, t, of: asked.append(of.noise) or call(self, x, t, of))
    objective.gaps(clips(100))
    assert len(asked) == EXACT + 4
    assert all(noise is asked[0] for noise in asked[:EXACT]) and all(noise is asked[-1] for noise in asked[EXACT:])
    assert not torch.equal(asked[0], asked[-1])
