"""Guidance makes a denoiser from a denoiser, so that it works with every sampler and every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import ASKED, TOGETHER, Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.interval import Timed, within
from vidiff.diffusion.known import check_mask
from vidiff.diffusion.process import draw_noise, expand_time, transition
from vidiff.diffusion.schedule import Schedule

CONVENTIONS = {"cfg": 0.0, "ho": 1.0}  # what to add to the number given, so that 1 is the plain model


@dataclass(frozen=True)
class Projected:
    """A change of `difference = conditional - null` in `ClassifierFree`, against oversaturation (Sadat et al. 2025,
    adaptive projected guidance, algorithm 1).

    First it is given momentum, then shortened to the radius, then its part parallel to the conditional estimate,
    which mostly raises contrast, is weighted by `eta`: `x0 = conditional + (scale - 1) * difference`. Lengths and
    angles are those of a sample, `(c, f, h, w)` as one vector.

    Args:
        eta: weight of the parallel part; 1 keeps it, 0 leaves it out.
        radius: the largest length of the difference; None is no limit.
        momentum: weight of the differences before it, negative to push away from them; 0 is none. A run begins with
            the first call, and again where no voxel's clock is below that call's; make a new `ClassifierFree` for
            a run that begins later than the one before.

    Raises:
        ValueError: an eta that is not finite, a radius that is not positive, or a momentum outside (-1, 0].
    """

    eta: float = 0.0
    radius: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.eta):
            raise ValueError(f"eta = {self.eta} must be finite: 1 keeps the parallel part, 0 leaves it out")
        if self.radius is not None and not 0.0 < self.radius < math.inf:
            raise ValueError(f"radius = {self.radius} must be positive, or None for no limit")
        if not -1.0 < self.momentum <= 0.0:
            raise ValueError(f"momentum = {self.momentum} must be above -1 and at most 0, which is none")

    def __call__(self, difference: Tensor, plain: Tensor, free: Tensor) -> Tensor:
        """The difference, shortened and projected, `(b, c, f, h, w)`.

        Args:
            difference: `(b, c, f, h, w)`, with its momentum.
            plain: the conditional estimate, `(b, c, f, h, w)`.
            free: bool, broadcastable to `(b, 1, f, h, w)`: the voxels that count towards lengths and angles.
        """
        if self.radius is not None:
            length = _dot(difference, difference, free).clamp(min=self.radius**2).sqrt()  # b 1 1 1 1
            difference = difference * (self.radius / length)
        tiny = torch.finfo(plain.dtype).tiny
        along = _dot(difference, plain, free) / _dot(plain, plain, free).clamp(min=tiny)  # b 1 1 1 1
        return difference + (self.eta - 1.0) * along * plain


def rescaled(guided: Tensor, plain: Tensor, phi: float, free: Tensor) -> Tensor:
    """`guided`, brought by the share `phi` to the standard deviation of `plain`, each sample on its own (Lin et al.
    2024, common diffusion noise schedules, eqs. 15 and 16).

    Args:
        guided: `(b, c, f, h, w)`.
        plain: the conditional estimate, `(b, c, f, h, w)`.
        phi: 0 leaves `guided` as it is, 1 gives it the standard deviation of `plain`.
        free: bool, broadcastable to `(b, 1, f, h, w)`: the voxels that are measured and changed.
    """
    spread = _std(guided, free)  # b 1 1 1 1
    ratio = torch.where(spread > 0.0, _std(plain, free) / spread, 1.0)
    return guided * torch.where(free, phi * ratio + (1.0 - phi), 1.0)


def forget(
    schedule: Schedule, x_t: Tensor, clock: Tensor, hidden: Tensor, noise: Tensor, level: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Noise the voxels of `hidden` up to `level`, where their clock is below it; at 1 nothing of them is left.

    Args:
        x_t: `(b, c, f, h, w)`.
        clock: broadcastable to `(b, 1, f, h, w)`.
        hidden: bool, broadcastable to `(b, 1, f, h, w)`.
        noise: `(b, c, f, h, w)`, standard normal.
        level: a diffusion time in [0, 1].

    Returns:
        `x_t` and the clock, changed where hidden.
    """
    if level == 1.0:
        _, sigma = schedule(clock.new_ones(()))
        return torch.where(hidden, (sigma * noise).to(x_t.dtype), x_t), torch.where(hidden, 1.0, clock)
    later = clock.clamp(min=level)
    scale, variance = transition(schedule, later, clock)
    noised = (scale * x_t + variance.sqrt() * noise).to(x_t.dtype)
    return torch.where(hidden, noised, x_t), torch.where(hidden, later, clock)


