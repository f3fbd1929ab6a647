"""What a training of each kind is described by, as checked dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from vidiff.codec import diffusers
from vidiff.codec.codec import CodecConfig
from vidiff.diffusion.cascade import LowresConfig
from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import VIDEOS
from vidiff.diffusion.denoise import check_prediction
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.schedule import Adaptive, Trained
from vidiff.draw.guide import Guide
from vidiff.nn.classifier import ClassifierConfig
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.objective.classifier import ClassifierLoss
from vidiff.objective.diffusion import DISTANCES, DiffusionLoss
from vidiff.objective.distill import OBJECTIVES, StudentLoss
from vidiff.objective.vae import VAELoss
from vidiff.objective.weighting import TIMES, WEIGHTINGS
from vidiff.recipe.common import OfClips, RunConfig, check_lengths
from vidiff.recipe.slots import ConfigError, build_sampler, build_schedule, build_strategy, build_text

# options of a network that codec, data and other options decide
FOLLOWING = (
    *("channels", "labels", "strided", "text_dim", "words", "actions", "guided"),
    *(f"{video}_channels" for video in VIDEOS),
)


@dataclass
class SamplingConfig(Guide):
    """How clips are drawn, unless a call says otherwise."""

    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "unipc"})
    steps: int = 30  # times at which it asks the model: evaluations, of most samplers
    grid: Grid = field(default_factory=Grid)  # kind, ends in log-SNR, rho, half: how the times are spaced
    guidance: float = 1.5  # 1 is the plain model
    history: float | None = None  # where frames are known: scale on them and the label at once, in place of guidance
    context: int = 8  # frames that an extension looks back on
    lag: int = 0  # steps by which each new frame follows the one before; 0 draws all of a window at once
    strategy: dict[str, Any] = field(default_factory=lambda: {"name": "clean"})  # how more than a window is drawn
    count: int = 12  # clips in the grids drawn while training


@dataclass
class VAERun(RunConfig):
    """Training an autoencoder."""

    vae: VAEConfig = field(default_factory=VAEConfig)
    loss: VAELoss = field(default_factory=VAELoss)
    # a run whose autoencoder (EMA) this one begins with, for instance to sharpen it; or the folder of an autoencoder of
    # diffusers, or its name on the hub, whose shape is taken over as well
    start: str = ""

    @property
    def others(self) -> str:
        """Where the autoencoder of diffusers is that is trained: as the run keeps it, or else as it begins with it.
        Empty for one of our own.
        """
        kept = self.folder / "codec"
        if (kept / "config.json").is_file():
            return str(kept)
        return self.start if self.start and diffusers.names_one(self.start) else ""

    @property
    def shape(self) -> VAEConfig | diffusers.Facts:
        """What is known of the autoencoder: channels of its latents, and by which factors it shrinks clips.

        Raises:
            ValueError: an autoencoder of diffusers that cannot be used.
        """
        return diffusers.facts_of(self.others) if self.others else self.vae

    @property
    def scores(self) -> tuple[str, ...]:
        terms = ("l1", "mse", *(name for name in ("flicker", "detail", "perceptual") if getattr(self.loss, name)))
        return (*super().scores, *(f"val/{name}" for name in terms))

    def check(self) -> None:
        super().check()
        self.vae.validate()
        if self.others and self.vae != VAEConfig():
            raise ConfigError(f"start={self.start} brings its own shape, so nothing of vae is read: leave vae out")
        if self.loss.perceptual and not self.loss.perceptual_network:
            raise ConfigError(
                "loss.perceptual needs loss.perceptual_network: efficientnet (pip install 'vidiff[perceptual]'), or "
                "the folder of a network of two pictures, such as LPIPS as TorchScript beside its network.json"
            )
        if self.loss.flicker and not any(bucket.frames > 1 for bucket in self.data.plan()):
            raise ConfigError(
                f"loss.flicker is {self.loss.flicker}, but a single frame does not flicker: set data.frames, or leave "
                "it out"
            )
        if self.loss.adversarial and self.train.compile:
            raise ConfigError(
                "train.compile does not go with loss.adversarial, whose weight is made of gradients within the "
                "step: set one of them off"
            )
        self.check_shape(self.shape)

    def check_shape(self, shape: VAEConfig | diffusers.Facts) -> None:
        """Raises ConfigError for clips that an autoencoder, or a discriminator of what it makes, does not take."""
        check_lengths(self.data, shape)
        if self.loss.adversarial:
            least = 3 * 2**self.loss.discriminator_levels + (shape.factor if self.loss.shifted else 0)
            name, side = min(self.data.sides(), key=lambda pair: pair[1])
            if side < least:
                raise ConfigError(
                    f"{name} is {side}; a discriminator of {self.loss.discriminator_levels} levels needs {least}: "
                    "lower loss.discriminator_levels"
                )
        if self.loss.kl and not getattr(shape, "noisy", True):
            raise ConfigError(f"loss.kl is {self.loss.kl}, but latents of {self.start} have no noise: set loss.kl=0")
        for name, side in self.data.sides():
            if side % shape.factor:
                by = " (vae.patch and vae.multipliers)" if isinstance(shape, VAEConfig) else ""
                raise ConfigError(f"{name} is {side}; the autoencoder shrinks by {shape.factor}{by}: it must divide")


@dataclass
class LatentRun(RunConfig):
    """Training on latents, and the codec that it needs."""

    untrained: ClassVar[str] = ""  # what has no loss that trains a schedule, in words

    codec: CodecConfig = field(default_factory=CodecConfig)
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "cosine"})

    @property
    def network(self) -> UNetConfig | ClassifierConfig:
        """What is trained on the latents."""
        raise NotImplementedError

    @property
    def patch(self) -> int:
        """By which the network shrinks its input, besides what its levels do."""
        return 1

    @property
    def enlarges(self) -> int:
        """By which a super-resolution model enlarges clips; 0 for any other training."""
        return 0

    @property
    def crop(self) -> int:
        """Side in pixels of the squares of frames that a training sees; 0 for whole frames."""
        return 0

    def resolve(self, channels: int, labels: int, text: tuple[int, int] = (0, 0), actions: int = 0) -> None:
        """Fill in what of the network's shape follows from codec and data.

        Args:
            channels: of the codec's latents.
            labels: classes that the data has.
            text: width of a token, and size of the vocabulary where the network embeds words itself; else 0.
            actions: numbers by which the network is told what led to a frame; 0 for none.

        Raises:
            ConfigError: one of these was set to something else.
        """
        strided = self.data.stride[0] != self.data.stride[1]
        self.follow("channels", channels, f"latents of the codec have {channels}")
        self.follow("labels", labels, f"{self.data.root} has {labels} classes to learn")
        self.follow("strided", strided, f"data.stride={self.data.stride} decides")

    def follow(self, name: str, value: int, reason: str) -> None:
        """Set an option of the network that codec, data or another option decides. Raises ConfigError, for the reason,
        where it was set to something else: it would not be read."""
        given, usual = getattr(self.network, name), getattr(type(self.network)(), name)
        if given not in (usual, value):
            key = f"{'classifier' if self.kind == 'classifier' else 'unet'}.{name}"
            shown = str(given).lower()
            raise ConfigError(f"{key} is {shown}, but {reason}: leave it out, since it follows")
        setattr(self.network, name, value)

    def forget(self) -> None:
        """Take back what `resolve` has filled in, so that it may be filled in anew."""
        for name in FOLLOWING:
            if hasattr(self.network, name):
                setattr(self.network, name, getattr(type(self.network)(), name))

    def check(self) -> None:
        super().check()
        self.codec.check()
        schedule = build_schedule(self.schedule)
        if isinstance(schedule, Trained) and self.untrained:
            raise ConfigError(
                f"schedule is {self.schedule['name']}, but no loss of {self.untrained} trains it: choose another"
            )
        if isinstance(schedule, Adaptive) and not self.enlarges:
            raise ConfigError(
                "schedule is adaptive, but what it sees of a clip is its low resolution: set lowres.factor, or choose "
                "learned"
            )
        if (self.data.jitter and self.codec.name != "identity") or max(self.data.zoom) > 1:
            raise ConfigError(
                f"data.jitter is {self.data.jitter} and data.zoom {self.data.zoom}, but latents are encoded once, of "
                "frames as they are: leave both to the autoencoder's own config; with codec.name=identity, of pixels, "
                "data.jitter may be set"
            )
        if self.codec.name == "identity":
            self.check_size(1)

    def check_temporal(self, codec: OfClips) -> None:
        """Raises ConfigError unless the model can be trained on latents of several frames each, as this codec's are."""
        raise ConfigError(f"kind is {self.kind}, {self._which_goes_not(codec)} train a diffusion model")

    def _which_goes_not(self, codec: OfClips) -> str:
        if not isinstance(codec, VAEConfig):
            which = "codec.path" if self.codec.name == "diffusers" else "its autoencoder"
            return f"which does not go with {which}, whose latents hold {codec.temporal} frames each: take another, or"
        return f"which does not go with vae.temporal={codec.temporal}: set codec.override.vae.temporal=1, or"

    def check_size(self, factor: int) -> None:
        """Raises ConfigError unless the codec, which shrinks by `factor`, and the network can halve the frames."""
        levels = len(self.network.multipliers)
        needed = factor * self.patch * 2 ** (levels - 1)
        for name, side in [*self.data.sides(), ("lowres.crop", self.crop)]:
            if side % needed:
                patches = f", patches of the U-Net by {self.patch} (unet.patch)" if self.patch > 1 else ""
                raise ConfigError(
                    f"{name} is {side}; the codec shrinks by {factor}{patches} and {levels} levels of the network "
                    f"halve {levels - 1} times: give a multiple of {needed}"
                )


