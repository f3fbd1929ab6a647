"""What a training draws from: data sets of clips, latents and pictures, and batches of them in their order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from vidiff.data.actions.beside import ActionsBeside
from vidiff.data.buckets import Strides, View
from vidiff.data.clips import ClipDataset, Sample, Samples, make_loader
from vidiff.data.index import Index
from vidiff.data.latents.dataset import Beside, Classes, LatentDataset, Texts
from vidiff.data.order import Order
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.engine.parallel import processes
from vidiff.recipe.kinds import LatentRun, RunConfig
from vidiff.store.files import claimed
from vidiff.text import TextEncoder, encode_captions
from vidiff.training.indexes import buckets_of, captions_of
from vidiff.training.latents import Latents


def view_of(config: RunConfig, index: Index, pictures: bool = False, changed: bool = False) -> View:
    """What a model sees of the files of an index, or of its pictures.

    Args:
        changed: in colours and zoom, as `data.jitter` and `data.zoom` say; for training alone.
    """
    data, (least, most) = config.data, config.data.stride
    strides = Strides(least, least if pictures else most, data.least_stride)
    view = View(buckets_of(config, index, pictures), strides, data.flip)
    return replace(view, jitter=data.jitter, zoom=(data.zoom[0], data.zoom[1])) if changed else view


def clip_dataset(config: RunConfig, index: Index, changed: bool = False, pictures: bool = False) -> ClipDataset:
    """Random clips of pixels, or pictures; the arguments are those of `view_of`."""
    data, quarantine = config.data, Quarantine(quarantine_list(Path(config.runs)))
    view = view_of(config, index, pictures, changed)
    return ClipDataset(index, view, config.train.seed, data.max_broken, data.patience, quarantine)


def refuse_short(config: RunConfig, index: Index) -> None:
    """Raises DataError, as a data set of them, where all files are shorter than a clip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some are is told with the data set
        clip_dataset(config, index)


def latent_dataset(
    config: LatentRun,
    index: Index,
    of: Latents,
    moments: Latents,
    encoder: TextEncoder | None = None,
    pictures: bool = False,
    actions: ActionsBeside | None = None,
    changed: bool = False,
) -> LatentDataset:
    """Random windows of an index's cached latents, with all that a model is told of them.

    Args:
        moments: the training split, by whose statistics latents are normalised.
        encoder: of the clips' text, which is encoded first if it is not cached; None for a model without text.
        actions: of the index's files; None for a model without.
        changed: as of `view_of`.
    """
    view, segments = view_of(config, index, pictures, changed), of.content.segments
    if segments:
        shapes = zip(view.shapes(len(index.files)), segments, strict=True)
        view = replace(view, shape=[shape._replace(frames=latents) for shape, latents in shapes])
    beside: list[Beside] = [Classes([file.label for file in index.files], len(index.labels)), *of.beside(moments)]
    beside += [] if actions is None else [actions]
    if encoder is not None:
        captions, folder = captions_of(config, index, pictures), Path(config.runs) / "latents"
        rows = {caption: row for row, caption in enumerate(sorted(set(captions)))}
        with claimed(folder / ".turn"):
            text, mask = encode_captions(encoder, list(rows), folder)
        beside.append(Texts(text, mask, [rows[caption] for caption in captions]))
    part = config.crop // of.factor
    return LatentDataset(of.content, view, config.train.seed, moments.moments, beside, part)


def batches(config: RunConfig, dataset: Samples) -> Callable[[int], Iterable[Sample]]:
    """This process's batches of a data set, without end, from a given sample of the order on."""

    def make(start: int) -> Iterable[Sample]:
        with processes(config.device) as group:
            batch = config.batch // config.train.accumulate
            order = dataset.order(batch, config.train.seed, group.rank, group.world, start)
            return make_loader(dataset, order, config.data.workers)

    return make


def first_batches(config: RunConfig, dataset: Samples, count: int) -> list[Sample]:
    """`count` samples of each bucket to validate on, the same ones each time and in every process; most clips first."""
    workers = min(config.data.workers, 1) if isinstance(dataset, ClipDataset) else 0  # where a decoder may hang
    groups = sorted(dataset.groups, key=len, reverse=True)
    keys = [next(iter(Order([indices], count, config.train.seed))) for indices in groups]
    return [next(iter(make_loader(dataset, [batch], workers))) for batch in keys]
