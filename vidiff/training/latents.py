"""Latents of a training's clips: what is cached of an index, and the caches themselves, made where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import Beside, CachedVideo
from vidiff.data.latents.encode import Share, discard, encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.latents.stale import stale
from vidiff.data.root import copies_of
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.engine.guard import unwinding
from vidiff.engine.parallel import processes
from vidiff.engine.precision import Precision, autocast
from vidiff.recipe.kinds import LatentRun
from vidiff.store.remote import is_url, shown
from vidiff.training.indexes import buckets_of


@dataclass(frozen=True)
class Latents:
    """What a model learns of one split, as it is cached.

    Attributes:
        content: what the model makes: latents of the clips, or of a super-resolution model the detail.
        lowres: what a super-resolution model is shown; else None.
        fixed: whether the codec's latents are normalised as they are cached, by statistics of its own.
    """

    content: LatentCache
    lowres: LatentCache | None
    fixed: bool = False

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Shift and scale `(c,)` by which the content is normalised. Detail is only scaled, so that 0 adds nothing."""
        if self.lowres is None:
            return self.codec_moments
        shift, scale = self.content.statistics
        return torch.zeros_like(shift), scale

    @property
    def codec_moments(self) -> tuple[Tensor, Tensor]:
        """Shift and scale `(c,)` by which the codec's latents are normalised."""
        shift, scale = (self.content if self.lowres is None else self.lowres).statistics
        return (torch.zeros_like(shift), torch.ones_like(scale)) if self.fixed else (shift, scale)

    def beside(self, moments: Latents) -> list[Beside]:
        """What a model is shown besides, normalised by the statistics of `moments`."""
        return [] if self.lowres is None else [CachedVideo("lowres", self.lowres, moments.codec_moments)]

    @property
    def detail(self) -> Tensor | None:
        """How large detail is beside the codec's normalised latents, `(c,)`; None without a low resolution."""
        return None if self.lowres is None else self.moments[1] / self.codec_moments[1]


@dataclass(frozen=True)
class Caches:
    """The latent caches that a model is trained on, of any index.

    Attributes:
        precision: in which the codec encodes.
    """

    config: LatentRun
    codec: Codec
    precision: Precision

    @cached_property
    def key(self) -> str:
        """What names the codec."""
        return self.codec.digest()

    @property
    def kinds(self) -> list[str]:
        """What is cached: "video", latents of the clips; or for a super-resolution model "lowres", those of the clips
        shrunk by `lowres.factor` and enlarged again, and "detail", the one less the other, which is what it makes.
        """
        return ["detail", "lowres"] if self.config.enlarges else ["video"]

    @property
    def folder(self) -> Path:
        """Where caches are made. Raises ValueError where they are only to be read."""
        where = self.config.data.latents
        if is_url(where):
            raise ValueError(f"data.latents is {shown(where)}, where caches are read: give a folder to make them in")
        return Path(where or Path(self.config.runs) / "latents")

    def plan(self, index: Index, split: str, kind: str, pictures: bool = False) -> Plan:
        """What of an index is cached, and how.

        Args:
            split: name of what the index holds.
            pictures: whether these are the pictures beside the clips of the split.
        """
        data, codec = self.config.data, self.codec
        root = data.images if pictures else data.root
        shapes = buckets_of(self.config, index, pictures)
        made_of: dict[str, Any] = {"codec": self.key, "precision": self.precision, "kind": kind}
        if kind != "video":
            made_of["factor"] = self.config.enlarges
        return Plan(
            index,
            [shape.size for shape in shapes],
            made_of,
            of=f"{root if is_url(root) else Path(root).resolve()} {split} {kind}",
            crops=data.crops,
            flips=data.flip,
            dtype=data.latent_dtype,
            per_pixel=2 * 2 * codec.channels / codec.factor**2,  # mean and std
            segments=[shape.frames for shape in shapes] if codec.temporal > 1 else (),
            temporal=codec.temporal,
            shard_bytes=max(1, int(data.shard_mb * 2**20)),
        )

    def latents(self, index: Index, split: str, pictures: bool = False) -> Latents:
        """All that a model learns of an index, encoded first if it is not cached, and checked."""
        caches = [self._cache(self.plan(index, split, kind, pictures)) for kind in self.kinds]
        return Latents(caches[0], caches[1] if len(caches) == 2 else None, self.codec.fixed)

    def _cache(self, plan: Plan) -> LatentCache:
        data = self.config.data
        if is_url(data.latents):
            url = f"{data.latents.rstrip('/')}/{plan.folder(Path()).name}"
            return LatentCache(url, copies_of(Path(self.config.runs), data.remote_cache_gb))
        folder = self.encode(plan, check=True)
        assert folder is not None
        return LatentCache(folder)

    def encode(self, plan: Plan, part: tuple[int, int] = (0, 1), check: bool = False) -> Path | None:
        """Encode what a plan says, unless it is there: once for every run that shares codec and data.

        Among several processes each encodes; all of them call this.

        Args:
            part: (i, n), to encode the shards i, i + n, ... alone.
            check: read the finished cache, and encode anew what is damaged.

        Returns:
            the cache's folder; None where shards of other parts are missing yet.
        """
        out, kind, factor, data = self.folder, plan.made_of["kind"], self.config.enlarges, self.config.data
        with processes(self.config.device) as group, unwinding():
            self.codec.to(group.device)

            def encode(video: Tensor) -> tuple[Tensor, Tensor]:
                video = video.to(group.device)
                low = video if kind == "video" else enlarge(shrink(video, factor), factor)
                with autocast(group.device, plan.made_of["precision"]):
                    encoded = self.codec.encode(low if kind == "lowres" else video)
                    mean, std = encoded.mean.float(), encoded.std.float()
                    if kind == "lowres":
                        std = torch.zeros_like(mean)
                    elif kind == "detail":
                        mean = mean - self.codec.encode(low).mean.float()
                return mean.cpu(), std.cpu()

            def work() -> Path | None:
                share = Share(*part, group.rank, group.world)
                return encode_latents(out, plan, encode, share, data.max_broken, data.patience, progress=group.main)

            if group.main and not plan.folder(out).is_dir():
                for line in stale(out, plan):
                    tqdm.write(line)
            folder = work()
            if folder is not None and check:
                gathered = group.gather(LatentCache(folder).damaged(group.rank, group.world))
                damaged = group.share(sorted(name for names in gathered for name in names))
                if damaged:
                    if group.main:
                        discard(folder, damaged)
                    group.barrier()
                    folder = work()
        return folder
