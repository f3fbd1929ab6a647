"""Tars of clips, and latents of clips without a codec."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan

Parts = dict[str, bytes | str | tarfile.TarInfo]


def pack(path: Path, parts: Parts, form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of members by name; text is encoded, and a TarInfo is taken as it is, without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, content in parts.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content if isinstance(content, bytes) else b""
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def latents_of(index: Index, folder: Path, shard_bytes: int = 1 << 20) -> LatentCache:
    def encode(video: Tensor) -> tuple[Tensor, Tensor]:
        return video[..., ::8, ::8], torch.ones_like(video[..., ::8, ::8])

    plan = Plan(index, [(16, 16)] * len(index.files), made_of={}, shard_bytes=shard_bytes)
    made = encode_latents(folder, plan, encode, chunk=4, progress=False)
    assert made is not None
    return LatentCache(made)
