"""What the stages of a training share: indexes, latent caches, data sets, and the run's own records."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.codec import Codec, VAECodec
from vidiff.config import dump, load
from vidiff.data.clips import ClipDataset, Strides, make_loader
from vidiff.data.index import Index, build_index
from vidiff.data.latents import LatentCache, LatentDataset, encode_latents
from vidiff.data.order import Order
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.engine.parallel import processes
from vidiff.engine.precision import Precision, autocast
from vidiff.recipe import DataConfig, DiffusionRun, RunConfig
from vidiff.run import load_codec

Samples = ClipDataset | LatentDataset
Batches = Callable[[int], Iterable[dict[str, Tensor]]]

FREE = ("unet.dropout", "unet.checkpoint", "unet.attention_backend")  # what may change while a model is trained


def make_index(config: RunConfig, split: str) -> Index:
    """The clips of a split. The shapes set is drawn first where a config wants it and it is not there."""
    data = config.data
    folder = Path(config.runs) / "index"  # shared by all runs on the same data
    with one_at_a_time(folder):
        layout = data.layout
        if layout == "shapes":
            layout = "folders"
            if data.shapes or not (Path(data.root) / "spec.json").is_file():
                make_shapes(data.root, ShapesSpec(**data.shapes))
        return build_index(
            data.root,
            layout=layout,
            split=split,
            fold=data.fold,
            limit=data.limit,
            max_broken=data.max_broken,
            cache=folder / f"{Path(data.root).resolve().name}-{split}.jsonl",
            patience=data.patience,
            quarantine=Quarantine(quarantine_list(Path(config.runs))),
            records=folder / Path(data.root).resolve().name / "index.jsonl",
        )


def cache_latents(config: DiffusionRun, codec: Codec, key: str, index: Index, precision: Precision) -> LatentCache:
    """The latents of an index, encoded first if they are not cached: once for every run that shares codec and data."""
    parts = f"{key} {index.digest} {config.data.size} {config.data.flip} {precision}"
    key = hashlib.sha256(parts.encode()).hexdigest()
    with processes(config.device) as group:
        codec.to(group.device)

        def encode(video: Tensor) -> tuple[Tensor, Tensor]:
            with autocast(group.device, precision):
                found = codec.encode(video.to(group.device))
            return found.mean.float().cpu(), found.std.float().cpu()

        folder = Path(config.runs) / "latents"
        with one_at_a_time(folder):
            path = encode_latents(
                folder,
                index,
                encode,
                config.data.size,
                key,
                flips=config.data.flip,
                max_broken=config.data.max_broken,
                patience=config.data.patience,
            )
            cache = LatentCache(path)
            if group.main:
                cache.verify()
    return cache


def resolve(config: DiffusionRun, codec: Codec, index: Index) -> None:
    """Fill in what follows from codec and data."""
    config.unet.channels = codec.channels
    config.unet.labels = len(index.labels) if config.conditional else 0
    config.unet.strided = config.data.stride[0] != config.data.stride[1]


def refuse_another_model(config: RunConfig, codec: Codec | None = None) -> None:
    """Raises ValueError if the run holds weights of another model, before anything of the run is written over."""
    folder = config.folder
    if not ((folder / "checkpoints" / "latest").is_file() and (folder / "resolved.yaml").is_file()):
        return
    advice = "give this training another name=..., or set it as it was"
    before, now = (flatten(asdict(each)) for each in (load(folder / "resolved.yaml"), config))
    for key in now:
        fixed = key in ("kind", "prediction") or key.split(".")[0] in ("unet", "vae")
        if fixed and key not in FREE and before.get(key) != now[key]:
            raise ValueError(f"{folder} was trained with {key}={before.get(key)}, not {now[key]}: {advice}")
    if not isinstance(codec, VAECodec) or not (folder / "codec" / "codec.safetensors").is_file():
        return
    if not same_codec(load_codec(folder / "codec"), codec):
        raise ValueError(f"{folder} was trained with another codec, which has been trained further since: {advice}")


def same_codec(one: Codec, other: Codec) -> bool:
    """Whether two codecs have the same weights. Their statistics follow the data, and may differ."""
    old, new = one.state_dict(), other.state_dict()
    weights = {key for key in (*old, *new) if key.startswith("network.")}
    return all(key in old and key in new and torch.equal(old[key].cpu(), new[key].cpu()) for key in weights)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def record(config: RunConfig, given: str) -> None:
    """Keep the config as given and as resolved."""
    with one_at_a_time(config.folder):
        (config.folder / "config.yaml").write_text(given)
        (config.folder / "resolved.yaml").write_text(dump(config))


def clip_dataset(config: RunConfig, index: Index) -> ClipDataset:
    """Random clips of pixels."""
    data = config.data
    return ClipDataset(
        index,
        data.frames,
        data.size,
        strides(data),
        data.flip,
        config.train.seed,
        data.max_broken,
        data.patience,
        Quarantine(quarantine_list(Path(config.runs))),
    )


def strides(data: DataConfig) -> Strides:
    return Strides(data.stride[0], data.stride[1], data.least_stride)


def latent_dataset(config: DiffusionRun, cache: LatentCache, moments: tuple[Tensor, Tensor]) -> LatentDataset:
    """Random windows of cached latents, normalised by the statistics of the training split."""
    data = config.data
    return LatentDataset(cache, data.frames, strides(data), config.train.seed, moments)


def batches(config: RunConfig, dataset: Samples) -> Batches:
    """This process's batches of a data set, without end, from a given sample of the order on."""

    def make(start: int) -> Iterable[dict[str, Tensor]]:
        with processes(config.device) as group:
            part = config.batch // config.train.accumulate
            order = Order(len(dataset), part, config.train.seed, group.rank, group.world, start)
            return make_loader(dataset, order, config.data.workers)

    return make


def first_batch(config: RunConfig, dataset: Samples, count: int) -> dict[str, Tensor]:
    """`count` samples to validate on, the same ones each time and in every process."""
    keys = next(iter(Order(len(dataset), count, config.train.seed)))
    workers = min(config.data.workers, 1) if isinstance(dataset, ClipDataset) else 0  # where a decoder may hang
    return next(iter(make_loader(dataset, [keys], workers)))


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that share a folder take turns; who comes second finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".turn", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
