"""Guidance with a scale for each condition: label, text, and the known frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import NO_LABEL, Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.guidance import (
    CONVENTIONS,
    check_interval,
    check_level,
    check_rescale,
    forget,
    rescaled,
    same_noise,
    within,
)
from vidiff.diffusion.known import check_mask
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Schedule

PRESENT: dict[str, Callable[[Condition], bool]] = {  # what `Composed` guides on -> whether any sample has it
    "label": lambda given: given.label is not None and bool((given.label != NO_LABEL).any()),
    "text": lambda given: given.text is not None and (given.text_mask is None or bool(given.text_mask.any())),
    "history": lambda given: True,
}


@dataclass(frozen=True)
class _Branch:
    weight: float
    condition: Condition
    hidden: Tensor | None = None  # the known voxels that it forgets


class Composed(nn.Module):
    """A scale for each condition: `x0 = null + sum of s_k * (with_k - with_(k-1))`, where `with_k` sees the first `k`
    of them and `with_0` is null (Brooks et al. 2023, InstructPix2Pix, eq. 3).

    All branches are one call of the network. A branch that the sum does not need is not computed: where a condition
    is absent, or two scales that follow each other are equal. So with all scales 1 only the plain model is left, and
    its estimate comes back bit for bit.

    Args:
        scales: of "label", "text" and "history", the condition nearest to null first. One that is not named is seen by
            every branch.
        history: mask as `Known` has it, of the known voxels that a branch without history forgets; or parts of it, a
            list of `(mask, weight)`, whose term is then `s * sum of weight_i * (with part i alone - without)` (Song et
            al. 2025, history guidance, across time). `Known` goes outside.
        history_level: the diffusion time at which a branch sees the history that it forgets; below 1 it sees it
            noised (the same paper, fractional history guidance).
        generator: of the noise that forgotten history is shown as.
        convention, interval, rescale: as of `ClassifierFree`; the plain model sees every condition.

    Raises:
        ValueError: no scales, or one for an unknown condition; history without its scale or a scale without history;
            a mask of the wrong kind; an unknown convention; an interval, a level or a share outside [0, 1].
    """

    hidden: Tensor

    def __init__(
        self,
        denoiser: Denoises,
        scales: Mapping[str, float],
        *,
        history: Tensor | Sequence[tuple[Tensor, float]] | None = None,
        history_level: float = 1.0,
        generator: torch.Generator | None = None,
        convention: str = "cfg",
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__()
        if not scales:
            raise ValueError(f"scales = {dict(scales)} is empty; give one for any of {', '.join(sorted(PRESENT))}")
        for name in scales:
            choose("condition to guide on", name, PRESENT)
        parts = [(history, 1.0)] if isinstance(history, Tensor) else list(history or [])
        if bool(parts) != ("history" in scales):
            raise ValueError(f"history needs a mask and a scale: scales = {dict(scales)}, with {len(parts)} masks")
        for mask, _ in parts:
            check_mask(mask, mask)
        check_level(history_level)
        check_interval(interval)
        check_rescale(rescale)
        added = choose("guidance convention", convention, CONVENTIONS)
        masks = torch.stack(torch.broadcast_tensors(*[mask for mask, _ in parts])) if parts else torch.tensor([False])
        whole = masks.any(0, keepdim=True)  # 1 b 1 f h w
        self.denoiser = denoiser
        self.scales = {name: scale + added for name, scale in scales.items() if name != "history" or whole.any()}
        self.interval = interval
        self.rescale = rescale
        self.history_level = history_level
        self.generator = generator
        self.noise: Tensor | None = None
        self.register_buffer("hidden", torch.cat([whole & ~masks, whole]), persistent=False)  # by each part; by all
        self.parts = [(weight, bool(rest.any())) for (_, weight), rest in zip(parts, self.hidden, strict=False)]

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        t = expand_time(t, x_t)
        inside = None if self.interval is None else within(t, self.interval)
        if inside is not None and not inside.any():
            return self.denoiser(x_t, t, condition)
        branches = self._branches(condition)
        whole = branches[-1].condition is condition and branches[-1].hidden is None  # sees every condition
        if not whole and (inside is not None or self.rescale):
            branches.append(_Branch(0.0, condition))
        if len(branches) == 1 and branches[0].hidden is None:
            return self.denoiser(x_t, t, branches[0].condition)
        clock = t.expand(x_t.shape[0], *t.shape[1:])
        seen = [self._show(x_t, clock, branch.hidden) for branch in branches]
        every = self.denoiser(
            torch.cat([x for x, _ in seen]),  # (n b) c f h w
            torch.cat(torch.broadcast_tensors(*[at for _, at in seen])),
            branches[0].condition.cat(*[branch.condition for branch in branches[1:]]),
        )
        x0 = torch.zeros_like(x_t)
        for branch, estimate in zip(branches, every.x0.chunk(len(branches)), strict=True):
            x0 = x0 + branch.weight * estimate
            plain = estimate  # at last, that of the branch which sees the most
        free = t > 0.0 if inside is None else (t > 0.0) & inside
        if inside is not None:
            x0 = torch.where(inside, x0, plain)
        if self.rescale:
            x0 = rescaled(x0, plain, self.rescale, free & ~self.hidden[-1])
        return Estimate(x0, None if every.variance is None else every.variance.chunk(len(branches))[-1])

    def _branches(self, condition: Condition) -> list[_Branch]:
        """What the sum needs, the fullest last."""
        names = [name for name in self.scales if PRESENT[name](condition)]
        weights = [1.0] + [0.0] * len(names)  # of the branch that sees the first k
        branches = []
        for k, name in enumerate(names):
            for i, (share, partial) in enumerate(self.parts if name == "history" else [(1.0, False)]):
                weight = self.scales[name] * share
                weights[k] -= weight
                if partial:
                    branches.append(_Branch(weight, without(condition, names[k + 1 :]), self.hidden[i]))
                else:
                    weights[k + 1] += weight
        for k, weight in enumerate(weights):
            hidden = self.hidden[-1] if "history" in names[k:] else None
            branches.append(_Branch(weight, without(condition, names[k:]), hidden))
        return [branch for branch in branches if branch.weight]

    def _show(self, x_t: Tensor, clock: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        if hidden is None:
            return x_t, clock
        check_mask(hidden, x_t)
        self.noise = same_noise(self.noise, x_t, self.generator)
        return forget(self.schedule, x_t, clock, hidden, self.noise, self.history_level)


def without(condition: Condition, names: Sequence[str]) -> Condition:
    """The condition with none of `names`, which are "label" and "text"; other names are left aside."""
    if "label" in names and condition.label is not None:
        condition = replace(condition, label=torch.full_like(condition.label, NO_LABEL))
    if "text" in names and condition.text is not None:
        condition = replace(condition, text_mask=torch.zeros_like(condition.text[..., 0], dtype=torch.bool))  # b n
    return condition
