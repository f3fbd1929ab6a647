"""A trained run, ready to use."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidiff import edit
from vidiff.codec import Codec
from vidiff.config import (
    ConfigError,
    DiffusionRun,
    SamplingConfig,
    build_codec,
    build_denoiser,
    build_sampler,
    load,
)
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_weights, newest
from vidiff.engine.log import device_name
from vidiff.engine.parallel import choose_device
from vidiff.engine.precision import DTYPES, Precision, gpu_precision
from vidiff.nn.vae import VAEConfig


class Pipeline:
    """Generates and extends clips with a trained model.

    Attributes:
        frames: of a window, that is, of the clips that the model was trained on.
        size: height and width in pixels.
        labels: names of the classes; empty for a model without.
        fps: frames a second of the clips that it was trained on, at their least stride.
        stride: that stride, where the model is told of it; else None.
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
    ) -> None:
        self.device = choose_device(device)
        self.denoiser, self.codec = denoiser.to(self.device), codec.to(self.device)
        self.frames, self.size, self.labels, self.fps = frames, size, tuple(labels), fps
        self.sampling, self.stride = sampling or SamplingConfig(), stride
        self.precision = precision

    @classmethod
    def from_pretrained(cls, run: str | Path, device: str | torch.device = "auto", weights: str = "ema") -> Pipeline:
        """Load a run's folder, which holds all that is needed.

        Args:
            run: such as "runs/ucf".
            device: "auto", "cpu", "cuda", ...
            weights: "ema", or "model" for those that the optimizer left.

        Raises:
            ValueError: if the folder is no trained run, or a file in it is damaged.
        """
        run = Path(run)
        config = read_config(run)
        checkpoint = newest(run / "checkpoints") if (run / "data.json").is_file() else None
        if checkpoint is None:
            raise ValueError(
                f"{run} has no checkpoint yet: let `python -m vidiff.train` reach its first, or train it on"
            )
        facts = json.loads((run / "data.json").read_text())
        denoiser = build_denoiser(config)
        state = load_weights(checkpoint, weights)
        denoiser.eval().requires_grad_(False)
        own = "denoiser."  # an objective may have weights besides
        fill(denoiser, {key.removeprefix(own): state[key] for key in state if key.startswith(own)}, checkpoint)
        return cls(
            denoiser,
            load_codec(run / "codec"),
            config.data.frames,
            config.data.size,
            facts["labels"] if config.unet.labels else (),
            facts["fps"],
            config.sampling,
            device,
            config.data.stride[0] if config.unet.strided else None,
            trained_precision(run, choose_device(device)),
        )

    def generate(
        self,
        frames: int | None = None,
        label: str | int | Sequence[str | int] | None = None,
        count: int = 1,
        **options: Any,
    ) -> Tensor:
        """Draw clips.

        Args:
            frames: how many; by default as many as the model was trained on. More are made by extension.
            label: one for all clips, or one for each; by default none is asked for.
            count: how many clips.
            options: `guidance`, `steps`, `sampler`, `seed`, `context`, `history`, `lag`, `progress`, as for `stream`.

        Returns:
            `(count, 3, frames, height, width)` in [-1, 1].

        Raises:
            ValueError: for an unknown label (the nearest are named) or an option out of range.
        """
        return torch.cat(list(self.stream(frames, label, count, **options)), dim=2)

    def extend(
        self, clip: Tensor, frames: int, label: str | int | Sequence[str | int] | None = None, **options: Any
    ) -> Tensor:
        """Continue a clip.

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)` in [-1, 1], of the model's size.
            frames: of the result, the given ones included.
            label: what the clip shows, where that is known.
            options: as for `stream`.

        Returns:
            `(b, 3, frames, h, w)` in [-1, 1]; the first f frames are those given, bit for bit.

        Raises:
            ValueError: for a clip of another size, or as long as the result; as for `generate`.
        """
        clip = clip[None] if clip.ndim == 4 else clip
        new = [part.to(clip) for part in self.stream(frames, label, clip=clip, **options)]
        return torch.cat([clip, *new], dim=2)

    @torch.no_grad()
    def stream(
        self,
        frames: int | None = None,
        label: str | int | Sequence[str | int] | None = None,
        count: int = 1,
        *,
        clip: Tensor | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | dict[str, Any] | None = None,
        seed: int = 0,
        context: int | None = None,
        lag: int | None = None,
        history: float | None = None,
        progress: bool = False,
    ) -> Iterator[Tensor]:
        """`generate` and `extend` piece by piece, in memory that does not grow with `frames`.

        Args:
            clip: to be continued, `(b, 3, f, h, w)`; its frames count in `frames` and are not yielded.
            guidance: scale of classifier-free guidance; 1 is the plain model.
            steps: of the sampler.
            sampler: a name such as "ddim", or a name with options: `{"name": "ddim", "eta": 1.0}`.
            seed: of all noise; the same seed gives the same clip.
            context: frames on which each further window looks back.
            history: scale of guidance on the frames that are continued and the label at once, which takes the place of
                `guidance` there; by default the run's own, unless `guidance` is given.
            lag: steps by which each new frame follows the one before; 0 draws all of a window at once.

        Yields:
            `(b, 3, n, h, w)` in [-1, 1].
        """
        context = self.sampling.context if context is None else context
        if self.frames > 1 and not 1 <= context < self.frames:
            raise ValueError(
                f"context is {context}; give 1 to {self.frames - 1}: the model sees {self.frames} frames at once"
            )
        if self.frames == 1 and (clip is not None or (frames or 1) > 1):
            raise ValueError("this model was trained on single frames, so it cannot continue a clip: ask for frames=1")
        steps = self.sampling.steps if steps is None else steps
        lag = self.sampling.lag if lag is None else lag
        if history is None and guidance is None:  # a guidance that is asked for is not to be replaced
            history = self.sampling.history
        if lag < 0:
            raise ValueError(f"lag is {lag}; give 0 or more steps")
        slot = {"name": sampler} if isinstance(sampler, str) else sampler or self.sampling.sampler
        draw = edit.Draw(
            self.denoiser,
            build_sampler(slot),
            steps,
            self.sampling.guidance if guidance is None else guidance,
            self.frames,
            torch.Generator().manual_seed(seed),
            progress,
            lag,
            history,
            DTYPES[self.precision],
        )
        if clip is None:
            frames = self.frames if frames is None else frames
            if frames < 1 or count < 1:
                raise ValueError(f"frames is {frames} and count is {count}; give 1 or more of both")
            condition = self.condition(label, count)
            size = (self.size, self.size)
            yield from edit.generate(draw, self.codec, frames, size, context, condition, count)
            return
        if clip.ndim != 5 or clip.shape[1:2] + clip.shape[3:] != (3, self.size, self.size) or not clip.numel():
            raise ValueError(
                f"the clip is {tuple(clip.shape)}; expected (b, 3, f, {self.size}, {self.size}): "
                "resize it to the model's size"
            )
        if not clip.is_floating_point():
            raise ValueError(f"the clip is of {clip.dtype}; expected floating point in [-1, 1]")
        if frames is None or frames <= clip.shape[2]:
            raise ValueError(f"frames is {frames}, the clip has {clip.shape[2]} already: ask for more, all told")
        condition = self.condition(label, len(clip))
        new = frames - clip.shape[2]
        yield from edit.extend(draw, self.codec, clip.to(self.device, torch.float32), new, context, condition)

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """What the codec makes of `(b, 3, f, h, w)`: the best that any model on its latents can look like."""
        return self.codec.decode(self.codec.encode(video.to(self.device)).mean).to(video)

    def settings(self, **given: Any) -> dict[str, Any]:
        """How clips are drawn, each option as given or else by the run's default; to be kept beside the clips."""
        default = {**asdict(self.sampling), "seed": 0}
        default.pop("count")
        if given.get("guidance") is not None:
            default["history"] = None  # as in `stream`
        return default | {key: value for key, value in given.items() if value is not None}

    def condition(self, label: str | int | Sequence[str | int] | None, count: int) -> Condition:
        """What the model is told of `count` clips. Raises ValueError as `label_tensor`."""
        stride = None if self.stride is None else torch.full((count,), self.stride)
        return Condition(label=self.label_tensor(label, count), stride=stride).to(self.device)

    def label_tensor(self, label: str | int | Sequence[str | int] | None, count: int) -> Tensor | None:
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


