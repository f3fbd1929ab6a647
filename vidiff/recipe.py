"""What a training is described by, as checked dataclasses, and the parts that they build."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from vidiff.codec import Codec, Identity, VAECodec
from vidiff.data.index import LAYOUTS
from vidiff.data.shapes import ShapesSpec
from vidiff.diffusion.choice import choose
from vidiff.diffusion.denoise import Denoiser, check_prediction
from vidiff.diffusion.schedule import SCHEDULES, Schedule
from vidiff.engine.loop import TrainOptions
from vidiff.long import STRATEGIES, Strategy
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.objective.bound import BoundObjective
from vidiff.objective.diffusion import DISTANCES, DiffusionLoss, DiffusionObjective
from vidiff.objective.vae import VAELoss
from vidiff.objective.weighting import TIMES, WEIGHTINGS
from vidiff.sample import SAMPLERS, Sampler


class ConfigError(ValueError):
    """A config that cannot be used; the message says which value, what is expected, and where it stands."""


@dataclass
class DataConfig:
    """Which clips, and what a model sees of them."""

    root: str = MISSING  # folder of videos
    layout: str = "auto"  # or folders, ucf101, flat; shapes makes the shapes set in `root` if it is not there
    shapes: dict[str, int] = field(default_factory=dict)  # for layout shapes: options of the set, such as {size: 128}
    split: str = "train"
    test_split: str = "test"
    fold: int = 1  # of UCF-101's three train/test lists
    size: int = 64  # height and width in pixels, after resizing the shorter side and cropping
    frames: int = 16  # of a clip
    stride: list[int] = field(default_factory=lambda: [1, 1])  # least and most source frames per clip frame
    least_stride: float = 0.0  # part of the clips at the least stride, the others at any from least to most
    flip: bool = False  # mirror half of the clips; off where left and right mean something
    limit: int = 0  # use this many files of each split, evenly chosen; 0 for all
    max_broken: float = 0.05  # fraction of files that may be unreadable
    workers: int = 2  # processes that load clips


@dataclass
class CodecConfig:
    """The codec of a diffusion model."""

    name: str = "vae"  # or identity, to diffuse pixels
    config: str = ""  # for vae: the YAML that trains it, relative to this one
    override: dict[str, Any] = field(default_factory=dict)  # changes to that config
    own_data: bool = False  # train it on the data that its config names, and not on this model's


@dataclass
class SamplingConfig:
    """How clips are drawn, unless a call says otherwise."""

    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "dpmpp_2m"})
    steps: int = 30
    guidance: float = 1.5  # 1 is the plain model
    history: float | None = None  # where frames are known: scale on them and the label at once, in place of guidance
    context: int = 8  # frames that an extension looks back on
    lag: int = 0  # steps by which each new frame follows the one before; 0 draws all of a window at once
    strategy: dict[str, Any] = field(default_factory=lambda: {"name": "clean"})  # how more than a window is drawn
    count: int = 12  # clips in the grids drawn while training


@dataclass
class RunConfig:
    """What every training has."""

    kind: str = MISSING  # vae or diffusion
    name: str = MISSING  # the run's folder is runs/<name>
    runs: str = "runs"
    device: str = "auto"  # or cpu, cuda, cuda:1
    batch: int = 16  # clips a step, over all processes
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    def check(self) -> None:
        """Raises ConfigError for values that do not go together."""
        data = self.data
        if data.layout not in LAYOUTS:
            raise ConfigError(f"data.layout is {data.layout!r}; choose {', '.join(LAYOUTS)}")
        for key, value in {"batch": self.batch, "data.frames": data.frames, "data.size": data.size}.items():
            if value < 1:
                raise ConfigError(f"{key} is {value}; give 1 or more")
        if self.batch % self.train.accumulate:
            raise ConfigError(
                f"batch is {self.batch}; it must divide into train.accumulate={self.train.accumulate} parts"
            )
        if len(data.stride) != 2 or not 1 <= data.stride[0] <= data.stride[1]:
            raise ConfigError(f"data.stride is {data.stride}; give the least and the most, such as [1, 4]")
        for key in ("workers", "limit"):
            if getattr(data, key) < 0:
                raise ConfigError(f"data.{key} is {getattr(data, key)}; give 0 or more")
        try:
            ShapesSpec(**data.shapes)
        except TypeError:
            raise ConfigError(f"data.shapes is {data.shapes}; its keys are {', '.join(asdict(ShapesSpec()))}") from None
        for key in ("max_broken", "least_stride"):
            if not 0 <= getattr(data, key) <= 1:
                raise ConfigError(f"data.{key} is {getattr(data, key)}; give a fraction from 0 to 1")


@dataclass
class VAERun(RunConfig):
    """Training an autoencoder."""

    vae: VAEConfig = field(default_factory=VAEConfig)
    loss: VAELoss = field(default_factory=VAELoss)

    def check(self) -> None:
        super().check()
        self.vae.validate()
        if self.data.size % self.vae.factor:
            raise ConfigError(
                f"data.size is {self.data.size}; the autoencoder shrinks by {self.vae.factor}: it must divide"
            )


@dataclass
class DiffusionRun(RunConfig):
    """Training a diffusion model, and the codec and latents that it needs."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    conditional: bool = True  # whether the model learns the labels that the data has
    unet: UNetConfig = field(default_factory=UNetConfig)  # channels, labels and strided follow from codec and data
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    prediction: str = "v"
    start: str = ""  # a run whose weights (EMA) this one begins with; what they lack begins anew
    objective: str = "denoising"  # or bound: the variational bound itself, which a learned schedule needs
    loss: DiffusionLoss = field(default_factory=DiffusionLoss)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def check(self) -> None:
        super().check()
        if self.codec.name not in ("vae", "identity"):
            raise ConfigError(f"codec.name is {self.codec.name!r}; choose vae or identity")
        if self.codec.name == "vae" and not self.codec.config:
            raise ConfigError(
                "codec.config is missing: name the YAML that trains the autoencoder, or set codec.name=identity"
            )
        self.unet.validate()
        check_prediction(self.prediction, build_schedule(self))
        if self.objective not in ("denoising", "bound"):
            raise ConfigError(f"objective is {self.objective!r}; choose denoising or bound")
        if self.schedule.get("name") == "learned" and self.objective != "bound":
            raise ConfigError("a learned schedule needs objective=bound, since it would only make another loss easy")
        choose("loss.distance", self.loss.distance, DISTANCES)
        choose("loss.weighting", self.loss.weighting, WEIGHTINGS)
        choose("loss.times", self.loss.times, TIMES)
        if not 0 <= self.loss.drop <= 1:
            raise ConfigError(f"loss.drop is {self.loss.drop}; give a probability from 0 to 1")
        build_sampler(self.sampling.sampler)
        build_strategy(self.sampling.strategy)
        for key in ("steps", "count"):
            if getattr(self.sampling, key) < 1:
                raise ConfigError(f"sampling.{key} is {getattr(self.sampling, key)}; give 1 or more")
        if self.sampling.lag < 0:
            raise ConfigError(f"sampling.lag is {self.sampling.lag}; give 0 or more steps")
        if not 1 <= self.sampling.context < self.data.frames and self.data.frames > 1:
            raise ConfigError(
                f"sampling.context is {self.sampling.context}; give 1 to {self.data.frames - 1}, less than data.frames"
            )
        if self.codec.name == "identity":
            self.check_size(1)

    def check_size(self, factor: int) -> None:
        """Raises ConfigError unless the codec, which shrinks by `factor`, and the U-Net can halve the frames."""
        size, levels = self.data.size, len(self.unet.multipliers)
        needed = factor * 2 ** (levels - 1)
        if size % needed:
            raise ConfigError(
                f"data.size is {size}; the codec shrinks by {factor} and {levels} levels of the U-Net halve "
                f"{levels - 1} times: give a multiple of {needed}"
            )