@dataclass(frozen=True)
class _Branch:
    weight: float
    condition: Condition
    hidden: Tensor | None = None  # the known voxels that it forgets


class ClassifierFree(Timed):
    """Classifier-free guidance: `x0 = null + scale * (conditional - null)` (Ho & Salimans 2022, eq. 6), or with a scale
    for each condition `x0 = null + sum of s_k * (with_k - with_(k-1))`, where `with_k` sees the first `k` of them and
    `with_0` is null (Brooks et al. 2023, InstructPix2Pix, eq. 3).

    Since `eps` is affine in `x0` this is the same as guiding `eps`. All branches are one call of the network. A branch
    that the sum does not need is not computed: where a condition is absent, or two scales that follow each other are
    equal. So with all scales 1 only the plain model is left, and its estimate comes back bit for bit.

    Args:
        scale: of label, text and `history` at once; or one for any of "label", "text", "action" and "history", or for a
            tuple of these at once, the condition nearest to null first, where one that is not named is seen by every
            branch. 1 is the plain model under "cfg"; under "ho", the paper's own `w`, 0 is.
        convention: "cfg" or "ho".
        interval: times `(low, high)` in which to guide; outside, the model is plain (Kynkäänniemi et al. 2024).
        history: mask as `Known` has it, of the known voxels that the null branch forgets as well: their clock goes to
            `history_level` and their content to noise (Song et al. 2025, history guidance). Or parts of it, a list of
            `(mask, weight)`, whose term is then `s * sum of weight_i * (with part i alone - without)` (the same paper,
            across time). Put it inside: `Known(ClassifierFree(denoiser, scale, history=mask), frames, mask)`.
        generator: of the noise that forgotten history is shown as.
        history_level: the diffusion time at which the null branch sees history; below 1 it sees it noised (the same
            paper's fractional history guidance).
        rescale: share by which the standard deviation of the guided estimate is brought to the plain model's, as in
            `rescaled`; 0 is none.
        apg: what to do to the difference of two branches; None is nothing.

    `rescale` and `apg` measure the voxels that are guided and not known: a clock above 0, within the interval, and
    outside `history`.

    Raises:
        ValueError: no scales, or one for an unknown condition; history without its scale or a scale without history; a
            mask of the wrong kind; an unknown convention; an interval, a level or a share outside [0, 1]; `apg` where
            there are several differences.
    """

    hidden: Tensor

    def __init__(
        self,
        denoiser: Denoises,
        scale: float | Mapping[str | tuple[str, ...], float],
        convention: str = "cfg",
        *,
        interval: tuple[float, float] | None = None,
        history: Tensor | Sequence[tuple[Tensor, float]] | None = None,
        generator: torch.Generator | None = None,
        history_level: float = 1.0,
        rescale: float = 0.0,
        apg: Projected | None = None,
    ) -> None:
        super().__init__(interval)
        added = choose("guidance convention", convention, CONVENTIONS)
        check_shares(rescale, history_level)
        parts = [(history, 1.0)] if isinstance(history, Tensor) else list(history or [])
        for mask, _ in parts:
            check_mask(mask, mask)
        if isinstance(scale, Mapping):
            _check_scales(scale, len(parts))
            self.scales = {_names(name): value + added for name, value in scale.items()}
        else:
            self.scales = {(*TOGETHER, "history"): scale + added}
        if apg is not None and (len(self.scales) > 1 or len(parts) > 1):
            raise ValueError("apg changes one difference of branches; give one scale, and history as one mask")
        self.denoiser = denoiser
        self.rescale, self.apg = rescale, apg
        self.history_level, self.generator = history_level, generator
        self.noise: Tensor | None = None
        masks = torch.stack(torch.broadcast_tensors(*[mask for mask, _ in parts])) if parts else torch.tensor([False])
        whole = masks.any(0, keepdim=True)  # 1 b 1 f h w
        self.remembers = bool(whole.any())
        self.register_buffer("hidden", torch.cat([whole & ~masks, whole]), persistent=False)  # by each part; by all
        self.parts = [(weight, bool(rest.any())) for (_, weight), rest in zip(parts, self.hidden, strict=False)]
        self._needed: tuple[Condition, list[_Branch]] | None = None  # by the condition that it was last called with
        self._begun: Tensor | None = None  # the clock at which the run began
        self._running: Tensor | None = None  # the difference and its momentum

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        t = expand_time(t, x_t)
        inside = None if self.interval is None else within(t, self.interval)
        momentum = self.apg is not None and self.apg.momentum != 0.0  # which asks where it begins in any case
        if self.rests(inside) or (momentum and inside is not None and not inside.any()):
            return self.denoiser(x_t, t, condition)
        if self._needed is None or self._needed[0] is not condition:  # a look at content would stall each step on a GPU
            self._needed = condition, self._branches(condition)
        branches = self._needed[1]
        if len(branches) == 1 and branches[0].hidden is None:
            return self.denoiser(x_t, t, branches[0].condition)
        clock = t.expand(x_t.shape[0], *t.shape[1:])
        seen = [self._show(x_t, clock, branch.hidden) for branch in branches]
        every = self.denoiser(
            torch.cat([x for x, _ in seen]),  # (n b) c f h w
            torch.cat(torch.broadcast_tensors(*[at for _, at in seen])),
            branches[0].condition.cat(*[branch.condition for branch in branches[1:]]),
        )
        estimates = every.x0.chunk(len(branches))
        plain, x0 = estimates[0], estimates[-1]
        scales = list(accumulate(branch.weight for branch in branches))
        for scale, more, less in reversed(list(zip(scales, estimates, estimates[1:], strict=False))):
            x0 = x0 + scale * (more - less)
        free = (t > 0.0) & ~self.hidden[-1] if inside is None else (t > 0.0) & inside & ~self.hidden[-1]
        if self.apg is not None and len(branches) > 1:
            difference = plain - estimates[1]
            change = self.apg(self._with_momentum(difference, clock, self.apg.momentum), plain, free) - difference
            x0 = x0 + (scales[0] - 1.0) * change
        if inside is not None:
            x0 = torch.where(inside, x0, plain)
        if self.rescale:
            x0 = rescaled(x0, plain, self.rescale, free)
        return Estimate(x0, None if every.variance is None else every.variance.chunk(len(branches))[0])

    def _branches(self, condition: Condition) -> list[_Branch]:
        """What the sum needs, the fullest first: that is the plain model, where the options look at it."""
        terms = [(names, scale) for names, scale in self.scales.items() if self._there(names, condition)]

        def seeing(count: int) -> tuple[Condition, Tensor | None]:
            """What a branch that sees the first `count` terms is shown, and which voxels it forgets."""
            unseen = [name for names, _ in terms[count:] for name in names]
            return condition.without(*unseen), self.hidden[-1] if self.remembers and "history" in unseen else None

        weights, partial = [1.0] + [0.0] * len(terms), []
        for k, (names, scale) in enumerate(terms, 1):
            for i, (share, some) in enumerate(self.parts if "history" in names and self.remembers else [(1.0, False)]):
                weights[k - 1] -= scale * share
                if some:
                    partial.append(_Branch(scale * share, seeing(k)[0], self.hidden[i]))
                else:
                    weights[k] += scale * share
        null, *rest = [_Branch(weight, *seeing(count)) for count, weight in enumerate(weights)]
        branches = [branch for branch in (*rest[::-1], *partial, null) if branch.weight]
        compared = self.interval is not None or self.rescale or self.apg is not None
        if compared and (branches[0].condition is not condition or branches[0].hidden is not None):
            branches.insert(0, _Branch(0.0, condition))
        return branches

    def _there(self, names: Sequence[str], condition: Condition) -> bool:
        return any(self.remembers if name == "history" else condition.asks(name) for name in names)

    def _show(self, x_t: Tensor, clock: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        if hidden is None:
            return x_t, clock
        check_mask(hidden, x_t)
        self.noise = same_noise(self.noise, x_t, self.generator)
        return forget(self.schedule, x_t, clock, hidden, self.noise, self.history_level)

    def _with_momentum(self, difference: Tensor, clock: Tensor, momentum: float) -> Tensor:
        if not momentum:
            return difference
        before, begun = self._running, self._begun
        if before is None or begun is None or before.shape != difference.shape or bool((clock >= begun).all()):
            self._begun = clock
        else:
            difference = difference + momentum * before
        self._running = difference.detach()
        return difference


class Told(nn.Module):
    """A student that is told the scale, in place of being guided by a second branch: one evaluation a step.

    Args:
        denoiser: the student, trained with `Condition.guidance`.
        scale: 1 is the plain model.
    """

    def __init__(self, denoiser: Denoises, scale: float) -> None:
        super().__init__()
        self.denoiser, self.scale = denoiser, scale

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        scale = torch.full((len(x_t),), self.scale, device=x_t.device)
        return self.denoiser(x_t, t, replace(condition, guidance=scale))


class Threshold(nn.Module):
    """Dynamic thresholding: `x0` clamped to `[-s, s]` and scaled by `floor / s`, where `s` is a percentile of `|x0|`
    in each sample, or `floor` if that is larger (Saharia et al. 2022, Imagen, section 2.3, where `floor` is 1).

    A sample that lies within the floor comes back bit for bit.

    Args:
        denoiser: the inner denoiser, guided or not.
        percentile: from 50 to 100, of the values in a sample, by nearest rank.
        floor: the largest `|x0|` of good data: 1 for video in [-1, 1].

    Raises:
        ValueError: a percentile outside [50, 100], or a floor that is not positive and finite.
    """

    def __init__(self, denoiser: Denoises, percentile: float = 99.5, floor: float = 1.0) -> None:
        super().__init__()
        check_threshold(percentile, floor)
        self.denoiser = denoiser
        self.percentile = percentile
        self.floor = floor

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        estimate = self.denoiser(x_t, t, condition)
        size = estimate.x0.abs().flatten(1)  # b (c f h w)
        rank = math.ceil(self.percentile / 100.0 * size.shape[1])
        limit = size.kthvalue(rank, dim=1).values.clamp(min=self.floor)  # b
        limit = limit.view(-1, *[1] * (x_t.ndim - 1))  # b 1 1 1 1
        return Estimate(estimate.x0.clamp(-limit, limit) * (self.floor / limit), estimate.variance)


def same_noise(noise: Tensor | None, x_t: Tensor, generator: torch.Generator | None) -> Tensor:
    """Drawn once: the same noise at every step keeps the path smooth."""
    return draw_noise(x_t, generator) if noise is None or noise.shape != x_t.shape else noise


def check_shares(rescale: float, history_level: float) -> None:
    """Raises ValueError for a `rescale` or a `history_level` outside [0, 1]."""
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"rescale = {rescale} is outside [0, 1]; 0 is none, 1 the plain model's standard deviation")
    if not 0.0 <= history_level <= 1.0:
        raise ValueError(f"history_level = {history_level} is outside [0, 1]; 1 forgets history, below 1 it is noised")


