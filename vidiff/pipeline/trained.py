"""A trained run as it is loaded: what it holds, and how it is asked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidiff.codec.codec import Codec
from vidiff.codec.files import fill, load_codec
from vidiff.data.buckets import Bucket, longest_of, nearest_size, shrunk
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.draw.guide import Guide
from vidiff.draw.long import Strategy
from vidiff.draw.window import Draw
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import choose_device
from vidiff.engine.precision import DTYPES, Precision
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.run import read_config, trained_precision
from vidiff.recipe.kinds import LowresConfig, SamplingConfig, build_denoiser, build_sampler, build_strategy, build_text
from vidiff.store.plain import read_json
from vidiff.text import TextEncoder

Loaded = TypeVar("Loaded", bound="Trained")
Labels = str | int | Sequence[str | int] | None
Texts = str | Sequence[str] | None


class Trained:
    """A trained model with all that it takes to draw clips from it.

    Attributes:
        buckets: the shapes of the clips that the model was trained on; the first is drawn by default.
        frames: of a window, that is, of the clips of the first bucket.
        size: height and width of these in pixels; the shorter side, where they differ.
        labels: names of the classes that may be asked for; empty for a model without.
        told: whether the model itself was trained with them; else only the classifier knows them.
        fps: frames a second of the clips that it was trained on, at their least stride.
        stride: that stride, where the model is told of it; else None.
        longest: the largest stride that it was trained on; None where that is not known.
        boxes: whether it was trained on frames of which a part is known.
        text: what reads prompts; None for a model without text.
        lowres: of a super-resolution model, which enlarges clips by `lowres.factor` to `size`; factor 0 for any other.
        detail: of a super-resolution model, `(c,)`, how large what it makes is beside the codec's latents.
        weights: which of the run's they are, as `from_pretrained` takes it.
        classifier: by whose gradient it is guided to a label, in place of telling it; None for none.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        frames: int,
        size: int,
        labels: Sequence[str] = (),
        fps: float = 8.0,
        sampling: SamplingConfig | None = None,
        device: str | torch.device = "auto",
        stride: int | None = None,
        precision: Precision = "fp32",
        boxes: bool = False,
        text: TextEncoder | None = None,
        lowres: LowresConfig | None = None,
        detail: Tensor | None = None,
        classifier: TrainedClassifier | None = None,
        longest: int | None = None,
        weights: str = "ema",
        buckets: Sequence[Bucket] = (),
    ) -> None:
        self.buckets = tuple(buckets) or (Bucket(frames, size, size),)
        frames, size = self.buckets[0].frames, min(self.buckets[0].size)
        self.device = choose_device(device)
        if classifier is not None:
            if lowres is not None and lowres.factor:
                raise ValueError(f"{classifier.name} reads clips, and a super-resolution model makes only their detail")
            classifier.check(codec, frames, size, labels)
            classifier.network.to(self.device)
        self.denoiser, self.codec = denoiser.to(self.device), codec.to(self.device)
        self.frames, self.size, self.fps = frames, size, fps
        self.classifier, self.told = classifier, bool(labels)
        self.labels = tuple(labels) if classifier is None else classifier.labels
        self.sampling, self.stride = sampling or SamplingConfig(), stride
        self.precision, self.boxes, self.text, self.lowres = precision, boxes, text, lowres or LowresConfig()
        self.detail, self.longest = None if detail is None else detail.to(self.device), longest
        self.weights = weights

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        run: str | Path,
        device: str | torch.device = "auto",
        weights: str = "ema",
        classifier: str | Path | None = None,
    ) -> Loaded:
        """Load a run's folder, which holds all that is needed.

        Args:
            run: such as "runs/ucf".
            device: "auto", "cpu", "cuda", ...
            weights: "ema"; "model" for those that the optimizer left; "best" for the average that `train.keep_best`
                kept; or a file that `tools/ema.py` wrote, an average of another width.
            classifier: a classifier's run, such as "runs/shapes_classifier", whose gradient then guides to a label; the
                model itself is not told it.

        Raises:
            ValueError: if a folder is no trained run, or a file in it is damaged; for a classifier of other latents or
                labels.
        """
        run = Path(run)
        config = read_config(run)
        checkpoint = newest(run / "checkpoints") if (run / "data.json").is_file() else None
        if checkpoint is None:
            raise ValueError(
                f"{run} has no checkpoint yet: let `python -m vidiff.train` reach its first, or train it on"
            )
        facts = read_json(run / "data.json")
        denoiser = build_denoiser(config)
        fill(denoiser.eval().requires_grad_(False), load_part(checkpoint, "denoiser", weights), checkpoint)
        return cls(
            denoiser,
            load_codec(run / "codec", config.codec.tile),
            config.data.frames,
            config.data.size,
            facts["labels"] if config.unet.labels else (),
            facts["fps"],
            config.sampling,
            device,
            config.data.stride[0] if config.unet.strided else None,
            trained_precision(run, choose_device(device)),
            boxes=config.loss.tasks.boxes > 0,
            text=build_text(config.text, **facts["text"]) if config.text else None,
            lowres=config.lowres,
            detail=torch.tensor(facts["detail"]) if config.lowres.factor else None,
            classifier=None if classifier is None else TrainedClassifier.from_pretrained(classifier, device),
            longest=config.data.stride[1],
            weights=weights,
            buckets=config.data.drawn(),
        )

    @property
    def small(self) -> int:
        """Height and width in pixels of what a super-resolution model enlarges. Raises ValueError for any other."""
        if not self.lowres.factor:
            raise ValueError(
                "this run makes clips and enlarges none: name one that was trained with lowres.factor, such as that of "
                "configs/shapes_sr.yaml"
            )
        return self.size // self.lowres.factor

    def window(self, size: tuple[int, int] | None = None) -> int:
        """Frames that the model makes at once of clips of `size` (h, w); by default of the first bucket's.

        Raises:
            ValueError: a size that it was not trained on.
        """
        return self.frames if size is None else longest_of(self.buckets, size)

    def nearest(self, height: int, width: int, factor: int = 1) -> tuple[int, int]:
        """The size to which a clip or picture of any other is to be resized and cropped: of the nearest aspect.

        Args:
            factor: by which the model is to enlarge it.
        """
        return nearest_size(shrunk(self.buckets, factor), height, width)

    def enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """What a super-resolution model makes of clips of a size. Raises ValueError for one that it does not take."""
        small, factor = self.small, self.lowres.factor
        if all(bucket.size != size for bucket in shrunk(self.buckets, factor)):
            given = "x".join(map(str, dict.fromkeys(size)))
            raise ValueError(f"it enlarges clips of {small} px, but is given clips of {given} px")
        return factor * size[0], factor * size[1]

    def _asked(
        self,
        clip: Tensor,
        frames: int,
        label: Labels,
        *,
        text: Texts = None,
        context: int | None = None,
        **options: Any,
    ) -> tuple[Draw, int, Condition]:
        """What every edit of `clip` takes, for a result of `frames`. Raises ValueError for a codec with `temporal`."""
        if self.codec.temporal > 1:
            raise ValueError(
                f"this model's codec makes one latent of {self.codec.temporal} frames, so it can generate, extend and "
                "animate, and not edit: train one with vae.temporal=1"
            )
        window = self.window(self._size_of(clip))
        draw, context = self._draw(window, **options), self._context(context, frames, window)
        return draw, context, self.condition(label, len(clip), text)

    def _draw(
        self,
        window: int,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | dict[str, Any] | None = None,
        seed: int = 0,
        lag: int | None = None,
        history: float | None = None,
        progress: bool = False,
        classifier_scale: float | None = None,
        **guide: Any,
    ) -> Draw:
        """How windows of latents are drawn: each option as `stream` has it, or else by the run's default."""
        lag = self.sampling.lag if lag is None else lag
        if history is None and guidance is None:  # a guidance that is asked for is not to be replaced
            history = self.sampling.history
        if lag < 0:
            raise ValueError(f"lag is {lag}; give 0 or more steps")
        judged = self._classifier_scale(classifier_scale)
        if guidance is not None and judged and self.text is None:
            raise ValueError(
                f"guidance is {guidance}, but the classifier stands for the label and this model knows no text, so "
                "there is nothing that it scales: give classifier_scale, or history where frames are given"
            )
        slot = {"name": sampler} if isinstance(sampler, str) else sampler or self.sampling.sampler
        return Draw(
            self.denoiser,
            build_sampler(slot),
            self.sampling.steps if steps is None else steps,
            self.sampling.guidance if guidance is None else guidance,
            1 + (window - 1) // self.codec.temporal,
            torch.Generator().manual_seed(seed),
            progress,
            lag,
            history,
            DTYPES[self.precision],
            replace=not self.boxes,
            guide=self._guide(**guide),
            classifier=None if self.classifier is None else self.classifier.network,
            classifier_scale=judged,
            longest=self.longest,
        )

    def _guide(self, **given: Any) -> Guide:
        """The options of `Guide`, each as given or else by the run's default. Raises TypeError for any other."""
        default = {option.name: getattr(self.sampling, option.name) for option in fields(Guide)}
        asked = {name: value for name, value in given.items() if value is not None or name not in default}
        return Guide(**default | asked)

    def _classifier_scale(self, given: float | None) -> float:
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
        if not scale and not self.told:
            raise ValueError("classifier_scale is 0, but only the classifier knows labels: give a positive number")
        return scale

    def _strategy(self, strategy: str | dict[str, Any] | None, history: float | None) -> Strategy:
        """How more than a window is drawn. Raises ValueError for guidance on history where that makes no sense."""
        slot = self.sampling.strategy if strategy is None else strategy
        built = build_strategy(slot)
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
        size: tuple[int, int] | None = None,
    ) -> int:
        """Frames at the end of a clip that extending it looks at. Raises ValueError as `stream`."""
        return self._strategy(strategy, None).reach(self._context(context, 2, self.window(size)))

    def _context(self, context: int | None, frames: int, window: int) -> int:
        """Frames on which each further window of a result of `frames` looks back. Raises ValueError where none can."""
        if window == 1:
            if frames > 1:
                raise ValueError(
                    "this model was trained on single frames, so it cannot continue a clip: ask for frames=1"
                )
            return 0
        if context is None:  # of the run, which is for the first bucket
            context = self.sampling.context if window == self.frames else min(self.sampling.context, window - 1)
        if not 1 <= context < window:
            raise ValueError(f"context is {context}; give 1 to {window - 1}: the model sees {window} frames at once")
        if (context - 1) % self.codec.temporal:
            raise ValueError(
                f"context is {context}; give 1 more than a multiple of {self.codec.temporal}, of which the codec makes "
                "one latent"
            )
        return context

    def _size_of(self, clip: Tensor) -> tuple[int, int]:
        return clip.shape[-2], clip.shape[-1]

    def _clip(self, clip: Tensor, factor: int = 1) -> Tensor:
        """`(3, f, h, w)` or `(b, 3, f, h, w)` as the latter.

        Raises ValueError for another type, or a size that is not by `factor` smaller than one of the model's.
        """
        video = clip[None] if clip.ndim == 4 else clip
        sizes = dict.fromkeys(bucket.size for bucket in shrunk(self.buckets, factor))
        if video.ndim != 5 or video.shape[1] != 3 or self._size_of(video) not in sizes or not video.numel():
            wanted = " or ".join(f"(b, 3, f, {height}, {width})" for height, width in sizes)
            raise ValueError(f"the clip is {tuple(clip.shape)}; expected {wanted}: resize it to the model's size")
        if not clip.is_floating_point():
            raise ValueError(f"the clip is of {clip.dtype}; expected floating point in [-1, 1]")
        return video

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """What the codec makes of `(b, 3, f, h, w)`: the best that any model on its latents can look like."""
        return self.codec.decode(self.codec.encode(video.to(self.device)).mean).to(video)

    def settings(self, **given: Any) -> dict[str, Any]:
        """How clips are drawn, each option as given or else by the run's default; to be kept beside the clips."""
        default = {**asdict(self.sampling), "seed": 0, "weights": self.weights}
        default.pop("count")
        if self.classifier is not None:
            default |= {"classifier": self.classifier.name, "classifier_scale": self.classifier.scale}
        if self.lowres.factor:
            default["level"] = self.lowres.level
        if given.get("guidance") is not None:
            default["history"] = None  # as in `stream`
        return default | {key: value for key, value in given.items() if value is not None}

    def condition(self, label: Labels, count: int, text: Texts = None) -> Condition:
        """What the model is told of `count` clips that it makes by itself.

        Raises:
            ValueError: as `label_tensor` and `text_tensors`; for a super-resolution model, which makes none.
        """
        if self.lowres.factor:
            raise ValueError(
                f"this run enlarges clips of {self.small} px to {self.size} px and makes none by itself: use `upscale` "
                "(tools/edit.py upscale CLIP --run RUN), or name a run that makes clips"
            )
        return self._told(label, count, text)

    def _told(self, label: Labels, count: int, text: Texts = None) -> Condition:
        stride = None if self.stride is None else torch.full((count,), self.stride)
        words, mask = self.text_tensors(text, count)
        return Condition(self.label_tensor(label, count), words, mask, stride=stride).to(self.device)

    def text_tensors(self, text: Texts, count: int) -> tuple[Tensor | None, Tensor | None]:
        """Prompts to what the network reads of `count` clips, and which tokens count; None where none is asked for.

        Raises:
            ValueError: for a model without text, more or fewer prompts than clips, and as the run's text encoder.
        """
        if text is None:
            return None, None
        if self.text is None:
            raise ValueError(f"text is {text!r}, but this model was trained without text: leave it out")
        each = [text] * count if isinstance(text, str) else list(text)
        if len(each) != count:
            raise ValueError(f"{len(each)} texts for {count} clips: give one, or one for each clip")
        return self.text(each)

    def label_tensor(self, label: Labels, count: int) -> Tensor | None:
        """Names or numbers of classes to `(count,)`, -1 where none is asked for.

        Raises:
            ValueError: for a label that the model does not have, and for more or fewer labels than clips.
        """
        if not self.labels:
            if label is not None:
                raise ValueError(f"label is {label!r}, but this model was trained without labels: leave it out")
            return None
        each = [label] * count if label is None or isinstance(label, str | int) else list(label)
        if len(each) != count:
            raise ValueError(f"{len(each)} labels for {count} clips: give one, or one for each clip")
        return torch.tensor([self._number(name) for name in each])

    def _number(self, label: str | int | None) -> int:
        if label is None:
            return -1
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return label
        near = difflib.get_close_matches(str(label), self.labels, n=3, cutoff=0.3) or self.labels[:3]
        raise ValueError(f"no label {label!r}; the nearest of {len(self.labels)} are {', '.join(near)}")