KINDS: dict[str, type[RunConfig]] = {"vae": VAERun, "diffusion": DiffusionRun}


def build_part(key: str, choices: Any, slot: dict[str, Any]) -> Any:
    """Build what a slot `{name: ..., option: ...}` describes. Raises ConfigError for an unknown name or option."""
    options = dict(slot)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{key} needs a name; choose {', '.join(choices)}")
    try:
        return choose(key, name, choices)(**options)
    except TypeError as error:
        raise ConfigError(f"{key}: {name} does not take these options ({error})") from None


def build_schedule(config: DiffusionRun) -> Schedule:
    return build_part("schedule", SCHEDULES, config.schedule)


def build_sampler(slot: dict[str, Any]) -> Sampler:
    return build_part("sampling.sampler", SAMPLERS, slot)


def build_strategy(slot: str | dict[str, Any]) -> Strategy:
    """A strategy from its slot, its name alone, or its slot as text: "{name: noisy, level: 0.02}"."""
    if isinstance(slot, str):
        slot = read_slot("sampling.strategy", slot)
    return build_part("sampling.strategy", STRATEGIES, slot)


def read_slot(key: str, text: str) -> dict[str, Any]:
    """A slot from a command line: a name, or YAML such as "{name: ..., option: ...}". Raises ConfigError."""
    if not text.lstrip().startswith("{"):
        return {"name": text}
    try:
        return dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key} is {text}; give a name, or {{name: ..., option: ...}} ({reason})") from None


def build_codec(vae: VAEConfig | None) -> Codec:
    """The codec, untrained; `vae` is its shape where it is an autoencoder."""
    return Identity() if vae is None else VAECodec(vae)


def build_denoiser(config: DiffusionRun) -> Denoiser:
    """The denoiser, untrained."""
    return Denoiser(UNet(config.unet), build_schedule(config), config.prediction, config.unet.variance)


def build_objective(config: DiffusionRun) -> DiffusionObjective | BoundObjective:
    """The denoiser, untrained, and what it is trained for."""
    denoiser = build_denoiser(config)
    return BoundObjective(denoiser) if config.objective == "bound" else DiffusionObjective(denoiser, config.loss)
