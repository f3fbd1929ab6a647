"""diffusers' autoencoders as codecs: of single frames, and of clips that are causal in time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.codec.codec import TILE, Codec
from vidiff.nn.causal import Stream, check_frames
from vidiff.store.files import write_whole

# owner/name on the Hugging Face hub, and perhaps a folder in it
HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(/(?P<folder>\w[\w/-]*))?")


@dataclass(frozen=True)
class Facts:
    """What has to be known of an autoencoder to use it.

    Attributes:
        channels: of its latents.
        factor: by which it shrinks height and width.
        mean, std: of its latents, a number for all channels or one for each, as its config has them.
        temporal: frames to one latent, the first of a clip apart; 1 for single frames.
        unit: a clip has 1 frame more than a multiple of it.
        colours: channels of the frames that it takes; 3 times the places of a patch, where it cuts frames into these.
        together: whether a frame is decoded with those around it, though encoded alone.
        noisy: whether it makes a distribution of latents, or each of them alone.
    """

    channels: int
    factor: int
    mean: Any = 0.0
    std: Any = 1.0
    temporal: int = 1
    unit: int = 1
    colours: int = 3
    together: bool = False
    noisy: bool = True

    def check_frames(self, frames: int, what: str) -> None:
        """Raises ValueError where clips of so many frames do not make whole latents; `what` says whose they are."""
        check_frames(frames, self.temporal, self.unit, what)


def _kl(network: Any) -> Facts:
    """Rombach et al. 2022, section 3.1."""
    config = network.config
    mean, std = config.latents_mean, config.latents_std
    return Facts(
        config.latent_channels,
        2 ** (len(config.block_out_channels) - 1),
        mean if mean is not None else config.shift_factor or 0.0,
        torch.tensor(std if std is not None else 1.0) / config.scaling_factor,
    )


def _tiny(network: Any) -> Facts:
    """A distilled stand-in for another one's latents, which come out scaled as a diffusion model knows them."""
    config = network.config
    factor = 2 ** (len(config.encoder_block_out_channels) - 1)
    return Facts(config.latent_channels, factor, config.shift_factor, 1 / config.scaling_factor, noisy=False)


def _dc(network: Any) -> Facts:
    """Chen et al. 2024 (deep compression autoencoder)."""
    config = network.config
    return Facts(config.latent_channels, network.spatial_compression_ratio, 0.0, 1 / config.scaling_factor, noisy=False)


def _temporal_decoder(network: Any) -> Facts:
    """Blattmann et al. 2023 (stable video diffusion), appendix D: group norm and convolutions reach over all frames."""
    config = network.config
    factor = 2 ** (len(config.block_out_channels) - 1)
    return Facts(config.latent_channels, factor, 0.0, 1 / config.scaling_factor, together=True)


def _cogvideox(network: Any) -> Facts:
    """Yang et al. 2024, section 2.1. It works on 8 frames at a time, after the first: 2 latents, which it normalises
    together, and of which it decodes no odd one."""
    config = network.config
    if config.temporal_compression_ratio != 4:
        raise ValueError(f"its temporal_compression_ratio is {config.temporal_compression_ratio}, and only 4 is known")
    mean, std = config.latents_mean, config.latents_std
    return Facts(
        config.latent_channels,
        2 ** (len(config.block_out_channels) - 1),
        mean if mean is not None else config.shift_factor or 0.0,
        torch.tensor(std if std is not None else 1.0) / config.scaling_factor,
        temporal=4,
        unit=8,
    )


def _ltx(network: Any) -> Facts:
    """HaCohen et al. 2024, section 2.1."""
    if any(network.config.decoder_inject_noise):
        raise ValueError("its decoder adds noise of its own (decoder_inject_noise), so that no frame comes out twice")
    temporal = network.temporal_compression_ratio
    return Facts(
        network.config.latent_channels,
        network.spatial_compression_ratio,
        network.latents_mean,
        network.latents_std / network.config.scaling_factor,
        temporal,
        temporal,
    )


def _wan(network: Any) -> Facts:
    """Wan Team 2025, section 4.1."""
    config, patch = network.config, network.config.patch_size or 1
    if sum(config.temperal_downsample) != 2:
        raise ValueError(
            f"its temperal_downsample is {config.temperal_downsample}, and only 4 frames a latent are known"
        )
    factor = patch * 2 ** (len(config.dim_mult) - 1)
    return Facts(config.z_dim, factor, config.latents_mean, config.latents_std, 4, 4, colours=3 * patch**2)


