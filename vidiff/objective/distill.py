"""Students: what a denoiser of few steps learns from a teacher of many, and progressive distillation.

All steps here are DDIM's, the exact solution of the probability-flow ODE where the estimate `x0` stands still (Song et
al. 2020, DDIM, eq. 14): `x / sigma` moves by `x0` times the growth of `alpha / sigma`. A step over several estimates is
therefore one step with their mean, each weighted by its growth: that mean is what a student is to say at the start, and
no student's target needs more than `x0`s.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate, eps_from, target
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.guidance import forget
from vidiff.diffusion.interval import within
from vidiff.diffusion.process import add_noise, send
from vidiff.diffusion.schedule import Schedule
from vidiff.nn.cast import low_weights
from vidiff.objective.diffusion import DiffusionLoss, DiffusionObjective
from vidiff.objective.latents import Batch, draw_clips, normalised
from vidiff.objective.task import Drawn, draw_clock, draw_known
from vidiff.sample import DDIM, Sampler, UniPC, start

EXACT = 32  # evaluations that stand for the teacher's ODE itself
Ask = Callable[[Tensor, Tensor], Tensor]

OBJECTIVES = ("consistency", "consistency_training", "distribution_matching", "guidance", "progressive", "reflow")


@dataclass
class StudentLoss(DiffusionLoss):
    """Options of a student's loss: those of the diffusion loss, but for bound, rollout and spread, and these."""

    steps: int = 16  # times at which the teacher is asked on its way; consistency: 0 for continuous time
    order: int = 1  # progressive: of the teacher's steps; one of order 2 asks it twice, and does for more than two
    segments: int = 1  # consistency: parts of the way, each to its own end; then as many steps of ddim draw a clip
    # the scale of guidance is drawn from this range for each sample, and told to the student; [1, 1] is the plain model
    guidance: list[float] = field(default_factory=lambda: [1.0, 4.0])
    pace: float = 0.25  # distribution_matching: the student's rate, of that of the denoiser which learns what it draws
    history: bool = True  # where frames are known, that scale is on them as well as on label and text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound or self.rollout or self.spread:
            raise ValueError(
                f"loss.bound is {self.bound}, loss.rollout {self.rollout} and loss.spread {self.spread}, but a student "
                "has its teacher's draws alone to learn from: leave them at 0"
            )
        if self.steps < 0 or self.segments < 1:
            raise ValueError(
                f"loss.steps is {self.steps} and loss.segments {self.segments}; give 0 or more steps, 16 are usual, "
                "and 1 or more segments"
            )
        if not 0 < self.pace <= 1:
            raise ValueError(f"loss.pace is {self.pace}; give a share of train.optim.lr, from above 0 to 1")
        if self.order not in (1, 2):
            raise ValueError(f"loss.order is {self.order}; give 1, which is DDIM, or 2")
        if len(self.guidance) != 2 or not 0.0 <= self.guidance[0] <= self.guidance[1] < math.inf:
            raise ValueError(f"loss.guidance is {list(self.guidance)}; give the least scale and the largest: [1, 4]")

    @property
    def told(self) -> bool:
        """Whether guidance is distilled, and its scale told to the student."""
        return list(self.guidance) != [1.0, 1.0]


