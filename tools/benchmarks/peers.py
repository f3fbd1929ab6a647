"""Others' video U-Nets, built as their authors have them by default, for clips of 4 channels without a condition."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .networks import Side

DIM = 64


@contextmanager
def stand_ins(**modules: Any) -> Iterator[None]:
    """Inside, these modules stand for those of their names; `__` is a dot."""
    names = {name.replace("__", "."): module for name, module in modules.items()}
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(hidden)


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(content)
    return made


def video_diffusion() -> Any:
    """video-diffusion-pytorch. It imports torchvision to read GIFs, which nothing here does: a stand-in is enough."""
    transforms = types.SimpleNamespace(ToTensor=lambda: None)  # called once, for a default argument
    with stand_ins(torchvision=module("torchvision", utils=module("utils"), transforms=transforms)):
        return importlib.import_module("video_diffusion_pytorch.video_diffusion_pytorch")


def imagen_video() -> Any:
    """The file of imagen-pytorch's video U-Net. The package imports a trainer and T5, which the network does not use
    where no text is asked for: stand-ins have their names."""
    if "imagen_pytorch.imagen_video" in sys.modules:
        return sys.modules["imagen_pytorch.imagen_video"]
    found = importlib.util.find_spec("imagen_pytorch")
    if found is None:
        raise ModuleNotFoundError("No module named 'imagen_pytorch'", name="imagen_pytorch")
    package = module("imagen_pytorch", __path__=list(found.submodule_search_locations or ()))
    t5 = module("t5", t5_encode_text=None, DEFAULT_T5_NAME="t5", get_encoded_dim=lambda name: None)
    with stand_ins(imagen_pytorch=package, imagen_pytorch__t5=t5):
        return importlib.import_module("imagen_pytorch.imagen_video")


def of_video_diffusion(dim: int, multipliers: tuple[int, ...], channels: int = 4) -> Side:
    network = video_diffusion().Unet3D(dim=dim, dim_mults=multipliers, channels=channels)
    return Side("video-diffusion-pytorch", f"dim {dim}, {list(multipliers)}", network, lambda x: network(x, steps(x)))


def of_imagen(dim: int, multipliers: tuple[int, ...]) -> Side:
    without = {"cond_on_text": False, "text_embed_dim": None, "attn_pool_text": False}  # layers that text alone uses
    network = imagen_video().Unet3D(dim=dim, dim_mults=multipliers, channels=4, **without)
    predict: Callable[[Tensor], Tensor] = lambda x: network(x, torch.linspace(-4, 4, len(x)))  # noqa: E731
    return Side("imagen-pytorch", f"dim {dim}, {list(multipliers)}", network, predict)


def of_diffusers(dim: int, multipliers: tuple[int, ...]) -> Side:
    """With attention on all levels but the lowest, as by default, where it is in the middle; one token is its text."""
    from diffusers import UNet3DConditionModel

    down = ["CrossAttnDownBlock3D"] * (len(multipliers) - 1) + ["DownBlock3D"]
    network = UNet3DConditionModel(
        block_out_channels=tuple(dim * m for m in multipliers),
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        cross_attention_dim=dim,
        attention_head_dim=32,
    )

    def predict(x: Tensor) -> Tensor:
        return network(x, steps(x), torch.zeros(len(x), 1, dim)).sample

    return Side("diffusers", f"UNet3DConditionModel, {dim}, {list(multipliers)}", network, predict)


def steps(x: Tensor) -> Tensor:
    """Diffusion time of each clip, one of 1000 steps."""
    return torch.arange(len(x)) * (1000 // len(x))


PEERS: dict[str, Callable[[int, tuple[int, ...]], Side]] = {  # width, multipliers, one a level -> the network
    "video-diffusion-pytorch": of_video_diffusion,
    "imagen-pytorch": of_imagen,
    "diffusers": of_diffusers,
}
