"""How a draw is guided, as a user asks for it: options, and the denoisers that they make of a denoiser."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vidiff.diffusion.choice import choose
from vidiff.diffusion.classifier_guidance import Classifier, ClassifierGuidance
from vidiff.diffusion.condition import APART, NO_LABEL, TOGETHER, Condition
from vidiff.diffusion.denoise import Denoises
from vidiff.diffusion.guidance import (
    CONVENTIONS,
    ClassifierFree,
    Projected,
    Threshold,
    Told,
    check_shares,
    check_threshold,
)
from vidiff.diffusion.interval import check_interval

OWN = {name: f"{name}_guidance" for name in ("text", *APART)}  # the options that scale one condition by itself


@dataclass(kw_only=True)
class Guide:
    """The options of guidance besides its scales; all off unless asked for.

    Each option is a key of a config, a keyword of a call, and a flag of a command.

    Args:
        convention: of scales: "cfg", where 1 is the plain model, or "ho", where 0 is.
        interval: the lowest and the highest diffusion time, 0 to 1, at which to guide; at others the model is plain.
        rescale: 0 to 1: how far a guided estimate gets the spread of the plain one, about 0.7.
        apg: adaptive projected guidance, against glaring colours: eta, radius, momentum.
        threshold: dynamic thresholding of estimates: floor, below which nothing is clamped, and percentile, 99.5.
        history_level: time at which guidance on known frames shows them to its other branch; 1 forgets them.
        separate: guide on the label alone and on known frames alone, not on all at once.
        text_guidance: scale on the text alone, which is then separate.
        action_guidance: scale on actions, which are always guided on by themselves; 1 is the plain model.
        control_guidance: scale on the video beside (data.control), likewise.

    Raises:
        ValueError: for an option out of range, or two that do not go together; the message names them.
    """

    convention: str = "cfg"
    interval: list[float] | None = None
    rescale: float = 0.0
    apg: dict[str, float] = field(default_factory=dict)
    threshold: dict[str, float] = field(default_factory=dict)
    history_level: float = 1.0
    separate: bool = False
    text_guidance: float | None = None
    action_guidance: float | None = None
    control_guidance: float | None = None

    def __post_init__(self) -> None:
        choose("convention", self.convention, CONVENTIONS)
        if self.interval is not None:
            if len(self.interval) != 2:
                raise ValueError(f"interval is {list(self.interval)}; give two times, such as [0.2, 0.8]")
            self.interval = [float(time) for time in self.interval]
            check_interval(self.times)
        check_shares(self.rescale, self.history_level)
        for name in OWN.values():
            if (own := getattr(self, name)) is not None and not math.isfinite(own):
                raise ValueError(f"{name} is {own}; give a finite number, such as 2")
        if self.apg:
            _check_keys("apg", self.apg, ("eta", "radius", "momentum"))
            try:
                Projected(**self.apg)
            except ValueError as error:
                raise ValueError(f"apg: {error}") from None
            if self.separate or any(getattr(self, name) is not None for name in OWN.values()):
                raise ValueError(
                    f"apg is {self.apg}, but it changes one difference and separate scales have several: "
                    f"leave out apg, or separate, {', '.join(OWN.values())}"
                )
        if self.threshold:
            _check_keys("threshold", self.threshold, ("percentile", "floor"))
            if "floor" not in self.threshold:
                raise ValueError(
                    f"threshold is {self.threshold}; it needs a floor, the largest |x0| of good latents: they have "
                    "unit variance, so 5 is a beginning"
                )
            try:
                check_threshold(**self.threshold)
            except ValueError as error:
                raise ValueError(f"threshold: {error}") from None

    @property
    def times(self) -> tuple[float, float] | None:
        """The interval, as a pair."""
        return None if self.interval is None else (self.interval[0], self.interval[1])

    @property
    def unscaled(self) -> Guide:
        """The same without scales of its own, where 1 is the plain model."""
        return replace(self, convention="cfg", text_guidance=None, action_guidance=None, control_guidance=None)

    def scaled(
        self,
        denoiser: Denoises,
        condition: Condition,
        guidance: float,
        history: float | None = None,
        known: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Denoises:
        """A denoiser guided on what is there of label, text, actions, a control and known frames; itself where nothing
        is.

        Args:
            guidance: scale on label and text.
            history: scale on the known frames: with label and text at once, in place of `guidance`, or where scales
                are separate, on the frames alone; None does not guide on them.
            known: mask as `Known` has it, which goes outside.
            generator: of the noise that forgotten frames are shown as.
        """
        scales: dict[str | tuple[str, ...], float] = {name: guidance for name in TOGETHER if condition.asks(name)}
        if self.text_guidance is not None and "text" in scales:
            scales["text"] = self.text_guidance
        remembered = history is not None and known is not None
        if remembered:
            scales["history"] = history  # type: ignore[assignment]
        if len(scales) > 1 and not (self.separate or self.text_guidance is not None):
            scales = {tuple(map(str, scales)): scales.get("history", guidance)}
        for name in APART:
            if (own := getattr(self, OWN[name])) is not None and condition.asks(name):
                scales = {name: own, **scales}
        if not scales:
            return denoiser
        return ClassifierFree(
            denoiser,
            scales,
            self.convention,
            interval=self.times,
            history=known if remembered else None,
            generator=generator,
            history_level=self.history_level,
            rescale=self.rescale,
            apg=Projected(**self.apg) if self.apg else None,
        )

    def told(
        self, denoiser: Denoises, guidance: float, history: float | None = None, known: Tensor | None = None
    ) -> Denoises:
        """A student that is told the scale: where frames are known that of `history`, if there is one. Arguments are
        those of `scaled`."""
        scale = guidance if history is None or known is None else history
        return Told(denoiser, scale + CONVENTIONS[self.convention])

    def check_told(
        self, scales: tuple[float, float], guidance: float, history: float | None, interval: list[float] | None
    ) -> None:
        """Raises ValueError for a scale outside those that a student is told, and for what changes the guidance that
        was distilled into it, within `interval`."""
        low, high = (scale - CONVENTIONS[self.convention] for scale in scales)
        for name, scale in {"guidance": guidance, "history": history}.items():
            if scale is not None and not low <= scale <= high:
                raise ValueError(f"{name} is {scale:g}, but this student knows scales of {low:g} to {high:g}: give one")
        plain = Guide(interval=interval)
        for name in ("interval", "rescale", "apg", "history_level", "separate", *OWN.values()):
            if getattr(self, name) != getattr(plain, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but guidance was distilled into this student, of which only the "
                    f"scale can be chosen: leave it at {getattr(plain, name)}, or draw with its teacher"
                )

    def judged(self, denoiser: Denoises, classifier: Classifier, label: Tensor, scale: float) -> Denoises:
        """A denoiser guided to `label` `(b,)` by a classifier's gradient; itself where no sample has one."""
        if not scale or bool((label == NO_LABEL).all()):
            return denoiser
        return ClassifierGuidance(denoiser, classifier, label, scale, interval=self.times)

    def bounded(self, denoiser: Denoises) -> Denoises:
        """A denoiser whose estimates are thresholded; itself where that is off."""
        return Threshold(denoiser, **self.threshold) if self.threshold else denoiser


def _check_keys(name: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{name} does not take {unknown[0]!r}; it takes {', '.join(known)}")