KINDS: dict[str, Callable[[Any], Facts]] = {
    "AutoencoderKL": _kl,
    "AutoencoderTiny": _tiny,
    "AutoencoderDC": _dc,
    "AutoencoderKLTemporalDecoder": _temporal_decoder,
    "AutoencoderKLCogVideoX": _cogvideox,
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLWan": _wan,
}
"""The classes of diffusers that can be used, and what says the facts of one."""


class DiffusersCodec(Codec):
    """An autoencoder that was trained elsewhere, of any class of `KINDS`.

    Its latents leave as `(x - mean) / std` by what its config has of them. These are its statistics, and stay so,
    whatever the clips: any other model on its latents knows them as they are.

    Those of single frames go through in chunks. Those of clips go through clip by clip, and so does the decoder of
    stable video diffusion: Wan and CogVideoX then work in pieces of their own, in memory that does not grow with the
    frames, while LTX and stable video diffusion, which look ahead as they decode, hold a whole clip.

    Where group norm and attention reach over a whole frame, what comes out of a tile depends on where it is cut, if
    little; neighbours are mixed over 64 px, in which no seam is left.

    Args:
        network: what `read` returns.
        tile: as of `Codec`.
    """

    fixed = True

    def __init__(self, network: Any, tile: int = TILE) -> None:
        facts = KINDS[type(network).__name__](network)
        super().__init__(facts.channels, facts.factor, tile=tile)
        self.network, self.facts = network, facts
        self.temporal, self.unit = facts.temporal, facts.unit
        self.margin, self.blend = max(32 // self.factor, 1), max(64 // self.factor, 2)
        self.set_statistics(torch.as_tensor(facts.mean), torch.as_tensor(facts.std))

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return _moments(self.network.encode(frames))

    def decode_frames(self, z: Tensor) -> Tensor:
        return self.network.decode(z).sample.float()

    def encode_clips(self, video: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if self.temporal == 1:
            yield from super().encode_clips(video)
            return
        for clip in video:
            mean, std = _moments(self.network.encode(clip[None]))
            yield rearrange(mean, "1 c f h w -> f c h w"), rearrange(std, "1 c f h w -> f c h w")

    def decoder(self) -> Callable[[Tensor], Tensor]:
        """As of `Codec`. Raises ValueError for autoencoders of clips, which decode these as a whole."""
        if self.temporal > 1:
            raise ValueError(
                f"this model's codec is {type(self.network).__name__} of diffusers, which decodes whole clips: choose "
                "another strategy, such as strategy=clean"
            )
        return super().decoder()

    def decode_clips(self, z: Tensor, streams: Sequence[Stream] = ()) -> Iterator[Tensor]:
        if self.temporal == 1 and not self.facts.together:
            yield from super().decode_clips(z, streams)
            return
        for clip in z.transpose(1, 2):  # f c h w
            yield _decode_clips(self.network, self.facts, self.raw(clip), 1)

    def digest(self) -> str:
        """A hash of all that its latents depend on: weights, config and tiles."""
        facts = {key: value for key, value in dict(self.network.config).items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps({**facts, "tile": self.tile}, sort_keys=True, default=str).encode())
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Tuned(nn.Module):
    """An autoencoder of diffusers as one is trained: with the methods of `vidiff.nn.vae.VAE`, raw latents and all.

    Args:
        network: what `read` or `blank` returns.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config = network.train().requires_grad_(True), KINDS[type(network).__name__](network)

    @property
    def together(self) -> bool:
        """Whether the frames of a clip stay together."""
        return self.config.temporal > 1 or self.config.together

    @property
    def noisy(self) -> bool:
        return self.config.noisy

    @property
    def decoder(self) -> nn.Module:
        return self.network.decoder

    def encode(self, frames: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)`, clip after clip, to mean and std of their raw latents, both `(m, c, h', w')`."""
        if self.config.temporal == 1:
            return _moments(self.network.encode(frames))
        mean, std = _moments(self.network.encode(rearrange(frames, "(b f) c h w -> b c f h w", b=stream.clips)))
        return rearrange(mean, "b c f h w -> (b f) c h w"), rearrange(std, "b c f h w -> (b f) c h w")

    def decode(self, z: Tensor, stream: Stream) -> Tensor:
        """Raw latents back to frames, not clamped."""
        if not self.together:
            return self.network.decode(z).sample.float()
        return _decode_clips(self.network, self.config, z, stream.clips)


def _decode_clips(network: Any, facts: Facts, z: Tensor, clips: int) -> Tensor:
    """Raw latents `(m, c, h, w)` of so many clips, one after the other, to their frames `(n, 3, h', w')`."""
    if facts.together:
        return network.decode(z, num_frames=len(z) // clips).sample.float()
    # where the decoder wants to know how much noise is left in the latents, there is none
    clean = {"temb": z.new_zeros(clips)} if network.config.get("timestep_conditioning") else {}
    video = network.decode(rearrange(z, "(b f) c h w -> b c f h w", b=clips), **clean).sample.float()
    return rearrange(video, "b c f h w -> (b f) c h w")


def _moments(output: Any) -> tuple[Tensor, Tensor]:
    """Mean and std of what an encoder returns; std is 0 where it is no distribution."""
    if "latent_dist" in output:
        return output.latent_dist.mean.float(), output.latent_dist.std.float()
    latents = (output.latents if "latents" in output else output.latent).float()
    return latents, torch.zeros_like(latents)


def read(path: str | Path) -> Any:
    """Load an autoencoder of a class of `KINDS`.

    Args:
        path: a folder as `save_pretrained` writes it, or a name on the Hugging Face hub, with a folder in it where the
            weights do not lie at its top: "owner/name" or "owner/name/vae".

    Raises:
        ValueError: where there is none, or it is another model, incomplete or damaged, or diffusers is not installed.
    """
    with _opened(path) as (kind, place, where):
        network, report = kind.from_pretrained(
            place,
            **where,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {report['missing_keys'][0]}")
        _check_colours(network)
    return network.eval().requires_grad_(False)


def blank(path: str | Path) -> Any:
    """An autoencoder as `read`, but of its config alone, with first weights. Raises as `read`."""
    with _opened(path) as (kind, place, where):
        network = kind.from_config(kind.load_config(place, **where))
        _check_colours(network)
    return network


def facts_of(path: str | Path) -> Facts:
    """What has to be known of an autoencoder, by its config alone. Raises as `read`."""
    with torch.device("meta"):
        network = blank(path)
    return KINDS[type(network).__name__](network)


def names_one(path: str | Path) -> bool:
    """Whether a place is meant to be one of diffusers' autoencoders: a folder of one, or a name on the hub, where
    neither that folder nor the owner's is here, as runs/ is."""
    folder = Path(path)
    if folder.is_dir():
        return (folder / "config.json").is_file()
    return bool(HUB.fullmatch(str(path))) and not Path(folder.parts[0]).exists() and folder.parts[0] != "runs"


def keep_config(path: str | Path, folder: Path) -> None:
    """Write an autoencoder's config into a folder, so that `blank` takes it there. Raises as `read`."""
    with torch.device("meta"):
        network = blank(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", network.to_json_string())


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, str, dict[str, str | bool]]]:
    """An autoencoder's class, and what to ask it for, with all that goes wrong in one line as `read` tells it."""
    try:
        import diffusers
    except ImportError:
        raise ValueError(
            "an autoencoder of diffusers needs the package diffusers: pip install 'vidiff[diffusers]', or train an "
            "autoencoder with codec.name=vae, which needs nothing"
        ) from None
    place, where = _place(path)
    wanted = "give the folder or the hub's name of an autoencoder of diffusers, with its config.json and safetensors"
    try:
        kind = diffusers.AutoencoderKL.load_config(place, **where).get("_class_name")
        if kind not in KINDS:
            raise ValueError(f"it is of class {kind}, and known are {', '.join(KINDS)}")
        yield getattr(diffusers, kind), place, where
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip().rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be used as an autoencoder ({reason[:300]}): {wanted}") from None


def _check_colours(network: Any) -> None:
    """Raises ValueError unless it takes and makes videos of three colours."""
    taken, wants = network.config.in_channels, KINDS[type(network).__name__](network).colours
    if (taken, network.config.get("out_channels", taken)) != (wants, wants):
        raise ValueError(f"it takes frames of {taken} channels, and a video has 3")


def _place(path: str | Path) -> tuple[str, dict[str, str | bool]]:
    """What to ask diffusers for. Raises ValueError for a folder without a config, and for what can be no hub's name."""
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            inner = f": give {path}/vae" if (Path(path) / "vae" / "config.json").is_file() else ""
            raise ValueError(f"{path} holds no config.json, as a folder with an autoencoder of diffusers does{inner}")
        return str(path), {"local_files_only": True}
    name = HUB.fullmatch(str(path))
    if name is None:
        raise ValueError(f"there is no folder {path}, nor can that be a name on the Hugging Face hub (owner/name)")
    return name["name"], {"subfolder": name["folder"]} if name["folder"] else {}
