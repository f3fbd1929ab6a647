"""A codec's folder, as a run keeps it: its shape, its weights and its statistics; and whether two codecs are one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidiff.codec.codec import TILE, Codec, Identity, VAECodec
from vidiff.codec.diffusers import DiffusersCodec, read
from vidiff.nn.vae import VAEConfig
from vidiff.store.files import put, write_whole
from vidiff.store.plain import read_json


def save_codec(folder: Path, codec: Codec) -> None:
    """Put a codec, its statistics included, into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:  # so that a file is whole, or is not there
        facts: dict[str, Any] | None = None
        if isinstance(codec, DiffusersCodec):
            codec.network.save_pretrained(scratch)
            config = read_json(Path(scratch) / "config.json")
            config.pop("_name_or_path", None)  # where it was read from, which is nobody's business
            (Path(scratch) / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            facts = {"name": "diffusers"}
        else:
            state = {key: value.contiguous().cpu() for key, value in codec.state_dict().items()}
            save_file(state, Path(scratch) / "codec.safetensors")
            facts = vars(codec.network.config) if isinstance(codec, VAECodec) else None
        for path in sorted(Path(scratch).iterdir()):
            put(path, folder / path.name)
    write_whole(folder / "codec.json", json.dumps(facts))


def load_codec(folder: Path, tile: int = TILE) -> Codec:
    """The codec of a run, for tiles of `tile` pixels. Raises ValueError if it is not there, or damaged."""
    if not (folder / "codec.json").is_file():
        raise ValueError(f"{folder} holds no codec: the run stopped before its latents were cached; start it again")
    facts = read_json(folder / "codec.json")
    advice = "remove that folder, and start the training again, which writes it anew"
    if isinstance(facts, dict) and facts.get("name") == "diffusers":
        try:
            return DiffusersCodec(read(folder), tile)
        except ValueError as error:
            raise ValueError(f"{folder} is damaged: {advice} ({error})") from None
    try:
        codec = Identity() if facts is None else VAECodec(VAEConfig(**facts), tile)
    except TypeError as error:
        raise ValueError(f"{folder / 'codec.json'} does not tell of an autoencoder's shape ({error})") from None
    path = folder / "codec.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}): {advice}") from None
    load_into(codec, state, path)
    return codec.eval().requires_grad_(False)


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that were read from `path`. Raises ValueError if they are of another model."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the run's resolved.yaml: {reason}") from None


def same_codec(one: Codec, other: Codec, statistics: bool = False) -> bool:
    """Whether two codecs have the same weights.

    Args:
        statistics: whether those of their latents must be the same as well. They follow the data of a training.
    """
    mine, its = (
        {key: value.cpu() for key, value in codec.state_dict().items() if statistics or key.startswith("network.")}
        for codec in (one, other)
    )
    return mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
