"""Feature networks from local files: what each sees, and what its numbers are called.

A network is a folder with network.json and the file that it names: TorchScript, or safetensors of an architecture that
vidiff has. Nothing is downloaded. The JSON declares all preprocessing, since numbers compare only where it is the same:

    {"name": "i3d", "file": "i3d_torchscript.pt", "size": [224, 224], "resize": "bilinear", "range": [-1, 1],
     "layout": "bcfhw", "frames": [10, null], "arguments": {"rescale": false, "resize": false, "return_features": true}}

One network needs no folder: "efficientnet" is EfficientNet-Lite0, from its package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vidiff.metrics.efficientnet import FILE, NAME, EfficientNetLite0, load_efficientnet, package_file
from vidiff.metrics.motion_network import MotionNetwork
from vidiff.metrics.transnet import build_transnet
from vidiff.pixels import check_video
from vidiff.store.files import sha256
from vidiff.store.plain import parse_json

I3D = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
"""SHA-256 of i3d_torchscript.pt, the I3D of Kinetics-400 that FVD is commonly computed with, as StyleGAN-V ships it."""

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "motion": MotionNetwork,
    "transnetv2": build_transnet,
    NAME: EfficientNetLite0,
}
"""What may stand in a declaration as `architecture`, to be built with its `arguments`."""

RESIZES = ("none", "nearest", "bilinear", "bicubic", "area")
LAYOUTS = ("bcfhw", "bfchw", "bfhwc", "bchw")
DTYPES = ("float32", "uint8")
DECLARATION = "network.json"


@dataclass(frozen=True)
class Declaration:
    """The content of network.json: which file a network is, and how clips are made ready for it.

    Args:
        name: what scores are named after.
        file: the weights, beside the declaration.
        architecture: of safetensors; None for TorchScript.
        size: (h, w) in pixels that the network wants; None takes any. The whole frame is resized, not cropped.
        resize: how; bilinear and bicubic with antialiasing.
        range: what -1 and 1 become.
        mean, std: of the channels, taken off and divided by after that.
        dtype: "uint8" rounds; it goes with a range within 0 to 255, and with no mean and std.
        frames: least and most that the network takes, None for no bound.
        layout: order of the axes; "bchw" sees frames one by one, and a clip's feature is their mean.
        arguments: passed on to TorchScript with the clip, or to the architecture as it is built.
        sha256: of the file, where a certain one is meant.
    """

    name: str
    file: str
    architecture: str | None = None
    size: tuple[int, int] | None = None
    resize: str = "bilinear"
    range: tuple[float, float] = (-1.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    frames: tuple[int | None, int | None] = (1, None)
    layout: str = "bcfhw"
    arguments: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("resize", RESIZES), ("layout", LAYOUTS), ("dtype", DTYPES)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; choose {', '.join(allowed)}")
        if self.architecture is not None and self.architecture not in ARCHITECTURES:
            raise ValueError(f"no architecture {self.architecture!r}; vidiff has {', '.join(ARCHITECTURES)}")
        for name, lengths in (("size", (2,)), ("range", (2,)), ("frames", (2,)), ("mean", (1, 3)), ("std", (1, 3))):
            value = getattr(self, name)
            if value is None and name == "size":
                continue
            if not isinstance(value, list | tuple) or len(value) not in lengths:
                raise ValueError(f"{name} is {value!r}; give a list of {' or '.join(map(str, lengths))}")
        if self.resize == "none" and self.size is not None:
            raise ValueError('resize is "none", but a size is declared: name how, or leave out the size')
        if not all(self.std) or self.range[0] == self.range[1]:
            raise ValueError(f"std is {self.std} and range {self.range}; the network would see one colour")
        if self.dtype == "uint8":
            if not all(0 <= value <= 255 for value in self.range):
                raise ValueError(f"range is {self.range}, but dtype uint8 holds 0 to 255: declare such as [0, 255]")
            if any(self.mean) or any(value != 1 for value in self.std):
                raise ValueError(
                    f"mean is {self.mean} and std {self.std}, which dtype uint8 leaves no room for: leave them out, or "
                    "declare dtype float32"
                )


EFFICIENTNET = Declaration(
    name=NAME,
    file=FILE,
    architecture=NAME,
    size=(224, 224),
    range=(0.0, 255.0),
    mean=(127.0,),
    std=(128.0,),
    layout="bchw",
)
"""How EfficientNet-Lite0 was trained to see pictures: the whole frame in 224x224 pixels, (0 to 255 less 127) / 128."""


class Features:
    """A feature network, ready to use.

    Attributes:
        declaration: as read.
        sha256: of the file that holds its weights.
    """

    def __init__(self, module: nn.Module, declaration: Declaration, sha256: str, device: torch.device) -> None:
        self.module = module.eval().to(device)
        self.declaration, self.sha256, self.device = declaration, sha256, device

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Features:
        """A network from its folder, or from the path of its network.json; "efficientnet" from its package.

        The hash is checked before the file is opened. TorchScript is a program: open only what you trust.

        Raises:
            ValueError: no such folder or package, a declaration that does not hold, or a file that is missing, damaged,
                or not the one that is declared.
        """
        folder = Path(folder)
        if str(folder) == NAME and not folder.is_dir():
            file = package_file()
            return cls(load_efficientnet(file), EFFICIENTNET, sha256(file), torch.device(device))
        path = folder if folder.suffix == ".json" else folder / DECLARATION
        declaration = read_declaration(path)
        file = path.parent / declaration.file
        if not file.is_file():
            raise ValueError(f"{path} names {declaration.file}, which is not beside it: put it there")
        digest = sha256(file)
        if declaration.sha256 not in (None, digest):
            raise ValueError(f"{file} has SHA-256 {digest}, but {declaration.sha256} is declared: it is another file")
        if declaration.name == "i3d" and digest != I3D:
            raise ValueError(
                f"{file} is not the I3D that FVD is named after (SHA-256 {I3D}, found {digest}): "
                'give it a name other than "i3d", so that its numbers are not taken for FVD'
            )
        try:
            if declaration.architecture is None:
                module = torch.jit.load(str(file), map_location="cpu")
            else:
                module = ARCHITECTURES[declaration.architecture](**declaration.arguments)
                module.load_state_dict(load_file(file))
        except (RuntimeError, SafetensorError, TypeError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = " ".join(dict.fromkeys((lines[0], lines[-1].strip())))
            raise ValueError(f"{file} cannot be loaded as {path.name} declares it: {reason}") from None
        return cls(module, declaration, digest, torch.device(device))

    def to(self, device: torch.device) -> Features:
        """Moves the network to a device, and returns itself."""
        self.module.to(device)
        self.device = device
        return self

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Of pairs of pictures, `(n, 3, h, w)` twice to `(n,)`, where it is an architecture that tells one."""
        return getattr(self.module, "distance", None) if self.declaration.architecture else None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All of the declaration that numbers depend on, the weights apart, as JSON reads it back."""
        declared = {k: v for k, v in asdict(self.declaration).items() if k not in ("name", "file", "sha256")}
        return json.loads(json.dumps(declared))

    def called(self, score: str) -> str:
        """The full name of a score, as "kernel_video[motion]". The Fréchet distance of I3D alone is called FVD."""
        if score == "frechet" and self.sha256 == I3D:
            return "FVD"
        kind = "frame" if self.declaration.layout == "bchw" else "video"
        return f"{score}_{kind}[{self.name}]"

    @torch.no_grad()
    def __call__(self, video: Tensor) -> Tensor:
        """Features `(b, d)` float32 on the CPU of clips `(b, 3, f, h, w)` in [-1, 1].

        Raises:
            ValueError: clips of another shape or of too few or too many frames; a network that returns anything else.
        """
        return self._run(video, self.module)

    @torch.no_grad()
    def logits(self, video: Tensor) -> Tensor | None:
        """Class logits `(b, k)` of clips, for the Inception score; None for a network that tells none."""
        head = getattr(self.module, "logits", None)
        if head is None or self.declaration.arguments.get("labels") == 0:
            return None
        return self._run(video, head)

    def _run(self, video: Tensor, call: Callable[..., Any]) -> Tensor:
        declared = self.declaration
        x = self.prepare(video).to(self.device)
        arguments = {} if declared.architecture else declared.arguments
        output = call(x, **arguments)
        if not isinstance(output, Tensor) or len(output) != len(x):
            returned = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"network {self.name} returned {returned}; expected one tensor with {len(x)} rows")
        output = output.float().flatten(1).cpu()
        return output.unflatten(0, (len(video), -1)).mean(1) if declared.layout == "bchw" else output

    def check_frames(self, frames: int) -> None:
        """Raises ValueError for clips of so many frames, where the network takes none such."""
        least, most = self.declaration.frames
        if not (least or 1) <= frames <= (most or frames):
            wanted = f"{least or 1} or more" if most is None else f"{least or 1} to {most}"
            raise ValueError(f"clips have {frames} frames, network {self.name} takes {wanted}: change --frames")

    def prepare(self, video: Tensor, resized: bool = True) -> Tensor:
        """Clips `(b, 3, f, h, w)` in [-1, 1] as the network is declared to want them; not `resized`, of any size."""
        declared = self.declaration
        check_video(video, "video", one=False)
        if not video.numel():
            raise ValueError(f"video is {tuple(video.shape)}; expected a clip or more, of a frame or more")
        self.check_frames(video.shape[2])
        frames = rearrange(video.float(), "b c f h w -> (b f) c h w")
        if resized and declared.size is not None and tuple(frames.shape[2:]) != tuple(declared.size):
            smooth = declared.resize in ("bilinear", "bicubic")
            frames = F.interpolate(frames, tuple(declared.size), mode=declared.resize, antialias=smooth)
        low, high = declared.range
        frames = frames.clamp(-1, 1) * ((high - low) / 2) + (high + low) / 2
        if declared.dtype == "uint8":
            frames = frames.round().to(torch.uint8)
        else:
            mean, std = torch.tensor(declared.mean).to(frames), torch.tensor(declared.std).to(frames)
            frames = (frames - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        if declared.layout == "bchw":
            return frames
        return rearrange(frames, f"(b f) c h w -> {' '.join(declared.layout)}", b=len(video)).contiguous()


def read_declaration(path: Path) -> Declaration:
    """Raises ValueError, naming the file, where it does not hold."""
    if not path.is_file():
        raise ValueError(
            f"no {path}: give efficientnet, which needs none, or a folder with {DECLARATION} and a network's weights"
        )
    try:
        content = parse_json(path.read_bytes())
        unknown = sorted(set(content) - {f.name for f in fields(Declaration)})
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not known")
        return Declaration(**content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