def read_config(run: Path) -> DiffusionRun:
    """The resolved config of a run. Raises ValueError if the folder is no diffusion run."""
    path = run / "resolved.yaml"
    if not path.is_file():
        raise ValueError(
            f"{run} is not a trained run (it has no resolved.yaml); train one with `python -m vidiff.train CONFIG`"
        )
    config = load(path)
    if not isinstance(config, DiffusionRun):
        raise ConfigError(f"{run} is a run of kind {config.kind}; a pipeline needs one of kind diffusion")
    return config


def trained_precision(run: Path, device: torch.device) -> Precision:
    """That of the training, where it ran on hardware as here; else bf16 or fp16 on a GPU and fp32 on a CPU."""
    try:
        record = json.loads((run / "environment.json").read_text())
        if record["device"] == device_name(device):
            return record["precision"]
    except (OSError, ValueError, LookupError):  # a run that was copied without it, or of another version
        pass
    return gpu_precision() if device.type == "cuda" else "fp32"


def latest_run(runs: str | Path = "runs") -> Path:
    """The diffusion run that was trained last. Raises ValueError, saying what to do, if there is none."""
    found = []
    for path in Path(runs).glob("*/checkpoints/latest"):
        run = path.parents[1]
        if (run / "data.json").is_file() and (run / "resolved.yaml").is_file():
            found.append((path.stat().st_mtime, run))
    if not found:
        raise ValueError(
            f"no trained run in {runs}/: train one first, for instance python -m vidiff.train configs/shapes.yaml"
        )
    return max(found)[1]


def save_codec(folder: Path, codec: Codec, shape: VAEConfig | None) -> None:
    """Put a codec, its statistics included, into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "codec.json").write_text(json.dumps(None if shape is None else vars(shape)))
    save_file(
        {key: value.contiguous().cpu() for key, value in codec.state_dict().items()},
        folder / "codec.safetensors",
    )


def load_codec(folder: Path) -> Codec:
    """The codec of a run. Raises ValueError if it is not there, or damaged."""
    path = folder / "codec.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} holds no codec: the run stopped before its latents were cached; start it again")
    shape = json.loads((folder / "codec.json").read_text())
    codec = build_codec(None if shape is None else VAEConfig(**shape))
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): start the training again, which writes it anew") from None
    fill(codec, state, path)
    return codec.eval().requires_grad_(False)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights that were read from `path`. Raises ValueError if they are of another model."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the run's resolved.yaml: {reason}") from None