class Path:
    """The times of a draw as knots of a way, which begins at noise and ends, behind the last of them, at the data.

    A time between two knots has its share of the way between them, by log-SNR; one before the first stands there.

    Args:
        times: `(n,)`, falling, at which a sampler asks the denoiser.
    """

    def __init__(self, schedule: Schedule, times: Tensor) -> None:
        self.schedule, self.count = schedule, len(times)
        self.times = torch.cat([times.double(), times.new_zeros(1, dtype=torch.float64)])  # n + 1
        self.log_snr = schedule.log_snr(self.times)  # n + 1, rising

    def knot(self, number: Tensor) -> Tensor:
        """The times of knots, by number."""
        return self._here(self.times, number)[number]

    def nearest(self, t: Tensor) -> Tensor:
        """Times that are even in [0, 1] to knots, evenly: each has the same share of them, and 1 is the first."""
        return self.knot(((1.0 - t.double()) * self.count).long().clamp(max=self.count - 1)).to(t.dtype)

    def ahead(self, t: Tensor) -> Tensor:
        """The time one knot further, of the shape of `t`; behind the last one, 0."""
        known = self._here(self.log_snr, t)
        number, share = self._place(t)
        following = (number + 1).clamp(max=self.count)
        log_snr = torch.lerp(known[following], known[(following + 1).clamp(max=self.count)], share)
        return torch.where(following == self.count, 0.0, self.schedule.time_of(log_snr)).to(t.dtype).clamp(max=t)

    def end(self, t: Tensor) -> Tensor:
        """The time of the next knot."""
        number, _ = self._place(t)
        return self.knot(number + 1).to(t.dtype).clamp(max=t)

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The knot at or before `t`, and the share of the way to the next. Within 1e-6 of a knot, `t` is at it."""
        known, log_snr = self._here(self.log_snr, t), self.schedule.log_snr(t.double())
        number = (torch.searchsorted(known, log_snr + 1e-6, right=True) - 1).clamp(0, self.count - 1)
        share = (log_snr - known[number]) / (known[number + 1] - known[number])
        return number, share.clamp(0.0, 1.0)

    def _here(self, known: Tensor, like: Tensor) -> Tensor:
        return send(known, like.device)


def ddim_step(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """`x_s` by the estimate at `t` (Song et al. 2020, DDIM, eq. 12); `x_t` where the clock stands still."""
    alpha, sigma = schedule(s)
    return torch.where(s < t, alpha * x0 + sigma * eps_from(schedule, x0, x_t, t), x_t).to(x_t.dtype)


def growth(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """By how much `alpha / sigma` grows from `t` to `s <= t`, of their shape, in double precision."""
    return (0.5 * schedule.log_snr(s.double())).exp() - (0.5 * schedule.log_snr(t.double())).exp()


def share_of(schedule: Schedule, t: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Of the way from `t` over `m` to `s <= m`, the share behind `m`: the weight of the second of two estimates."""
    whole = growth(schedule, t, s)
    return torch.where(whole > 0, growth(schedule, m, s) / whole, 0.0).to(t.dtype)


def angle(schedule: Schedule, t: Tensor) -> Tensor:
    """`atan(sigma / alpha)` at `t`, in double precision."""
    return torch.atan((-0.5 * schedule.log_snr(t.double())).exp())


def angle_between(schedule: Schedule, t: Tensor, s: Tensor, share: float) -> Tensor:
    """The time at a share of the way from `t` to `s` by angle: uniform steps of Salimans & Ho 2022."""
    log_snr = -2.0 * torch.lerp(angle(schedule, t), angle(schedule, s), share).tan().log()
    return torch.where(s < t, schedule.time_of(log_snr).to(t.dtype), t)


def mean_between(ask: Ask, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The mean estimate of a step of second order from `t` to `s`, of two evaluations: that at `t`, and how it changes
    to half way by angle, gone on with evenly. Where the clock stands still, that at `t`.
    """
    middle, first = angle_between(schedule, t, s, 0.5), ask(x_t, t)
    second = ask(ddim_step(schedule, first, x_t, t, middle), middle)
    begin, end, grown = angle(schedule, t), angle(schedule, s), growth(schedule, t, s)
    # where on the way from `t` to `s` the mean is, each place weighted by the growth there, which is 1 / sin^2
    place = ((begin - end) / end.tan() - (begin.sin() / end.sin()).log()) / (grown * (begin - end))
    return torch.lerp(first, second, torch.where(s < t, 2.0 * place.nan_to_num(), 0.0).to(first.dtype))


@dataclass(frozen=True)
class Lesson:
    """What a student is asked, and what holds of it.

    Args:
        condition: as the data have it, without a scale of guidance.
        scale: `(b,)`, of guidance; None for the plain model.
        known: as `Drawn`.
        noise: `(b, c, f, h, w)`, as which forgotten frames are shown to the teacher.
    """

    condition: Condition
    scale: Tensor | None
    known: Tensor
    noise: Tensor

    @property
    def told(self) -> Condition:
        """The condition, and the scale."""
        return replace(self.condition, guidance=self.scale)


class Teacher:
    """A trained denoiser, guided by a scale of each sample's own. It is no part of the module that it teaches.

    Args:
        told: it is a student itself, and told the scale.
        history: guidance is on known frames too.
        interval: times `(low, high)` in which it is guided, as of `ClassifierFree`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        told: bool = False,
        history: bool = True,
        interval: tuple[float, float] | None = None,
    ) -> None:
        self.denoiser, self.told, self.history = denoiser.eval().requires_grad_(False), told, history
        self.interval = interval

    def __deepcopy__(self, memo: object) -> Teacher:
        return self  # its weights never change, so that copies of the objective share it

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, lesson: Lesson) -> Tensor:
        """`x0`, `(b, c, f, h, w)`: `null + scale * (conditional - null)` (Ho & Salimans 2022, eq. 6)."""
        if any(weight.device != x_t.device for weight in self.denoiser.parameters()):
            self.denoiser.to(x_t.device)
        kind = x_t.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        with low_weights(self.denoiser, x_t.device, dtype):
            return self._guided(x_t, t, lesson)

    def _guided(self, x_t: Tensor, t: Tensor, lesson: Lesson) -> Tensor:
        condition, scale = lesson.condition, lesson.scale
        if scale is None or self.told:
            return self.denoiser(x_t, t, lesson.told if self.told else condition).x0
        clock = t.expand(len(x_t), *t.shape[1:])
        null, at = x_t, clock
        if self.history:
            null, at = forget(self.denoiser.schedule, x_t, clock, lesson.known, lesson.noise)
        both = self.denoiser(torch.cat([x_t, null]), torch.cat([clock, at]), condition.cat(condition.null())).x0
        plain, free = both.chunk(2)
        scale = scale.to(free.dtype).view(-1, *[1] * (x_t.ndim - 1))
        if self.interval is not None:
            scale = torch.where(within(clock, self.interval), scale, 1.0)
        return torch.lerp(free, plain, scale)


