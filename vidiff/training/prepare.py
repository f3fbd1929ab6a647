"""What the stages of a training share: indexes, latent caches, and the run's own records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, same_codec
from vidiff.data.buckets import Bucket, assign
from vidiff.data.captions import read_captions
from vidiff.data.index import Index, index_of
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import Beside, CachedVideo
from vidiff.data.latents.encode import Share, discard, encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.latents.stale import stale
from vidiff.data.lists import LIST_SUFFIXES
from vidiff.data.options import BucketConfig
from vidiff.data.root import copies_of, root_of
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.engine.guard import unwinding
from vidiff.engine.parallel import processes
from vidiff.engine.precision import Precision, autocast
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, LatentRun, RunConfig
from vidiff.recipe.load import dump, load
from vidiff.store.files import claimed
from vidiff.store.plain import read_json
from vidiff.store.remote import is_url, shown
from vidiff.text import TextEncoder

NETWORKS = ("unet", "vae", "text", "classifier")
# what may change while a model is trained
FREE = ("unet.dropout", "unet.checkpoint", "unet.attention_backend", "classifier.dropout")


def make_index(config: RunConfig, split: str) -> Index:
    """The clips of a split, as `index_of`."""
    return index_of(config.data, Path(config.runs), split)


def make_pictures(config: RunConfig, labels: list[str]) -> Index | None:
    """The pictures to train on beside clips with these labels; one whose label no clip has, has none."""
    root = config.data.images
    if not root:
        return None
    layout = "auto" if Path(root).suffix.lower() in (*LIST_SUFFIXES, ".tar") else "images"
    pictures = replace(config.data, root=root, layout=layout, fps=0.0, seconds=0.0)
    found = index_of(pictures, Path(config.runs), config.data.split)
    numbers = [labels.index(name) if name in labels else -1 for name in found.labels]
    files = [replace(file, label=numbers[file.label] if file.label >= 0 else -1) for file in found.files]
    return replace(found, files=files, labels=labels)


def buckets_of(config: RunConfig, index: Index, pictures: bool = False) -> list[Bucket]:
    """The bucket of each file of an index; of pictures, with the sizes of the clips' buckets."""
    plan, stride = config.data.plan(), config.data.stride[0]
    if pictures:
        plan, stride = list(dict.fromkeys(bucket.picture for bucket in plan)), 1
    return assign(((file.frames, file.height, file.width) for file in index.files), plan, stride)


def keep_filled(config: RunConfig, index: Index) -> None:
    """Leave out buckets to which no training clip goes, so that the config tells what the model has seen."""
    data = config.data
    if not data.buckets:
        return
    found = zip(index.files, buckets_of(config, index), strict=True)
    filled = {bucket for file, bucket in found if file.frames > (bucket.frames - 1) * data.stride[0]}
    for bucket in data.plan():
        if bucket not in filled:
            tqdm.write(f"no clip goes to the bucket of {bucket}: it is left out")
    data.buckets = [BucketConfig(b.frames, [*b.size]) for b in data.plan() if b in filled] or data.buckets


def plan_latents(
    config: LatentRun,
    codec: Codec,
    key: str,
    index: Index,
    precision: Precision,
    split: str,
    of: str = "video",
    pictures: bool = False,
) -> Plan:
    """What of an index is cached, and how.

    Args:
        key: hash of the codec.
        split: name of what the index holds.
        pictures: whether these are the pictures beside the clips of the split.
        of: "video", the clips; "lowres", the clips shrunk by `lowres.factor` and enlarged again; or "detail", the
            latents of the one less those of the other, which is what a super-resolution model makes.
    """
    data = config.data
    root = data.images if pictures else data.root
    made_of: dict[str, Any] = {"codec": key, "precision": precision, "kind": of}
    if of != "video":
        assert isinstance(config, DiffusionRun)
        made_of["factor"] = config.lowres.factor
    return Plan(
        index,
        [bucket.size for bucket in buckets_of(config, index, pictures)],
        made_of,
        of=f"{root if is_url(root) else Path(root).resolve()} {split} {of}",
        crops=data.crops,
        flips=data.flip,
        dtype=data.latent_dtype,
        per_pixel=2 * 2 * codec.channels / codec.factor**2,  # mean and std
        segment=data.frames if codec.temporal > 1 else 0,
        temporal=codec.temporal,
        shard_bytes=max(1, int(data.shard_mb * 2**20)),
    )


def latents_folder(config: LatentRun) -> Path:
    """Where latent caches are made. Raises ValueError where they are only to be read."""
    place = config.data.latents
    if is_url(place):
        raise ValueError(f"data.latents is {shown(place)}, where caches are read: give a folder to make them in")
    return Path(place or Path(config.runs) / "latents")


def encode_plan(
    config: LatentRun, codec: Codec, plan: Plan, part: tuple[int, int] = (0, 1), check: bool = False
) -> Path | None:
    """Encode what a plan says, unless it is there: once for every run that shares codec and data.

    Among several processes each encodes; all of them call this.

    Args:
        part: (i, n), to encode the shards i, i + n, ... alone.
        check: read the finished cache, and encode anew what is damaged.

    Returns:
        the cache's folder; None where shards of other parts are missing yet.
    """
    out = latents_folder(config)
    of, factor = plan.made_of["kind"], config.lowres.factor if isinstance(config, DiffusionRun) else 0
    with processes(config.device) as group, unwinding():
        codec.to(group.device)

        def encode(video: Tensor) -> tuple[Tensor, Tensor]:
            video = video.to(group.device)
            low = video if of == "video" else enlarge(shrink(video, factor), factor)
            with autocast(group.device, plan.made_of["precision"]):
                found = codec.encode(low if of == "lowres" else video)
                mean, std = found.mean.float(), found.std.float()
                if of == "lowres":
                    std = torch.zeros_like(mean)
                elif of == "detail":
                    mean = mean - codec.encode(low).mean.float()
            return mean.cpu(), std.cpu()

        def work() -> Path | None:
            share = Share(*part, group.rank, group.world)
            data = config.data
            return encode_latents(out, plan, encode, share, data.max_broken, data.patience, progress=group.main)

        if group.main and not plan.folder(out).is_dir():
            for line in stale(out, plan):
                tqdm.write(line)
        folder = work()
        if folder is not None and check:
            found = group.gather(LatentCache(folder).damaged(group.rank, group.world))
            damaged = group.share(sorted(name for names in found for name in names))
            if damaged:
                if group.main:
                    discard(folder, damaged)
                group.barrier()
                folder = work()
    return folder


