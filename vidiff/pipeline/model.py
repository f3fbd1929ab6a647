"""A trained model, put together: all that it takes to draw clips from it, but for how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, load_into
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import choose_device
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.facts import FILE, Facts, size_of
from vidiff.pipeline.labels import class_number
from vidiff.pipeline.run import trained_precision
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.slots import build_text
from vidiff.text import TextEncoder

Labels = str | int | Sequence[str | int | None] | None
Texts = str | Sequence[str] | None
Actions = Tensor | np.ndarray | Sequence[Any] | None

TOLD = ("text", "actions", "control")  # what may be asked for besides a label, by keyword


@dataclass(frozen=True)
class TrainedModel:
    """A diffusion model with its codec, and what it can be told.

    Attributes:
        text: what reads prompts; None for a model without text.
        classifier: by whose gradient the model is guided to a label, in place of telling it; None for none.
        weights: which of the run's they are, as `load_model` takes it.

    Raises:
        ValueError: for a classifier of other latents or labels, or beside a super-resolution model.
    """

    denoiser: Denoiser
    codec: Codec
    facts: Facts
    text: TextEncoder | None = None
    classifier: TrainedClassifier | None = None
    weights: str = "ema"

    def __post_init__(self) -> None:
        if self.classifier is not None:
            if self.facts.enlarges:
                raise ValueError(
                    f"{self.classifier.name} reads clips, and a super-resolution model makes only their detail"
                )
            self.classifier.check(self.codec, self.facts.frames, self.facts.size, self.facts.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that may be asked for; empty where there are none."""
        return self.facts.labels if self.classifier is None else self.classifier.labels

    def condition(
        self,
        label: Labels,
        count: int,
        text: Texts = None,
        stride: int | None = None,
        actions: Actions = None,
        control: Tensor | None = None,
        frames: tuple[int, int] = (0, 0),
        size: tuple[int, int] | None = None,
        backwards: bool = False,
    ) -> Condition:
        """What the model is told of `count` clips.

        Args:
            stride: source frames from frame to frame; by default the least that it was trained on.
            actions: what led to each frame, as `action_tensor` takes it.
            control: another video of what they show, as `control_tensor` takes it.
            size: their height and width in pixels, where they are known.
            frames: how many there are, of clips that have any, and how many of these are given.
            backwards: the given ones are the last, and not the first.

        Raises:
            ValueError: as `label_tensor`, `text_tensors`, `action_tensor` and `control_tensor`; a stride that the
                model was not trained on.
        """
        told = self.facts.check_stride(stride)
        strides = None if told is None else torch.full((count,), told)
        words, mask = self.text_tensors(text, count)
        done = self.action_tensor(actions, count, *frames, told or self.facts.strides[0], backwards)
        video = self.control_tensor(control, count, frames[0], size)
        return Condition(self.label_tensor(label, count), words, mask, stride=strides, action=done, control=video)

    def classifier_scale(self, given: float | None) -> float:
        """By what the classifier's gradient is multiplied; 0 where there is none. Raises ValueError out of range."""
        if self.classifier is None:
            if given is not None:
                raise ValueError(
                    f"classifier_scale is {given}, but no classifier was loaded: name its run as classifier"
                )
            return 0.0
        scale = self.classifier.scale if given is None else given
        if not 0.0 <= scale < float("inf"):
            raise ValueError(f"classifier_scale is {scale}; give 0, which tells the model the label after all, or more")
        if not scale and not self.facts.labels:
            raise ValueError("classifier_scale is 0, but only the classifier knows labels: give a positive number")
        return scale

    def text_tensors(self, text: Texts, count: int) -> tuple[Tensor | None, Tensor | None]:
        """Prompts to what the network reads of `count` clips, and which tokens count; None where none is asked for.

        Raises:
            ValueError: for a model without text, more or fewer prompts than clips, and as the run's text encoder.
        """
        if text is None:
            return None, None
        if self.text is None:
            raise ValueError(f"text is {text!r}, but this model was trained without text: leave it out")
        prompts = [text] * count if isinstance(text, str) else list(text)
        if len(prompts) != count:
            raise ValueError(f"{len(prompts)} texts for {count} clips: give one, or one for each clip")
        return self.text(prompts)

    def action_tensor(
        self, actions: Actions, count: int, frames: int, given: int, stride: int, backwards: bool = False
    ) -> Tensor | None:
        """What was done before each frame, as the network reads it, `(count, frames, stride * held, w)`; None for a
        model that is told no actions, and where none are known.

        Args:
            actions: `(frames, a)` for all clips, or `(count, frames, a)`, as `ActionSpace.rows` takes them; of clips
                that go on, those of the new frames are enough. Each holds for all source frames up to its own.
            given: frames of the clips that are given.
            stride: source frames from frame to frame.
            backwards: the given frames are the last.

        Raises:
            ValueError: for a model that is told no actions, another number of them, and one that there is not.
        """
        if actions is None:
            return None
        space = self.facts.actions
        if space is None:
            raise ValueError("actions are given, but this model was trained without (data.actions): leave them out")
        several = getattr(actions, "ndim", 0) == 3
        rows = [space.rows(one) for one in (actions if several else [actions])]
        if len(rows) not in (1, count):
            raise ValueError(f"actions of {len(rows)} clips for {count}: give those of one, or of each")
        wrong = next((len(one) for one in rows if len(one) not in (frames, frames - given)), None)
        if wrong is not None:
            new = f", or {frames - given}, of the new ones" if given else ""
            raise ValueError(f"actions has {wrong} rows, but the result has {frames} frames: give {frames}{new}")
        told = torch.stack([space.encode(one) for one in rows])  # 1 or count, f, w
        missing = frames - told.shape[1]
        around = (0, missing) if backwards else (missing, 0)
        told = torch.nn.functional.pad(told, (0, 0, *around)).expand(count, -1, -1)
        return told[:, :, None].repeat(1, 1, stride * self.facts.held, 1)

    @torch.no_grad()
    def control_tensor(
        self, control: Tensor | None, count: int, frames: int, size: tuple[int, int] | None = None
    ) -> Tensor | None:
        """Another video of what clips show, as the network is shown it, `(count, c, frames, h, w)`; None for none. If
        a latent holds several frames, it stays as it is, `(count, 3, frames, H, W)`, for each window to encode its own.

        Args:
            control: `(3, frames, H, W)` for all clips, or `(1 or count, 3, frames, H, W)`, in [-1, 1].
            size: H and W of the clips; by default any that the model was trained on.

        Raises:
            ValueError: for a model that was trained without, and a video of another length, size or number.
        """
        if control is None:
            return None
        if not self.facts.control:
            raise ValueError("control is given, but this model was trained without (data.control): leave it out")
        video = self.facts.check_clip(control, name="control")
        if size is not None and size_of(video) != tuple(size):
            one, other = ("x".join(map(str, sides)) for sides in (size_of(video), size))
            raise ValueError(f"control is of {one} pixels, and the clips of {other}: give one of their size")
        if video.shape[2] != frames:
            raise ValueError(f"control has {video.shape[2]} frames, but the result has {frames}: give as many")
        if len(video) not in (1, count):
            raise ValueError(f"control is of {len(video)} clips for {count}: give that of one, or of each")
        video = video.to(self.codec.shift)
        z = self.codec.encode(video).mean if self.codec.temporal == 1 else video
        return z.expand(count, -1, -1, -1, -1)

    def label_tensor(self, label: Labels, count: int) -> Tensor | None:
        """Names or numbers of classes, as `class_number` takes them, to `(count,)`; -1 where none is asked for.

        Raises:
            ValueError: for a label that the model does not have, and for more or fewer labels than clips.
        """
        if not self.labels:
            if label is not None:
                raise ValueError(f"label is {label!r}, but this model was trained without labels: leave it out")
            return None
        one = label is None or isinstance(label, str | int) or getattr(label, "ndim", None) == 0
        labels: list[Any] = [label] * count if one else list(label)  # type: ignore[arg-type]
        if len(labels) != count:
            raise ValueError(f"{len(labels)} labels for {count} clips: give one, or one for each clip")
        return torch.tensor([class_number(name, self.labels) for name in labels])


def load_model(
    run: Path,
    config: DiffusionRun,
    device: str | torch.device = "auto",
    weights: str = "ema",
    classifier: str | Path | None = None,
) -> TrainedModel:
    """The model of a run, from its folder. Arguments and errors as of `Pipeline.from_pretrained`.

    Args:
        config: of the run, resolved.
    """
    checkpoint = newest(run / "checkpoints") if (run / FILE).is_file() else None
    if checkpoint is None:
        raise ValueError(f"{run} has no checkpoint yet: let `vidiff train` reach its first, or train it on")
    facts = Facts.load(run, config, trained_precision(run, choose_device(device)))
    denoiser = build_denoiser(config).eval().requires_grad_(False)
    load_into(denoiser, load_part(checkpoint, "denoiser", weights), checkpoint)
    return TrainedModel(
        denoiser,
        load_codec(run / "codec", config.codec.tile),
        facts,
        None if facts.text is None else build_text(config.text, **facts.text),
        None if classifier is None else TrainedClassifier.from_pretrained(classifier, device).arranged(facts.labels),
        weights,
    )
