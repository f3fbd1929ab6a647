"""What is to be known of a trained model besides its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidiff.data.actions.space import ActionSpace
from vidiff.data.buckets import Bucket, longest_of, nearest_size, shrunk
from vidiff.diffusion.cascade import LowresConfig
from vidiff.engine.precision import Precision
from vidiff.pixels import check_picture, check_video
from vidiff.recipe.kinds import DiffusionRun, StudentRun
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.reader import VideoReader
from vidiff.video.retime import shown_at

FILE = "data.json"


@dataclass(frozen=True)
class Facts:
    """What a model has seen, and what follows from that for whoever draws with it.

    A training resolves it once. What its config does not tell is kept beside the config, as data.json: labels, fps,
    detail, text, actions, held and half.

    Attributes:
        buckets: the shapes of the clips that the model was trained on; the first is drawn by default.
        labels: names of the classes that it was told; empty for a model without.
        fps: frames a second of the clips, at their least stride; of clips of different rates, the middle one's.
        rate: frames a second at which every file was seen, before the stride; 0 for each one's own.
        treatment: what was done to the frames of every file.
        strides: least and most source frames per clip frame. The model is told the stride where they differ.
        boxes: whether it was trained on frames of which a part is known.
        lowres: of a super-resolution model, which enlarges clips by `lowres.factor`; factor 0 for any other.
        detail: of a super-resolution model, a number for each channel: how large what it makes is beside the codec's
            latents.
        text: what its text encoder learned of the captions; None for a model without text.
        precision: of the network's arithmetic.
        causal: whether no frame looks at one after it.
        scales: least and largest scale of guidance that a student is told; None for a model that is guided.
        actions: what can be done in a frame; None for a model that is told no actions.
        control: whether it is shown another video of what it makes.
        held: own frames of a file by which a frame follows the one before, as a rule, where files were seen at another
            rate: for so many an action that is asked for is held.
        half: log-SNR at which it knows half of what its clips vary in, which its grid follows where no frame is given;
            None where that was not measured.
        student: whether it was taught to draw in few steps, so that its estimates lead on and are no posterior means.
    """

    buckets: tuple[Bucket, ...]
    labels: tuple[str, ...] = ()
    fps: float = 8.0
    rate: float = 0.0
    treatment: Treatment = PLAIN
    strides: tuple[int, int] = (1, 1)
    boxes: bool = False
    lowres: LowresConfig = field(default_factory=LowresConfig)
    detail: tuple[float, ...] | None = None
    text: Mapping[str, Any] | None = None
    precision: Precision = "fp32"
    causal: bool = False
    scales: tuple[float, float] | None = None
    student: bool = False
    actions: ActionSpace | None = None
    held: int = 1
    control: bool = False
    half: float | None = None

    @classmethod
    def of(
        cls,
        config: DiffusionRun,
        labels: tuple[str, ...],
        fps: float,
        detail: tuple[float, ...] | None = None,
        text: Mapping[str, Any] | None = None,
        precision: Precision = "fp32",
        actions: ActionSpace | None = None,
        held: int = 1,
    ) -> Facts:
        """The facts of a model that was trained as its resolved config says."""
        return cls(
            buckets=tuple(config.data.drawn()),
            labels=labels if config.unet.labels else (),
            fps=fps,
            rate=config.data.fps,
            treatment=config.data.treatment,
            strides=(config.data.stride[0], config.data.stride[1]),
            boxes=config.loss.tasks.boxes > 0,
            lowres=config.lowres,
            detail=detail,
            text=text,
            precision=precision,
            causal=config.unet.causal,
            scales=config.scales if isinstance(config, StudentRun) else None,
            student=isinstance(config, StudentRun),
            actions=actions,
            held=held,
            control=bool(config.data.control),
        )

    @classmethod
    def load(cls, run: Path, config: DiffusionRun, precision: Precision = "fp32") -> Facts:
        """The facts of a run, from its folder and its resolved config. Raises ValueError for a damaged file."""
        kept = read_json(run / FILE)
        detail = tuple(kept["detail"]) if config.lowres.factor else None
        text = kept["text"] if config.text else None
        actions = ActionSpace.of(kept["actions"]) if config.unet.actions else None
        of = cls.of(config, tuple(kept["labels"]), kept["fps"], detail, text, precision, actions, kept.get("held", 1))
        return replace(of, half=kept.get("half"))

    def save(self, run: Path) -> None:
        """Keep in a run's folder what its config does not tell."""
        kept: dict[str, Any] = {"labels": self.labels, "fps": self.fps}
        kept |= {name: value for name in ("text", "detail", "half") if (value := getattr(self, name)) is not None}
        kept |= {} if self.actions is None else {"actions": self.actions.facts(), "held": self.held}
        write_whole(run / FILE, json.dumps(kept))

    @property
    def frames(self) -> int:
        """Of a window of the first bucket."""
        return self.buckets[0].frames

    @property
    def size(self) -> int:
        """Height and width in pixels of clips of the first bucket; the shorter side, where they differ."""
        return min(self.buckets[0].size)

    @property
    def stride(self) -> int | None:
        """The stride that the model is told of what it makes; None for a model that is told none."""
        least, most = self.strides
        return None if least == most else least

    def check_stride(self, given: int | None = None) -> int | None:
        """The stride that the model is told: the one given, or its own. Raises ValueError for one it does not know."""
        least, most = self.strides
        if given is not None and not (isinstance(given, int) and least <= given <= most):
            trained = f"{least} to {most}" if least < most else f"{least} alone"
            raise ValueError(f"stride is {given}; this model was trained on {trained}, in source frames")
        return None if self.stride is None else given or self.stride

    def check_ahead(self, what: str) -> None:
        """Raises ValueError, before `what`, for a model that does not look at frames after those that it makes."""
        if self.causal:
            raise ValueError(f"this model looks back alone (unet.causal), so it cannot {what}: take one that does not")

    @property
    def enlarges(self) -> int:
        """By what factor the model enlarges clips; 0 for one that makes them by itself."""
        return self.lowres.factor

    def level(self, given: float | None = None) -> float:
        """The time to which clips that are enlarged are noised: the one given, or the run's own.

        Raises:
            ValueError: a time beyond those that the model was trained on.
        """
        level, most = self.lowres.level if given is None else given, self.lowres.noise
        if not 0 <= level <= most:
            raise ValueError(f"level is {level}; give 0 to {most}, the most that the model was trained on")
        return level

    @property
    def small(self) -> int:
        """Height and width in pixels of what a super-resolution model enlarges. Raises ValueError for any other."""
        if not self.enlarges:
            raise ValueError(
                "this run makes clips and enlarges none: name one that was trained with lowres.factor, such as that of "
                "`vidiff train shapes_sr`"
            )
        return self.size // self.enlarges

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
        small, factor = self.small, self.enlarges
        if all(bucket.size != size for bucket in shrunk(self.buckets, factor)):
            given = "x".join(map(str, dict.fromkeys(size)))
            raise ValueError(f"it enlarges clips of {small} px, but is given clips of {given} px")
        return factor * size[0], factor * size[1]

    def seen(self, reader: VideoReader) -> tuple[np.ndarray, float]:
        """The clip's own frame behind each that the model sees of it, and how many of these there are in a second."""
        step, own = self.strides[0], reader.fps
        if not self.rate:
            return np.arange(0, reader.frames, step), own / step
        return shown_at(reader.times, self.rate / step, own), self.rate / step

    def check_clip(self, clip: Tensor, factor: int = 1, name: str = "clip") -> Tensor:
        """`(3, f, h, w)` or `(b, 3, f, h, w)` as the latter.

        Raises:
            ValueError: as `vidiff.pixels.check_video`; a size that is not by `factor` smaller than one of the model's.
        """
        check_video(clip, name)
        video = clip[None] if clip.ndim == 4 else clip
        sizes = dict.fromkeys(bucket.size for bucket in shrunk(self.buckets, factor))
        if size_of(video) not in sizes or not video.numel():
            wanted = " or ".join(f"(b, 3, f, {height}, {width})" for height, width in sizes)
            raise ValueError(f"{name} is {tuple(clip.shape)}; expected {wanted}: resize it to the model's size")
        return video

    def check_picture(self, image: Tensor, name: str = "image") -> Tensor:
        """`(3, h, w)` or `(b, 3, h, w)` as clips of one frame, `(b, 3, 1, h, w)`. Raises as `check_clip`."""
        check_picture(image, name)
        return self.check_clip(image.unsqueeze(-3), name=name)

    def check_ends(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Two clips or pictures as clips `(b, 3, f, h, w)`. Raises as `check_clip`, and unless there are as many."""
        one, other = (
            self.check_picture(x, name) if isinstance(x, Tensor) and x.ndim == 3 else self.check_clip(x, name=name)
            for x, name in ((first, "first"), (last, "last"))
        )
        if len(one) != len(other):
            raise ValueError(f"first holds {len(one)} clips and last {len(other)}: give as many of both")
        return one, other


def sides(size: object) -> tuple[int, int] | None:
    """Height and width of a size as users give it: both, or one number for a square; None for none.

    Raises:
        ValueError: anything else.
    """
    if size is None:
        return None
    try:
        one: Any = (size, size) if np.ndim(size) == 0 else size  # type: ignore[arg-type]
        height, width = map(index, one)
    except (TypeError, ValueError):
        raise ValueError(
            f"size is {size!r}; give height and width in pixels, such as (48, 80), or one number for a square"
        ) from None
    return height, width


def size_of(video: Tensor) -> tuple[int, int]:
    """Height and width in pixels of `(..., h, w)`."""
    return video.shape[-2], video.shape[-1]
