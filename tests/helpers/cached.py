"""Latent caches of small videos, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import torch
from indexes import clip_at
from torch import Tensor
from videos import smooth

from vidiff.data.index import Index
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video

LENGTHS = [7, 5, 9, 6]
ONE_FILE = 1  # bytes: every shard is full after its first file
BYTES = 2 * 4 * 2 / 4  # of a pixel: mean and std, 4 channels, float16, halved height and width


def encode(video: Tensor) -> tuple[Tensor, Tensor]:
    """A codec of 4 channels that halves height and width."""
    small = torch.nn.functional.avg_pool3d(video[0], (1, 2, 2))[None]
    mean = torch.cat([3 * small + 1, small[:, :1] * small[:, 1:2] - 2], 1)
    return mean, 0.1 + mean.abs() / 4


def certain(video: Tensor) -> tuple[Tensor, Tensor]:
    """The same without noise."""
    mean, _ = encode(video)
    return mean, torch.zeros_like(mean)


def never(video: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("encoded again")


def make_index(root: Path) -> Index:
    """Four videos of 20 x 24, of different lengths and brightness."""
    files = []
    for number, length in enumerate(LENGTHS):
        write_video(root / f"{number}.mp4", smooth(length, 20, 24) * (1 - number / 8))
        facts = {"frames": length, "fps": 8, "height": 20, "width": 24}
        files.append(clip_at(root / f"{number}.mp4", f"{number}.mp4", number % 2, **facts))
    return Index(str(root), files, ["a", "b"])


PLANS = ("sizes", "made_of", "of", "crops", "flips", "dtype", "shard_bytes")


def plan(index: Index, **options: object) -> Plan:
    """Frames of 16 x 16, unless options of a plan say otherwise."""
    return Plan(index, **{"sizes": [(16, 16)] * len(index.files), "made_of": {}, "per_pixel": BYTES, **options})  # type: ignore[arg-type]


def make(out: Path, index: Index, **options: object) -> Path:
    """A cache, by options of a plan and of `encode_latents`."""
    planned = plan(index, **{name: value for name, value in options.items() if name in PLANS})
    others = {name: value for name, value in options.items() if name not in PLANS}
    found = encode_latents(out, planned, **{"encode": encode, "progress": False, **others})  # type: ignore[arg-type]
    assert found is not None
    return found


def direct(index: Index, number: int, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Latents of a whole file, `(c, f, h, w)`: the shorter side becomes 16, then the middle is cut out."""
    video = read_video(index.files[number].place, size=(16, 19))[None, ..., 1:17]
    mean, std = encode(video.flip(-1) if mirrored else video)
    return mean[0].half().float(), std[0].half().float()


def contents(folder: Path) -> dict[str, bytes]:
    """All files, hidden ones as well."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