def check_threshold(percentile: float = 99.5, floor: float = 1.0) -> None:
    """Raises ValueError for a percentile outside [50, 100], or a floor that is not positive and finite."""
    if not 50.0 <= percentile <= 100.0:
        raise ValueError(f"percentile = {percentile} must be from 50 to 100; the usual value is 99.5")
    if not 0.0 < floor < math.inf:
        raise ValueError(f"floor = {floor} must be positive and finite; for video in [-1, 1] it is 1")


def _names(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _check_scales(scales: Mapping[str | tuple[str, ...], float], masks: int) -> None:
    names, named = {*ASKED, "history"}, [name for key in scales for name in _names(key)]
    if not scales:
        raise ValueError(f"scales = {dict(scales)} is empty; give one for any of {', '.join(sorted(names))}")
    for name in named:
        choose("condition to guide on", name, dict.fromkeys(names))
    if bool(masks) != ("history" in named):
        raise ValueError(f"history needs a mask and a scale: scales = {dict(scales)}, with {masks} masks")


def _dot(a: Tensor, b: Tensor, free: Tensor) -> Tensor:
    return torch.where(free, a * b, 0.0).sum(tuple(range(1, a.ndim)), keepdim=True)  # b 1 1 1 1


def _std(x: Tensor, free: Tensor) -> Tensor:
    count = free.expand_as(x).sum(tuple(range(1, x.ndim)), keepdim=True).clamp(min=1)  # b 1 1 1 1
    off = x - _dot(x, torch.ones_like(x), free) / count
    return (_dot(off, off, free) / count).sqrt()
