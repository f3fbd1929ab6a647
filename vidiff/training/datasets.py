"""What a training draws from: data sets of clips, latents and pictures, and batches of them in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from vidiff.data.clips import ClipDataset, Strides, make_loader
from vidiff.data.index import Index
from vidiff.data.joint import Joint
from vidiff.data.latents.dataset import Captioned, LatentDataset
from vidiff.data.options import DataConfig
from vidiff.data.order import JointOrder, Key, Order
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.engine.parallel import processes
from vidiff.recipe.kinds import DiffusionRun, LatentRun, RunConfig
from vidiff.store.files import claimed
from vidiff.text import TextEncoder, encode_captions
from vidiff.training.prepare import Latents, buckets_of, captions_of

Cached = LatentDataset | Captioned
Samples = ClipDataset | Cached | Joint
Batches = Callable[[int], Iterable[dict[str, Tensor]]]


def clip_dataset(config: RunConfig, index: Index, changed: bool = False, pictures: bool = False) -> ClipDataset:
    """Random clips of pixels, or pictures.

    Args:
        changed: in colours and zoom, as `data.jitter` and `data.zoom` say; for training alone.
    """
    data, buckets = config.data, buckets_of(config, index, pictures)
    return ClipDataset(
        index,
        [bucket.frames for bucket in buckets],
        [bucket.size for bucket in buckets],
        strides(data, pictures),
        data.flip,
        config.train.seed,
        data.max_broken,
        data.patience,
        Quarantine(quarantine_list(Path(config.runs))),
        data.jitter if changed else 0.0,
        (data.zoom[0], data.zoom[1]) if changed else (1.0, 1.0),
    )


def strides(data: DataConfig, pictures: bool = False) -> Strides:
    most = data.stride[0] if pictures else data.stride[1]
    return Strides(data.stride[0], most, data.least_stride)


def latent_dataset(
    config: LatentRun, index: Index, of: Latents, moments: Latents, pictures: bool = False
) -> LatentDataset:
    """Random windows of an index's cached latents, normalised by the statistics of `moments`, the training split."""
    buckets = buckets_of(config, index, pictures)
    return LatentDataset(
        of.content,
        [of.content.segment or bucket.frames for bucket in buckets],
        strides(config.data, pictures),
        config.train.seed,
        moments.moments,
        of.lowres,
        moments.codec_moments,
        [bucket.size for bucket in buckets],
    )


def batches(config: RunConfig, dataset: Samples) -> Batches:
    """This process's batches of a data set, without end, from a given sample of the order on."""

    def make(start: int) -> Iterable[dict[str, Tensor]]:
        with processes(config.device) as group:
            place = config.batch // config.train.accumulate, config.train.seed, group.rank, group.world, start
            order: Iterable[list[Key]]
            if isinstance(dataset, Joint):
                order = JointOrder(dataset.kinds, dataset.share, *place)
            else:
                order = Order(dataset.groups, *place)
            return make_loader(dataset, order, config.data.workers)

    return make


def first_batches(config: RunConfig, dataset: ClipDataset | Cached, count: int) -> list[dict[str, Tensor]]:
    """`count` samples of each bucket to validate on, the same ones each time and in every process; most clips first."""
    workers = min(config.data.workers, 1) if isinstance(dataset, ClipDataset) else 0  # where a decoder may hang
    found = []
    for indices in sorted(dataset.groups, key=len, reverse=True):
        keys = next(iter(Order([indices], count, config.train.seed)))
        found.append(next(iter(make_loader(dataset, [keys], workers))))
    return found


def with_text(config: DiffusionRun, dataset: LatentDataset, encoder: TextEncoder | None, index: Index) -> Cached:
    """A data set of an index's clips, with their text where the model has any; encoded first if it is not cached."""
    if encoder is None:
        return dataset
    captions = captions_of(config, index)
    each = sorted(set(captions))
    folder = Path(config.runs) / "latents"
    with claimed(folder / ".turn"):
        text, mask = encode_captions(encoder, each, folder)
    return Captioned(dataset, text, mask, [each.index(caption) for caption in captions])