@dataclass
class DiffusionRun(LatentRun):
    """Training a diffusion model."""

    objectives: ClassVar[tuple[str, ...]] = ("denoising", "bound")

    conditional: bool = True  # whether the model learns the labels that the data has
    text: dict[str, Any] = field(default_factory=dict)  # {name: words}, or huggingface with its model; empty for none
    lowres: LowresConfig = field(default_factory=LowresConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)  # channels, labels, text, actions and strided follow
    prediction: str = "v"
    # a run whose weights (EMA) this one begins with, those of classes and words by name; what they lack begins anew
    start: str = ""
    objective: str = "denoising"  # or bound: the variational bound itself, which learned and adaptive schedules need
    loss: DiffusionLoss = field(default_factory=DiffusionLoss)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @property
    def network(self) -> UNetConfig:
        return self.unet

    @property
    def patch(self) -> int:
        return self.unet.patch

    @property
    def recomputed(self) -> list[int]:
        return list(self.unet.checkpoint)

    @property
    def recomputable(self) -> range:
        return range(len(self.unet.multipliers))

    @property
    def enlarges(self) -> int:
        return self.lowres.factor

    @property
    def crop(self) -> int:
        return self.lowres.crop

    @property
    def learns(self) -> tuple[str, ...]:
        return () if self.enlarges else ("actions", "control")

    def slots(self, temporal: int) -> int:
        """The most frames of a file by which a latent follows the one before: each brings an action of its own.

        Args:
            temporal: frames to a latent.
        """
        return temporal * int(self.data.stride[1])

    def resolve(self, channels: int, labels: int, text: tuple[int, int] = (0, 0), actions: int = 0) -> None:
        if not self.conditional:
            self.follow("labels", 0, "conditional=false learns none")
        super().resolve(channels, labels if self.conditional else 0)
        enlarged, beside = (channels if kind else 0 for kind in (self.enlarges, self.data.control))
        self.follow("lowres_channels", enlarged, f"lowres.factor={self.enlarges} and the codec make it {enlarged}")
        self.follow("control_channels", beside, f"data.control={self.data.control!r} and the codec make it {beside}")
        read = "text and the captions make it" if self.text else "without text it is"
        self.follow("text_dim", text[0], f"{read} {text[0]}")
        self.follow("words", text[1], f"{read} {text[1]}")
        told = f"data.actions={str(self.data.actions).lower()} and the actions of {self.data.root}"
        self.follow("actions", actions, f"{told} make it {actions}")

    def check(self) -> None:
        self.unet.validate()
        super().check()
        self.lowres.check(self.data.sides())
        if self.text:
            build_text(self.text)
        check_prediction(self.prediction, build_schedule(self.schedule))
        if self.unet.previous and not (self.prediction == "v" and build_schedule(self.schedule).preserves):
            raise ConfigError(
                "unet.previous=true says where v begins on a schedule that preserves variance, and this is prediction="
                f"{self.prediction} on {self.schedule}: set prediction=v and a schedule such as cosine"
            )
        if self.data.jitter and (self.lowres.factor or self.data.control):
            raise ConfigError(
                f"data.jitter is {self.data.jitter}, but the video beside each clip keeps its colours: leave it out"
            )
        if self.loss.spread and not self.unet.previous:
            raise ConfigError(
                f"loss.spread is {self.loss.spread}, but only frames that begin from known ones tell how much "
                "of them is new: leave it out, or set unet.previous=true"
            )
        if self.train.deterministic and self.unet.attention_backend == "xformers":
            raise ConfigError(
                "train.deterministic=true, but the backward pass of unet.attention_backend=xformers is not: leave it "
                "at auto"
            )
        if self.objective not in self.objectives:
            raise ConfigError(f"objective is {self.objective!r}; choose {' or '.join(self.objectives)}")
        if isinstance(build_schedule(self.schedule), Trained) and self.objective != "bound":
            raise ConfigError("a learned schedule needs objective=bound, since it would only make another loss easy")
        choose("loss.distance", self.loss.distance, DISTANCES)
        choose("loss.weighting", self.loss.weighting, WEIGHTINGS)
        choose("loss.times", self.loss.times, TIMES)
        for task in ("last", "ends"):
            if self.unet.causal and getattr(self.loss.tasks, task):
                raise ConfigError(
                    f"loss.tasks.{task} is {getattr(self.loss.tasks, task)}, but a model of unet.causal=true does not "
                    f"see known frames that come after those it makes: set loss.tasks.{task}=0"
                )
        build_sampler(self.sampling.sampler)
        strategy = build_strategy(self.sampling.strategy)
        try:
            strategy.check(self.unet.causal)
        except ValueError as error:
            raise ConfigError(f"sampling.{error}") from None
        for key in ("steps", "count"):
            if getattr(self.sampling, key) < 1:
                raise ConfigError(f"sampling.{key} is {getattr(self.sampling, key)}; give 1 or more")
        if self.sampling.lag < 0:
            raise ConfigError(f"sampling.lag is {self.sampling.lag}; give 0 or more steps")
        frames = self.data.plan()[0].frames
        if not 1 <= self.sampling.context < frames and frames > 1:
            less = "the first bucket's frames" if self.data.buckets else "data.frames"
            raise ConfigError(f"sampling.context is {self.sampling.context}; give 1 to {frames - 1}, less than {less}")

    def check_temporal(self, codec: OfClips) -> None:
        advice = self._which_goes_not(codec)
        if self.lowres.factor:
            raise ConfigError(f"lowres.factor is {self.lowres.factor}, {advice} lowres.factor=0")
        if self.data.stride != [1, 1]:
            raise ConfigError(f"data.stride is {self.data.stride}, {advice} data.stride=[1,1]")
        if self.sampling.strategy.get("name") == "keyframes":
            raise ConfigError(f"sampling.strategy is {self.sampling.strategy}, {advice} sampling.strategy.name=clean")
        try:
            check_lengths(self.data, codec)
            if self.data.plan()[0].frames > 1:
                codec.check_frames(self.sampling.context, "sampling.context")
        except ValueError as error:
            raise ConfigError(str(error)) from None