def cache_latents(
    config: LatentRun,
    codec: Codec,
    key: str,
    index: Index,
    precision: Precision,
    split: str,
    of: str = "video",
    pictures: bool = False,
) -> LatentCache:
    """Latents of an index, encoded first if they are not cached, and checked. Arguments as of `plan_latents`."""
    plan = plan_latents(config, codec, key, index, precision, split, of, pictures)
    if is_url(config.data.latents):
        url = f"{config.data.latents.rstrip('/')}/{plan.folder(Path()).name}"
        return LatentCache(url, copies_of(Path(config.runs), config.data.remote_cache_gb))
    folder = encode_plan(config, codec, plan, check=True)
    assert folder is not None
    return LatentCache(folder)


def captions_of(config: RunConfig, index: Index) -> list[str]:
    """The caption of each clip of an index."""
    data = config.data
    root = root_of(data.root, copies_of(Path(config.runs), data.remote_cache_gb))
    return read_captions(root, index.files, data.captions)


def resolve(config: LatentRun, codec: Codec, index: Index, encoder: TextEncoder | None = None) -> None:
    """Fill in what follows from codec, data and text encoder. Raises ValueError where a classifier has no labels."""
    strided = config.data.stride[0] != config.data.stride[1]
    if isinstance(config, DiffusionRun):
        config.unet.text_dim, config.unet.words = (encoder.dim, encoder.words) if encoder else (0, 0)
        config.unet.channels, config.unet.strided = codec.channels, strided
        config.unet.labels = len(index.labels) if config.conditional else 0
        config.unet.lowres_channels = codec.channels if config.lowres.factor else 0
    elif isinstance(config, ClassifierRun):
        config.classifier.channels, config.classifier.strided = codec.channels, strided
        config.classifier.labels = len(index.labels)
        if len(index.labels) < 2:
            raise ValueError(
                f"the clips in {config.data.root} have {len(index.labels)} labels; a classifier tells 2 or more apart: "
                "give each class a folder of its own, and leave out data.layout=flat"
            )


def refuse_another_model(config: RunConfig, codec: Codec | None = None, encoder: TextEncoder | None = None) -> None:
    """Raises ValueError if the run holds weights of another model, before anything of the run is written over."""
    folder = config.folder
    if not ((folder / "checkpoints" / "latest").is_file() and (folder / "resolved.yaml").is_file()):
        return
    advice = "give this training another name=..., or set it as it was"
    before, now = (flatten(asdict(each)) for each in (load(folder / "resolved.yaml"), config))
    for key in now:
        discriminator = bool(now.get("loss.adversarial")) and key.startswith("loss.discriminator")
        fixed = (
            discriminator
            or key in ("kind", "prediction", "lowres.factor")
            or key.split(".")[0]
            in (
                "unet",
                "vae",
                "text",
                "classifier",
            )
        )
        if fixed and key not in FREE and before.get(key) != now[key]:
            raise ValueError(f"{folder} was trained with {key}={before.get(key)}, not {now[key]}: {advice}")
    if bool(before.get("loss.adversarial")) != bool(now.get("loss.adversarial")):
        raise ValueError(
            f"{folder} was trained with loss.adversarial={before.get('loss.adversarial')}, and a discriminator cannot "
            f"come or go on the way: give this training another name=..., and start={folder}"
        )
    if encoder is not None and (folder / "data.json").is_file():
        facts = read_json(folder / "data.json").get("text")
        if facts is not None and facts != encoder.facts():
            raise ValueError(f"{folder} was trained with captions of other words: {advice}")
    if codec is None or not (folder / "codec" / "codec.json").is_file():
        return
    if not same_codec(load_codec(folder / "codec"), codec):
        raise ValueError(f"{folder} was trained with another codec, which has been trained further since: {advice}")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def record(config: RunConfig, given: str) -> None:
    """Keep the config as given and as resolved."""
    with claimed(config.folder / ".turn"):
        (config.folder / "config.yaml").write_text(given)
        (config.folder / "resolved.yaml").write_text(dump(config))


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


def kinds(config: LatentRun) -> list[str]:
    """Which caches a model learns from: `of` as `plan_latents` has it."""
    return ["detail", "lowres"] if isinstance(config, DiffusionRun) and config.lowres.factor else ["video"]


def make_latents(
    config: LatentRun,
    codec: Codec,
    key: str,
    index: Index,
    precision: Precision,
    split: str,
    pictures: bool = False,
) -> Latents:
    """All that a model learns of an index, encoded first if it is not cached. Arguments as of `plan_latents`."""
    found = [cache_latents(config, codec, key, index, precision, split, of, pictures) for of in kinds(config)]
    return Latents(found[0], found[1] if len(found) == 2 else None, codec.fixed)
