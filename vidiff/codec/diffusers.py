"""diffusers' AutoencoderKL as a codec."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.codec.codec import TILE, Codec

# owner/name on the Hugging Face hub, and perhaps a folder in it
HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(/(?P<folder>\w[\w/-]*))?")


class DiffusersCodec(Codec):
    """An `AutoencoderKL` that was trained elsewhere (Rombach et al. 2022, section 3.1).

    Its latents leave as `(x - shift_factor) * scaling_factor`, or by the means and deviations that its config has for
    each channel. These are its statistics, and stay so, whatever the clips: any other model on its latents knows them
    as they are.

    Group norm and attention reach over a whole frame, so what comes out of a tile depends on where it is cut, if
    little; neighbours are mixed over 64 px, in which no seam is left.

    Args:
        network: what `read` returns.
        tile: as of `Codec`.
    """

    fixed = True

    def __init__(self, network: Any, tile: int = TILE) -> None:
        config = network.config
        super().__init__(config.latent_channels, 2 ** (len(config.block_out_channels) - 1), tile=tile)
        self.network = network
        self.margin, self.blend = max(32 // self.factor, 1), max(64 // self.factor, 2)
        mean, std = config.latents_mean, config.latents_std
        self.set_statistics(
            torch.tensor(mean if mean is not None else config.shift_factor or 0.0),
            torch.tensor(std if std is not None else 1.0) / config.scaling_factor,
        )

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.network.encode(frames).latent_dist
        return latents.mean.float(), latents.std.float()

    def decode_frames(self, z: Tensor) -> Tensor:
        return self.network.decode(z).sample.float()

    def digest(self) -> str:
        """A hash of all that its latents depend on: weights, config and tiles."""
        facts = {key: value for key, value in dict(self.network.config).items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps({**facts, "tile": self.tile}, sort_keys=True, default=str).encode())
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def read(path: str | Path) -> Any:
    """Load an `AutoencoderKL`.

    Args:
        path: a folder as `save_pretrained` writes it, or a name on the Hugging Face hub, with a folder in it where the
            weights do not lie at its top: "owner/name" or "owner/name/vae".

    Raises:
        ValueError: where there is none, or it is another model, incomplete or damaged, or diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ValueError(
            "codec.name=diffusers needs the package diffusers: pip install 'vidiff[diffusers]', or train an "
            "autoencoder with codec.name=vae, which needs nothing"
        ) from None
    place, where = _place(path)
    wanted = "give the folder or the hub's name of an AutoencoderKL of diffusers, with its config.json and safetensors"
    try:
        config = AutoencoderKL.load_config(place, **where)
        kind = config.get("_class_name")
        if kind != "AutoencoderKL":
            raise ValueError(f"it is of class {kind}")
        network, report = AutoencoderKL.from_pretrained(
            place,
            **where,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {report['missing_keys'][0]}")
        if (network.config.in_channels, network.config.out_channels) != (3, 3):
            raise ValueError(f"it takes frames of {network.config.in_channels} channels, and a video has 3")
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip().rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be used as an autoencoder ({reason[:300]}): {wanted}") from None
    return network.eval().requires_grad_(False)


def _place(path: str | Path) -> tuple[str, dict[str, str | bool]]:
    """What to ask diffusers for. Raises ValueError for a folder without a config, and for what can be no hub's name."""
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            inner = f": give {path}/vae" if (Path(path) / "vae" / "config.json").is_file() else ""
            raise ValueError(f"{path} holds no config.json, as a folder with an AutoencoderKL of diffusers does{inner}")
        return str(path), {"local_files_only": True}
    name = HUB.fullmatch(str(path))
    if name is None:
        raise ValueError(f"there is no folder {path}, nor can that be a name on the Hugging Face hub (owner/name)")
    return name["name"], {"subfolder": name["folder"]} if name["folder"] else {}
