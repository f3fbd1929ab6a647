"""Which clips and pictures a training has, in which buckets, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from vidiff.data.buckets import Bucket, assign
from vidiff.data.captions import read_captions
from vidiff.data.index import Index, index_of
from vidiff.data.lists import LIST_SUFFIXES
from vidiff.data.options import BucketConfig
from vidiff.data.root import copies_of, root_of
from vidiff.recipe.kinds import RunConfig


def make_indexes(config: RunConfig) -> tuple[Index, Index]:
    """The clips to train on, and those that are held out. Buckets that stay empty are left out of the config."""
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    keep_filled(config, index)
    return index, held_out


def make_index(config: RunConfig, split: str) -> Index:
    """The clips of a split, as `index_of`."""
    return index_of(config.data, Path(config.runs), split)


def make_pictures(config: RunConfig, labels: list[str]) -> Index | None:
    """The pictures to train on beside clips with these labels; one whose label no clip has, has none."""
    root = config.data.images
    if not root:
        return None
    layout = "auto" if Path(root).suffix.lower() in (*LIST_SUFFIXES, ".tar") else "images"
    data = replace(config.data, root=root, layout=layout, fps=0.0, seconds=0.0)
    pictures = index_of(data, Path(config.runs), config.data.split)
    numbers = [labels.index(name) if name in labels else -1 for name in pictures.labels]
    files = [replace(file, label=numbers[file.label] if file.label >= 0 else -1) for file in pictures.files]
    return replace(pictures, files=files, labels=labels)


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
    pairs = zip(index.files, buckets_of(config, index), strict=True)
    filled = {bucket for file, bucket in pairs if file.frames > (bucket.frames - 1) * data.stride[0]}
    for bucket in data.plan():
        if bucket not in filled:
            tqdm.write(f"no clip goes to the bucket of {bucket}: it is left out")
    data.buckets = [BucketConfig(b.frames, [*b.size]) for b in data.plan() if b in filled] or data.buckets


def captions_of(config: RunConfig, index: Index, pictures: bool = False) -> list[str]:
    """The caption of each clip of an index, or of each picture beside the clips."""
    data = config.data
    root = root_of(data.images if pictures else data.root, copies_of(Path(config.runs), data.remote_cache_gb))
    return read_captions(root, index.files, data.captions)
