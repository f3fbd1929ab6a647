"""How a trained model draws: each option as a call has it, or else by the run's default."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from difflib import get_close_matches
from inspect import signature
from operator import index
from typing import Any

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.draw.guide import Guide
from vidiff.draw.strategy import Strategy
from vidiff.draw.window import Draw
from vidiff.engine.parallel import choose_device
from vidiff.engine.precision import DTYPES
from vidiff.pipeline.facts import sides, size_of
from vidiff.pipeline.model import TOLD, Labels, Texts, TrainedModel
from vidiff.recipe.kinds import SamplingConfig
from vidiff.recipe.slots import build_grid, build_sampler, build_strategy

METHODS_OWN = ("label", "frames", "count", "size", "context", "strategy", "backwards", "level")
MOST_SEED, MOST_STEPS = 2**64 - 1, 100_000  # what torch takes; more times than any schedule has


class Drawing:
    """A trained model, and how clips are drawn with it unless a call says otherwise.

    Attributes:
        facts: what is known of the model; `frames`, `size`, `fps`, `stride` and `buckets` are its own.
        labels: names of the classes that may be asked for; empty for a model without.
        detail: of a super-resolution model, `(c,)`, how large what it makes is beside the codec's latents.
        sampling: how clips are drawn, unless a call says otherwise.
    """

    def __init__(
        self, model: TrainedModel, sampling: SamplingConfig | None = None, device: str | torch.device = "auto"
    ) -> None:
        facts = model.facts
        self.model, self.facts, self.sampling = model, facts, sampling or SamplingConfig()
        self.device = choose_device(device)
        self.denoiser, self.codec = model.denoiser.to(self.device), model.codec.to(self.device)
        self.classifier, self.text = model.classifier, model.text
        self.labels, self.weights = model.labels, model.weights
        if self.classifier is not None:
            self.classifier.network.to(self.device)
        self.buckets, self.frames, self.size = facts.buckets, facts.frames, facts.size
        self.fps, self.stride = facts.fps, facts.stride
        self.detail = None if facts.detail is None else torch.tensor(facts.detail, device=self.device)

    def settings(self, **given: Any) -> dict[str, Any]:
        """How clips are drawn, each option as given or else by the run's default; to be kept beside the clips."""
        default = {**asdict(self.sampling), "seed": 0, "weights": self.weights}
        default.pop("count")
        if self.classifier is not None:
            default |= {"classifier": self.classifier.name, "classifier_scale": self.classifier.scale}
        if self.facts.enlarges:
            default["level"] = self.facts.level()
        if given.get("guidance") is not None:
            default["history"] = None  # as in `stream`
        return default | {key: value for key, value in given.items() if value is not None}

    def condition(self, label: Labels, count: int, text: Texts = None, **told: Any) -> Condition:
        """What the model is told of `count` clips that it makes by itself. Arguments are those of
        `TrainedModel.condition`.

        Raises:
            ValueError: as `TrainedModel.condition`; for a super-resolution model, which makes none.
        """
        if self.facts.enlarges:
            raise ValueError(
                f"this run enlarges clips of {self.facts.small} px to {self.size} px and makes none by itself: use "
                "`upscale` (vidiff edit upscale CLIP --run RUN), or name a run that makes clips"
            )
        return self.model.condition(label, count, text, **told).to(self.device)

    def _asked(
        self,
        clip: Tensor,
        frames: int,
        label: Labels,
        context: int | None = None,
        **options: Any,
    ) -> tuple[Draw, int, Condition]:
        """What every edit of `clip` takes, for a result of `frames`."""
        size = size_of(clip)
        window, told = self.facts.window(size), told_among(options)
        draw, context = self._draw(window, **options), self._context(context, frames, window)
        return draw, context, self.condition(label, len(clip), frames=(frames, 0), size=size, **told)

    def _draw(
        self,
        window: int,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | dict[str, Any] | None = None,
        grid: str | dict[str, Any] | None = None,
        seed: int = 0,
        lag: int | None = None,
        history: float | None = None,
        progress: bool = False,
        classifier_scale: float | None = None,
        **guide: Any,
    ) -> Draw:
        """How windows of latents are drawn: each option as `stream` has it, or else by the run's default.

        Raises:
            ValueError: an option out of range. TypeError: one that there is not.
        """
        seed = whole("seed", seed, 0, MOST_SEED)
        steps = whole("steps", self.sampling.steps if steps is None else steps, 1, MOST_STEPS)
        for name, given in (("guidance", guidance), ("history", history)):
            if given is not None and not math.isfinite(given):
                raise ValueError(f"{name} is {given}; give a finite number, such as 2")
        lag = self.sampling.lag if lag is None else lag
        if history is None and guidance is None:  # a guidance that is asked for is not to be replaced
            history = self.sampling.history
        if lag < 0:
            raise ValueError(f"lag is {lag}; give 0 or more steps")
        judged = self.model.classifier_scale(classifier_scale)
        if guidance is not None and judged and self.text is None:
            raise ValueError(
                f"guidance is {guidance}, but the classifier stands for the label and this model knows no text, so "
                "there is nothing that it scales: give classifier_scale, or history where frames are given"
            )
        scale, asked = self.sampling.guidance if guidance is None else guidance, self._guide(**guide)
        if self.facts.scales is not None:
            asked.check_told(self.facts.scales, scale, history, self.sampling.interval)
        return Draw(
            self.denoiser,
            build_sampler(self.sampling.sampler if sampler is None else sampler),
            steps,
            scale,
            1 + (window - 1) // self.codec.temporal,
            torch.Generator().manual_seed(seed),
            progress,
            lag,
            history,
            DTYPES[self.facts.precision],
            replace=not self.facts.boxes,
            guide=asked,
            classifier=None if self.classifier is None else self.classifier.network,
            classifier_scale=judged,
            longest=self.facts.strides[1],
            grid=self.sampling.grid if grid is None else build_grid(grid),
            distilled=self.facts.scales is not None,
            half=self.facts.half,
        )

    def _guide(self, **given: Any) -> Guide:
        """The options of `Guide`, each as given or else by the run's default. Raises TypeError for any other."""
        default = {option.name: getattr(self.sampling, option.name) for option in fields(Guide)}
        for name in given.keys() - default.keys():
            raise TypeError(refusal(name))
        asked = {name: value for name, value in given.items() if value is not None or name not in default}
        return Guide(**default | asked)

    def _strategy(self, strategy: str | dict[str, Any] | None, history: float | None) -> Strategy:
        """How more than a window is drawn. Raises ValueError for guidance on history where that makes no sense."""
        slot = self.sampling.strategy if strategy is None else strategy
        built = build_strategy(slot)
        built.check(self.facts.causal)
        if history is not None and not built.guides:
            raise ValueError(
                f"history is {history}, but the strategy {slot} is for models that never saw the past clean, which "
                "cannot be guided on it: leave out history, or choose another strategy"
            )
        return built

    def reach(
        self,
        strategy: str | dict[str, Any] | None = None,
        context: int | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> int:
        """Frames at the end of a clip that extending it looks at. Raises ValueError as `stream`."""
        how, looked = self._strategy(strategy, None), self._context(context, 2, self.facts.window(sides(size)))
        temporal = self.codec.temporal  # strategies count latents
        return 1 + temporal * (how.reach(1 + (looked - 1) // temporal) - 1)

    def _context(self, context: int | None, frames: int, window: int) -> int:
        """Frames on which each further window of a result of `frames` looks back. Raises ValueError where none can."""
        if window == 1:
            if frames > 1:
                raise ValueError(
                    "this model was trained on single frames, so it cannot continue a clip: ask for frames=1"
                )
            return 0
        if context is None:  # of the run, which is for the first bucket
            usual = self.sampling.context
            context = usual if window == self.frames else self.codec.fewer(min(usual, window - 1))
        if not 1 <= context < window:
            raise ValueError(f"context is {context}; give 1 to {window - 1}: the model sees {window} frames at once")
        self.codec.check_frames(context, "context")
        return context


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number of any library's. Raises ValueError for anything else, and for one out of range."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or not least <= index(value) <= most:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} to {most}")
    return index(value)


def refusal(name: str) -> str:
    """What to say of an option that a method does not take: whose it is, or which was meant."""
    drawn = [one for one in signature(Drawing._draw).parameters if one not in ("self", "window", "guide")]
    known = [*drawn, *(option.name for option in fields(Guide)), *TOLD, *METHODS_OWN]
    if name in known:
        return f"{name} is no option of this method: leave it out"
    near = get_close_matches(name, known, 1)
    return f"there is no option {name!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


def told_among(options: dict[str, Any]) -> dict[str, Any]:
    """Takes what is asked for, of `TOLD`, out of a call's options."""
    return {name: options.pop(name) for name in TOLD if name in options}
