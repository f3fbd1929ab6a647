"""Which clips and pictures a training has, in which buckets, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vidiff.data.actions.read import Rows, frames_behind, read_actions
from vidiff.data.buckets import Bucket, assign
from vidiff.data.captions import read_captions
from vidiff.data.control.pair import control_index
from vidiff.data.index import Index, index_of
from vidiff.data.lists import LIST_SUFFIXES
from vidiff.data.options import BucketConfig
from vidiff.data.root import copies_of, root_of
from vidiff.pipeline.classifier import FILE as CLASSIFIER
from vidiff.pipeline.facts import FILE as FACTS
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, RunConfig, StudentRun
from vidiff.store.error import called
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json
from vidiff.store.remote import shown

SPLIT = "split.json"


def make_indexes(config: RunConfig) -> tuple[Index, Index]:
    """The clips to train on, and those that are held out. Buckets that stay empty are left out of the config.

    A training that goes on numbers the classes as it began, whatever their order is now.

    Raises:
        ValueError: as `index_of`; classes that are not those which the run has been trained on so far.
    """
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    if known := trained_classes(config):
        refuse_other_classes(config, known, index.labels)
        index, held_out = index.relabelled(known), held_out.relabelled(known)
    for line in moved_clips(config.folder, index, held_out):
        tqdm.write(line)
    keep_filled(config, index)
    return index, held_out


def keep_split(run: Path, held_out: Index) -> None:
    """Keep in a run's folder which clips it holds out, so that going on can tell of those that have changed side."""
    write_whole(run / SPLIT, json.dumps({"held_out": [file.name for file in held_out.files]}))


def moved_clips(run: Path, index: Index, held_out: Index) -> list[str]:
    """What is to be said of clips that have changed side since a training has last begun, or gone on."""
    if not (run / "checkpoints" / "latest").is_file():
        return []
    if not (run / SPLIT).is_file():
        if not held_out.by_name:
            return []
        return [
            f"{run} was begun when every twentieth clip was held out, and now their names tell which are: it may have "
            f"been trained on some of the {len(held_out.files)} that are held out from here on, of which val/loss then "
            "says too little; a training with another name=... measures all of them anew"
        ]
    before, now = {*read_json(run / SPLIT)["held_out"]}, {file.name for file in held_out.files}
    learned = [file.name for file in index.files if file.name in before - now]
    new = sorted(now - before)
    lines = [f"{run} is trained from here on on what it held out so far: {listed(learned)}"] if learned else []
    if new:
        lines.append(
            f"{run} holds out what it did not hold out so far, {listed(new)}: of what it has been trained on, val/loss "
            "says too little"
        )
    return lines


def trained_classes(config: RunConfig) -> list[str]:
    """Names of the classes of which a run has learned already, by number; none where it has not, or learns none."""
    file = {DiffusionRun: FACTS, StudentRun: FACTS, ClassifierRun: CLASSIFIER}.get(type(config))
    if file is None or not ((config.folder / "checkpoints" / "latest").is_file() and (config.folder / file).is_file()):
        return []
    learns = not isinstance(config, DiffusionRun) or config.conditional
    return [*read_json(config.folder / file)["labels"]] if learns else []


def refuse_other_classes(config: RunConfig, known: list[str], labels: list[str]) -> None:
    """Raises ValueError, naming them, for classes that a run does not know or that are no longer there."""
    gone, new = set_apart(known, labels), set_apart(labels, known)
    if not (gone or new):
        return
    changes = [f"is without {listed(gone)}"] if gone else []
    changes += [f"has {listed(new)} besides"] if new else []
    keep = f" with start={config.folder}, which keeps what fits" if isinstance(config, DiffusionRun) else ""
    raise ValueError(
        f"{config.folder} was trained on {len(known)} classes, and {shown(config.data.root)} now "
        f"{' and '.join(changes)}: call the classes as they were, or give this training another name=...{keep}"
    )


def set_apart(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of the names that the others lack."""
    return [name for name in names if name not in others]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def make_index(config: RunConfig, split: str) -> Index:
    """The clips of a split, as `index_of`."""
    return index_of(config.data, Path(config.runs), split)


def make_pictures(config: RunConfig, clips: Index) -> Index | None:
    """The pictures to train on beside the clips; one whose label no clip has, has none."""
    root = config.data.images
    if not root:
        return None
    layout = "auto" if Path(root).suffix.lower() in (*LIST_SUFFIXES, ".tar") else "images"
    data = replace(config.data, root=root, layout=layout, fps=0.0, seconds=0.0, frames=1, buckets=[])
    with called("data.images"):
        pictures = index_of(data, Path(config.runs), config.data.split)
    if clips.labels and (apart := set_apart(pictures.labels, clips.labels)):
        tqdm.write(f"no clip is of a class {listed(apart)}: pictures of it are trained on without a label")
    return replace(pictures.relabelled(clips.labels), cached=clips.cached)


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


def actions_of(config: RunConfig, index: Index) -> tuple[Rows, list[np.ndarray]]:
    """What was done in each clip of an index, at its own frames; and, where clips are seen at another rate, which of
    these is behind each frame that is seen."""
    root = root_of(config.data.root, copies_of(Path(config.runs), config.data.remote_cache_gb))
    files, sources = index.files, list[np.ndarray]()
    if index.fps:
        shown = tqdm(files, desc="times", unit="file")
        pairs = [frames_behind(file, index.manner(file)) for file in shown]
        sources = [behind for behind, _ in pairs]
        files = [replace(file, frames=own) for file, (_, own) in zip(files, pairs, strict=True)]
    return read_actions(root, files), sources


def control_of(config: RunConfig, index: Index) -> Index:
    """The videos beside the clips of an index, as `vidiff.data.control.pair.control_index`."""
    return control_index(index, config.data, Path(config.runs))


def captions_of(config: RunConfig, index: Index, pictures: bool = False) -> list[str]:
    """The caption of each clip of an index, or of each picture beside the clips."""
    data = config.data
    root = root_of(data.images if pictures else data.root, copies_of(Path(config.runs), data.remote_cache_gb))
    return read_captions(root, index.files, data.captions)
