"""A trained run's folder: what is read from it, and what the codec's part of it holds."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidiff.codec.codec import TILE, Codec, Identity, VAECodec
from vidiff.codec.diffusers import DiffusersCodec, read
from vidiff.engine.checkpoint import load_weights
from vidiff.engine.log import device_name
from vidiff.engine.precision import Precision, gpu_precision
from vidiff.nn.vae import VAEConfig
from vidiff.recipe.kinds import KINDS, ConfigError, DiffusionRun, RunConfig
from vidiff.recipe.load import load
from vidiff.store.files import put, write_whole
from vidiff.store.plain import read_json

Kind = TypeVar("Kind", bound=RunConfig)


def read_config(run: Path) -> DiffusionRun:
    """The resolved config of a diffusion run. Raises ValueError if the folder is none."""
    return read_run(run, DiffusionRun)


def read_run(run: Path, kind: type[Kind]) -> Kind:
    """The resolved config of a run of the kind that is wanted. Raises ValueError if the folder is none."""
    path = run / "resolved.yaml"
    if not path.is_file():
        raise ValueError(
            f"{run} is not a trained run (it has no resolved.yaml); train one with `python -m vidiff.train CONFIG`"
        )
    config = load(path)
    if not isinstance(config, kind):
        wanted = next(name for name, each in KINDS.items() if each is kind)
        raise ConfigError(f"{run} is a run of kind {config.kind}; one of kind {wanted} is needed")
    return config


def trained_precision(run: Path, device: torch.device) -> Precision:
    """That of the training, where it ran on hardware as here; else bf16 or fp16 on a GPU and fp32 on a CPU."""
    try:
        record = read_json(run / "environment.json")
        if record["device"] == device_name(device):
            return record["precision"]
    except (OSError, ValueError, LookupError):  # a run that was copied without it, or of another version
        pass
    return gpu_precision() if device.type == "cuda" else "fp32"


def latest_run(runs: str | Path = "runs", enlarges: bool = False) -> Path:
    """The diffusion run that was trained last. Raises ValueError, saying what to do, if there is none.

    Args:
        enlarges: the last of those that enlarge clips, and not of those that make them.
    """
    found = []
    for path in Path(runs).glob("*/checkpoints/latest"):
        run = path.parents[1]
        if not ((run / "data.json").is_file() and (run / "resolved.yaml").is_file()):
            continue
        if ("detail" in read_json(run / "data.json")) == enlarges:
            found.append((path.stat().st_mtime, run))
    if not found:
        what, recipe = ("that enlarges clips ", "shapes_sr") if enlarges else ("", "shapes")
        raise ValueError(
            f"no trained run {what}in {runs}/: train one first, for instance python -m vidiff.train "
            f"configs/{recipe}.yaml"
        )
    return max(found)[1]


def save_codec(folder: Path, codec: Codec) -> None:
    """Put a codec, its statistics included, into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:  # so that a file is whole, or is not there
        facts: dict[str, Any] | None = None
        if isinstance(codec, DiffusersCodec):
            codec.network.save_pretrained(scratch)
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
    fill(codec, state, path)
    return codec.eval().requires_grad_(False)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights that were read from `path`. Raises ValueError if they are of another model."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the run's resolved.yaml: {reason}") from None


def fill_denoiser(denoiser: nn.Module, checkpoint: Path, weights: str) -> None:
    """Give a denoiser the weights of a checkpoint of its run. Raises ValueError where they are damaged, or of another.

    Args:
        weights: as `Trained.from_pretrained` takes it.
    """
    state, own = load_weights(checkpoint, weights), "denoiser."  # an objective may have weights besides
    fill(denoiser, {key.removeprefix(own): state[key] for key in state if key.startswith(own)}, checkpoint)
