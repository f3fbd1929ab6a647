"""Latents of a training's clips: what is cached of an index, and the caches themselves, made where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec
from vidiff.data.buckets import Bucket
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import Beside, CachedVideo
from vidiff.data.latents.encode import Share, discard, encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.latents.stale import stale
from vidiff.data.root import copies_of
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.diffusion.condition import VIDEOS
from vidiff.engine.guard import unwinding
from vidiff.engine.parallel import processes
from vidiff.engine.precision import Precision, autocast
from vidiff.recipe.kinds import LatentRun
from vidiff.store.remote import is_url, shown
from vidiff.training.indexes import buckets_of, control_of


@dataclass(frozen=True)
class Latents:
    """What a model learns of one split, as it is cached.

    Attributes:
        content: what the model makes: latents of the clips, or of a super-resolution model the detail.
        shown: the videos that it is shown, by the names of `Condition`'s fields: "lowres" to a super-resolution model,
            "control" where another lies beside each clip.
        fixed: whether the codec's latents are normalised as they are cached, by statistics of its own.
        factor: by which the codec shrinks frames.
        control: the videos beside the clips, if any are.
    """

    content: LatentCache
    shown: Mapping[str, LatentCache]
    fixed: bool = False
    factor: int = 1
    control: Index | None = None

    @property
    def lowres(self) -> LatentCache | None:
        """What a super-resolution model is shown; None for any other."""
        return self.shown.get("lowres")

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
        return [CachedVideo(name, cache, moments.codec_moments) for name, cache in self.shown.items()]

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
        """What is cached, first what the model makes: "video", latents of the clips; or for a super-resolution model
        "detail", of which "lowres" falls short, latents of the clips shrunk by `lowres.factor` and enlarged again. And
        "control", those of the videos beside the clips, where there are any.
        """
        own = ["detail", "lowres"] if self.config.enlarges else ["video"]
        return [*own, "control"] if self.config.data.control else own

    @property
    def folder(self) -> Path:
        """Where caches are made. Raises ValueError where they are only to be read."""
        where = self.config.data.latents
        if is_url(where):
            raise ValueError(f"data.latents is {shown(where)}, where caches are read: give a folder to make them in")
        return Path(where or Path(self.config.runs) / "latents")

    def plans(self, index: Index, split: str, pictures: bool = False) -> dict[str, Plan]:
        """What of an index is cached, by kind, and how.

        Args:
            split: name of what the index holds.
            pictures: whether these are the pictures beside the clips of the split, with no video beside them.

        Raises:
            DataError: a clip without a video beside it that goes with it, where there are to be any.
        """
        kinds = [kind for kind in self.kinds if not (pictures and kind == "control")]
        files = {kind: control_of(self.config, index) if kind == "control" else index for kind in kinds}
        shapes = buckets_of(self.config, index, pictures)
        return {kind: self._plan(files[kind], shapes, split, kind, pictures) for kind in kinds}

    def _plan(self, files: Index, shapes: Sequence[Bucket], split: str, kind: str, pictures: bool) -> Plan:
        data, codec = self.config.data, self.codec
        root = data.control if kind == "control" else data.images if pictures else data.root
        made_of: dict[str, Any] = {"codec": self.key, "precision": self.precision, "kind": kind}
        if kind in ("detail", "lowres"):
            made_of["factor"] = self.config.enlarges
        return Plan(
            files,
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
        plans = self.plans(index, split, pictures)
        caches = {kind: self._cache(plan) for kind, plan in plans.items()}
        content, beside = caches.pop(next(iter(plans))), plans["control"].index if "control" in plans else None
        return Latents(content, caches, self.codec.fixed, self.codec.factor, beside)

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
                low = enlarge(shrink(video, factor), factor) if kind in ("detail", "lowres") else video
                with autocast(group.device, plan.made_of["precision"]):
                    encoded = self.codec.encode(low if kind == "lowres" else video)
                    mean, std = encoded.mean.float(), encoded.std.float()
                    if kind in VIDEOS:  # it is only shown
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