class Shown:
    """A denoiser as samplers ask one, with the known frames of a lesson as they are shown in training.

    Args:
        ask: `(x_t, t) -> x0`, the teacher or the student.
        frames: `(b, c, f, h, w)`; only what is known of them is looked at, as are `shown`, noised to `clock`.
    """

    def __init__(self, ask: Ask, schedule: Schedule, known: Tensor, frames: Tensor, eps: Tensor, clock: Tensor) -> None:
        self.ask, self.schedule, self.known, self.frames, self.clock = ask, schedule, known, frames, clock
        self.shown = add_noise(schedule, frames, eps, clock)

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        x0 = self.ask(torch.where(self.known, self.shown, x_t), torch.where(self.known, self.clock, t))
        return Estimate(torch.where(self.known, self.frames, x0))

    def draw(self, noise: Tensor, times: Tensor, sampler: Sampler) -> Tensor:
        """The clips that the sampler makes of standard normal `noise`: `(b, c, f, h, w)`."""
        times = send(times, noise.device)
        return sampler(self, start(self.schedule, noise, times), Condition(), times)


class StudentObjective(DiffusionObjective):
    """The loss of a student over the unknown voxels of each clip: its output against that of an `x0` to which its
    teacher, and for some objectives it itself, leads. Tasks, clocks, distance and weighting are those of
    `DiffusionObjective`.

    Args:
        teacher: None for what learns of data alone.
        times: `(n,)`, at which the student is to be asked.
    """

    free: ClassVar[bool] = False

    def __init__(
        self, denoiser: Denoiser, loss: StudentLoss, teacher: Teacher | None, times: Tensor, lowres_noise: float = 0.0
    ) -> None:
        super().__init__(denoiser, loss, lowres_noise)
        self.student, self.teacher, self.path = loss, teacher, Path(denoiser.schedule, times)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch; as of `DiffusionObjective`."""
        batch = normalised(batch)
        x0, schedule = draw_clips(batch), self.denoiser.schedule
        drawn = draw_known(self.options.tasks, x0.shape, x0.device)
        lesson = self._lesson(batch, x0, drawn)
        t = self.times(len(x0), x0.device, schedule)
        clock, learned = draw_clock(self.options.tasks, t, drawn, lambda n: self.times(n, x0.device, schedule))
        clock = self.asked(clock, learned)
        eps = torch.randn_like(x0)
        x_t, wanted = self.answer(x0, eps, clock, learned, lesson)
        wanted = torch.where(learned, wanted, x0).detach()

        output = self.denoiser.output(x_t, clock, lesson.told).said
        seen = target(self.denoiser.prediction, schedule, wanted, eps_from(schedule, wanted, x_t, clock), clock)
        errors, counted = self._errors(output, seen, clock, learned)
        voxels = counted.sum()
        return {"loss": errors.sum() / voxels, "weight": voxels, **self._report(errors.detach() / counted, drawn, t)}

    @torch.no_grad()
    def gaps(self, batch: Batch, exact: tuple[float, Tensor] | None = None) -> tuple[dict[str, float], Any]:
        """How far clips are from those that the teacher makes of the same noise by `EXACT` evaluations: root mean
        square over what is made, in the same tasks as in training.

        Args:
            exact: what an earlier call returned besides, of the same batch and random numbers, which need then not be
                made again.

        Returns:
            "gap" of the student, drawn by DDIM in as many steps as it is trained for, and "gap_teacher" of the teacher
            in as many, with other noise in place of the frames that guidance forgets, since a student, too, is not told
            that; and what a later call may be given.
        """
        batch = normalised(batch)
        x0, schedule = draw_clips(batch), self.denoiser.schedule
        drawn = draw_known(self.options.tasks, x0.shape, x0.device)
        lesson, eps, teacher = self._lesson(batch, x0, drawn), torch.randn_like(x0), self.teacher
        assert teacher is not None

        def made(ask: Ask, times: Tensor, sampler: Sampler) -> Tensor:
            return Shown(ask, schedule, drawn.known, x0, eps, drawn.level).draw(eps, times, sampler)

        def gap(clips: Tensor, exact: Tensor) -> float:
            free = (~drawn.known).expand_as(x0)
            return float((((clips - exact).square() * free).sum() / free.sum()).sqrt())

        times = self.path.times[:-1].float()
        if exact is None:
            ends = made(lambda x, t: teacher(x, t, lesson), Grid()(schedule, EXACT), UniPC(2))
            other = replace(
                lesson, noise=torch.randn_like(x0)
            )  # guidance on history draws by it, and no student knows it
            exact = gap(made(lambda x, t: teacher(x, t, other), times, DDIM()), ends), ends
        own = made(lambda x, t: self.denoiser(x, t, lesson.told).x0, times, DDIM())
        return {"gap": gap(own, exact[1]), "gap_teacher": exact[0]}, exact

    def asked(self, clock: Tensor, learned: Tensor) -> Tensor:
        """The clock at which the student is asked, of the one that was drawn for it."""
        return clock

    def answer(self, x0: Tensor, eps: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """What the student is shown at `clock`, and the `x0` that it is to say: both `(b, c, f, h, w)`."""
        raise NotImplementedError

    def _lesson(self, batch: Batch, x0: Tensor, drawn: Drawn) -> Lesson:
        scale = None
        if self.student.told:
            scale = torch.empty(len(x0), device=x0.device).uniform_(*self.student.guidance)
        return Lesson(self._condition(batch, drawn), scale, drawn.known, torch.randn_like(x0))


class Guided(StudentObjective):
    """Distillation of guidance (Meng et al. 2023, On Distillation of Guided Diffusion Models, section 3.1): the loss of
    a denoiser on what its guided teacher says of noised clips, in place of the clips.

    Its ODE is its teacher's, so that any sampler draws by it, in any number of steps, for half of the evaluations.
    """

    free: ClassVar[bool] = True

    def answer(self, x0: Tensor, eps: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        x_t = add_noise(self.denoiser.schedule, x0, eps, clock)
        return x_t, self.teacher(x_t, clock, lesson)


class Progressive(StudentObjective):
    """Progressive distillation (Salimans & Ho 2022, algorithm 2): one step of the student is several of the teacher.

    The student is asked at the times of its own draws alone. From each to the next, the teacher's steps are even in
    `atan(sigma / alpha)`, as they are in that paper, whose schedule is uniform in it. They are DDIM's, or with
    `loss.order` 2 those of `mean_between`.

    Raises:
        ValueError: steps of the teacher that are no multiple of the student's.
    """

    def __init__(
        self, denoiser: Denoiser, loss: StudentLoss, teacher: Teacher | None, times: Tensor, lowres_noise: float = 0.0
    ) -> None:
        super().__init__(denoiser, loss, teacher, times, lowres_noise)
        if not loss.steps or loss.steps % len(times):
            raise ValueError(
                f"loss.steps is {loss.steps}, but the student draws by {len(times)} steps (sampling.steps): give a "
                f"multiple, such as {2 * len(times)}"
            )
        self.parts = loss.steps // len(times)

    def asked(self, clock: Tensor, learned: Tensor) -> Tensor:
        return torch.where(learned, self.path.nearest(clock), clock)

    def answer(self, x0: Tensor, eps: Tensor, clock: Tensor, learned: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        schedule, teacher, loss = self.denoiser.schedule, self.teacher, self.student
        x_t = add_noise(schedule, x0, eps, clock)
        end = torch.where(learned, self.path.end(clock), clock)
        x, here, wanted = x_t, clock, torch.zeros_like(x0)

        def ask(x: Tensor, t: Tensor) -> Tensor:
            return teacher(x, t, lesson)

        for part in range(1, self.parts + 1):
            there = end if part == self.parts else angle_between(schedule, clock, end, part / self.parts)
            estimate = ask(x, here) if loss.order == 1 else mean_between(ask, schedule, x, here, there)
            # the mean so far, over the way to `here`, and what comes after it
            wanted = torch.lerp(wanted, estimate, share_of(schedule, clock, here, there).to(wanted.dtype))
            x, here = ddim_step(schedule, estimate, x, here, there), there
        return x_t, wanted


def teacher_of(denoiser: Denoiser, told: bool, history: bool, interval: tuple[float, float] | None = None) -> Teacher:
    """A teacher that is the denoiser as it is now, whatever becomes of it."""
    return Teacher(copy.deepcopy(denoiser), told, history, interval)