@dataclass
class ClassifierRun(LatentRun):
    """Training a classifier of noised clips, by whose gradient a diffusion model is guided."""

    untrained: ClassVar[str] = "a classifier"

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)  # channels, labels and strided follow
    loss: ClassifierLoss = field(default_factory=ClassifierLoss)
    scale: float = 1.0  # of its gradient, unless a call says otherwise

    @property
    def network(self) -> ClassifierConfig:
        return self.classifier

    def resolve(self, channels: int, labels: int, text: tuple[int, int] = (0, 0), actions: int = 0) -> None:
        super().resolve(channels, max(2, labels))  # its training refuses clips of fewer

    def check(self) -> None:
        self.classifier.validate()
        super().check()
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"scale is {self.scale}; give a positive number")
        if self.data.images:
            raise ConfigError(
                f"data.images is {self.data.images!r}, but a classifier is trained on clips: leave it out"
            )
        choose("loss.times", self.loss.times, TIMES)


@dataclass
class StudentRun(DiffusionRun):
    """Training a student of few steps: a copy of the model of the run `start`, its teacher."""

    objectives: ClassVar[tuple[str, ...]] = OBJECTIVES
    untrained: ClassVar[str] = "a student"

    objective: str = "consistency"  # or consistency_training, distribution_matching, guidance, progressive, reflow
    loss: StudentLoss = field(default_factory=StudentLoss)

    @property
    def draws(self) -> int:
        """Steps in which it learns to draw."""
        return self.loss.segments if self.objective.startswith("consistency") else self.sampling.steps

    @property
    def scores(self) -> tuple[str, ...]:
        if self.objective == "distribution_matching":
            return ("val/mismatch",)
        return (*super().scores, *(() if self.objective == "consistency_training" else ("val/gap",)))  # to a teacher

    @property
    def scales(self) -> tuple[float, float] | None:
        """The range of the scale of guidance that it is told; None for one that is not."""
        return (self.loss.guidance[0], self.loss.guidance[1]) if self.loss.told else None

    def resolve(self, channels: int, labels: int, text: tuple[int, int] = (0, 0), actions: int = 0) -> None:
        super().resolve(channels, labels, text, actions)
        self.follow("guided", self.loss.told, f"loss.guidance={self.loss.guidance} decides")

    def check(self) -> None:
        super().check()
        if not self.start:
            raise ConfigError("start is not set: name the finished run whose model the student begins as and learns of")
        if self.prediction == "x0" and self.objective.startswith("consistency"):
            raise ConfigError("prediction is x0, by which a consistency model says anything of clean clips: choose v")
        if self.unet.variance:
            raise ConfigError("unet.variance is true, but no loss of a student trains that head: leave it out")
        if self.objective == "consistency_training" and self.loss.told:
            raise ConfigError(
                f"loss.guidance is {self.loss.guidance}, but consistency_training learns of clips, which no guidance "
                "leads to: set loss.guidance=[1,1]"
            )
        if self.objective == "guidance" and not self.loss.told:
            raise ConfigError(
                f"loss.guidance is {self.loss.guidance}, which is none, but objective is guidance: give the least "
                "scale and the largest, such as loss.guidance=[1,4]"
            )
        continuous = self.objective == "consistency" and not self.loss.steps
        if self.objective == "distribution_matching" and self.train.keep_best == "val/loss":
            raise ConfigError(
                "train.keep_best is val/loss, but that of distribution_matching is not the student's: give val/mismatch"
            )
        name = self.sampling.sampler.get("name", "")
        if self.objective == "distribution_matching" and self.draws > 1 and name != "consistency":
            raise ConfigError(
                f"sampling.sampler.name is {name}, but a student of objective=distribution_matching is shown what it "
                "made before, noised anew: set sampling.sampler.name=consistency"
            )
        if self.objective not in ("consistency", "distribution_matching", "guidance") and not self.loss.steps:
            raise ConfigError(f"loss.steps is 0, but objective is {self.objective}: give as many as the teacher takes")
        if continuous and self.loss.segments > 1:
            raise ConfigError(
                f"loss.segments is {self.loss.segments}, but loss.steps=0 is for one: set loss.segments=1"
            )
        if continuous and self.loss.tasks.rising:
            raise ConfigError(
                f"loss.tasks.rising is {self.loss.tasks.rising}, but in continuous time (loss.steps=0) rising clocks "
                "drift apart: set loss.tasks.rising=0, and loss.tasks.clocks for frames at times of their own"
            )
        if continuous and self.train.compile:
            raise ConfigError(
                "train.compile does not go with loss.steps=0, since what is compiled is not differentiated forward: "
                "set train.compile=false"
            )
        if self.objective == "progressive" and self.loss.steps % self.sampling.steps:
            raise ConfigError(
                f"loss.steps is {self.loss.steps}, but the student draws by sampling.steps={self.sampling.steps}: give "
                f"a multiple, such as {2 * self.sampling.steps}"
            )
        if self.scales is not None:
            try:
                own = self.sampling
                own.check_told(self.scales, own.guidance, own.history, own.interval)
            except ValueError as error:
                raise ConfigError(f"sampling.{error}") from None


KINDS: dict[str, type[RunConfig]] = {
    "vae": VAERun,
    "diffusion": DiffusionRun,
    "classifier": ClassifierRun,
    "student": StudentRun,
}
