"""What the stages of a training share: indexes, latent caches, data sets, and the run's own records."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.codec import Codec, VAECodec
from vidiff.config import dump, load
from vidiff.data.captions import Captioned, read_captions
from vidiff.data.clips import ClipDataset, Strides, make_loader
from vidiff.data.index import Index, build_index
from vidiff.data.latents import LatentCache, LatentDataset, encode_latents
from vidiff.data.options import DataConfig
from vidiff.data.order import Order
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.engine.parallel import processes
from vidiff.engine.precision import Precision, autocast
from vidiff.recipe import ClassifierRun, DiffusionRun, LatentRun, RunConfig
from vidiff.resize import enlarge, shrink
from vidiff.run import load_codec
from vidiff.text import TextEncoder, encode_captions

Samples = ClipDataset | LatentDataset | Captioned
Batches = Callable[[int], Iterable[dict[str, Tensor]]]

NETWORKS = ("unet", "vae", "text", "classifier")
# what may change while a model is trained
FREE = ("unet.dropout", "unet.checkpoint", "unet.attention_backend", "classifier.dropout")


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
            fps=data.fps,
            decoder=data.decoder,
        )


def cache_latents(
    config: LatentRun, codec: Codec, key: str, index: Index, precision: Precision, of: str = "video"
) -> LatentCache:
    """Latents of an index, encoded first if they are not cached: once for every run that shares codec and data.

    Args:
        of: "video", the clips; "lowres", the clips shrunk by `lowres.factor` and enlarged again; or "detail", the
            latents of the one less those of the other, which is what a super-resolution model makes.
    """
    parts = f"{key} {index.digest} {config.data.size} {config.data.flip} {precision}"
    factor = config.lowres.factor if isinstance(config, DiffusionRun) else 0
    if of != "video":
        parts += f" {of} {factor}"
    key = hashlib.sha256(parts.encode()).hexdigest()
    with processes(config.device) as group:
        codec.to(group.device)

        def encode(video: Tensor) -> tuple[Tensor, Tensor]:
            video = video.to(group.device)
            low = video if of == "video" else enlarge(shrink(video, factor), factor)
            with autocast(group.device, precision):
                found = codec.encode(low if of == "lowres" else video)
                mean, std = found.mean.float(), found.std.float()
                if of == "lowres":
                    std = torch.zeros_like(mean)
                elif of == "detail":
                    mean = mean - codec.encode(low).mean.float()
            return mean.cpu(), std.cpu()

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


def captions_of(config: RunConfig, index: Index) -> list[str]:
    """The caption of each clip of an index."""
    return read_captions(index.root, [file.path for file in index.files], config.data.captions)


def with_text(config: DiffusionRun, dataset: LatentDataset, encoder: TextEncoder | None, index: Index) -> Samples:
    """A data set of an index's clips, with their text where the model has any; encoded first if it is not cached."""
    if encoder is None:
        return dataset
    captions = captions_of(config, index)
    each = sorted(set(captions))
    folder = Path(config.runs) / "latents"
    with one_at_a_time(folder):
        text, mask = encode_captions(encoder, each, folder)
    return Captioned(dataset, text, mask, [each.index(caption) for caption in captions])


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
        fixed = key in ("kind", "prediction", "lowres.factor") or key.split(".")[0] in (
            "unet",
            "vae",
            "text",
            "classifier",
        )
        if fixed and key not in FREE and before.get(key) != now[key]:
            raise ValueError(f"{folder} was trained with {key}={before.get(key)}, not {now[key]}: {advice}")
    if encoder is not None and (folder / "data.json").is_file():
        facts = json.loads((folder / "data.json").read_text()).get("text")
        if facts is not None and facts != encoder.facts():
            raise ValueError(f"{folder} was trained with captions of other words: {advice}")
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


@dataclass(frozen=True)
class Latents:
    """What a model learns of one split, as it is cached.

    Attributes:
        content: what the model makes: latents of the clips, or of a super-resolution model the detail.
        lowres: what a super-resolution model is shown; else None.
    """

    content: LatentCache
    lowres: LatentCache | None

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Shift and scale `(c,)` by which the content is normalised. Detail is only scaled, so that 0 adds nothing."""
        shift, scale = self.content.statistics
        return (shift if self.lowres is None else torch.zeros_like(shift)), scale

    @property
    def codec_moments(self) -> tuple[Tensor, Tensor]:
        """Shift and scale `(c,)` by which the codec's latents are normalised."""
        return self.content.statistics if self.lowres is None else self.lowres.statistics

    @property
    def detail(self) -> Tensor | None:
        """How large detail is beside the codec's normalised latents, `(c,)`; None without a low resolution."""
        return None if self.lowres is None else self.moments[1] / self.codec_moments[1]


def make_latents(config: LatentRun, codec: Codec, key: str, index: Index, precision: Precision) -> Latents:
    """All that a model learns of an index, encoded first if it is not cached."""
    if not (isinstance(config, DiffusionRun) and config.lowres.factor):
        return Latents(cache_latents(config, codec, key, index, precision), None)
    content, lowres = (cache_latents(config, codec, key, index, precision, of) for of in ("detail", "lowres"))
    return Latents(content, lowres)


def latent_dataset(config: LatentRun, of: Latents, moments: Latents) -> LatentDataset:
    """Random windows of cached latents, normalised by the statistics of `moments`, the training split."""
    data = config.data
    return LatentDataset(
        of.content,
        data.frames,
        strides(data),
        config.train.seed,
        moments.moments,
        of.lowres,
        moments.codec_moments,
    )


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
