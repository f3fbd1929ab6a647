"""A kind of training, and the one way to run any."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, same_codec
from vidiff.data.clips import Sample, Samples
from vidiff.data.index import Index
from vidiff.engine.checkpoint import newest
from vidiff.engine.guard import locked
from vidiff.engine.loop import fit
from vidiff.engine.model import shards_of
from vidiff.engine.parallel import processes
from vidiff.engine.publish import step_of
from vidiff.engine.seeds import kernels
from vidiff.plan.estimate import refuse_too_large
from vidiff.recipe.kinds import RunConfig, StudentRun
from vidiff.recipe.load import dump, load_resolved
from vidiff.recipe.unread import refuse_unread
from vidiff.report.sinks import check_sinks
from vidiff.store.files import claimed, write_whole
from vidiff.store.remote import is_url
from vidiff.training.datasets import batches

Run = TypeVar("Run", bound=RunConfig)

# what may change while a model is trained
FREE = ("unet.dropout", "unet.checkpoint", "unet.attention_backend", "unet.fused", "classifier.dropout")


class Stage(Generic[Run]):
    """One training of a kind. `run_stage` calls its methods in the order in which they stand here.

    Args:
        config: as `vidiff.recipe.load.load` returns it; `prepare` fills in what follows from codec and data.
        folder: where the config file stands; paths in it are relative to that.

    Attributes:
        samples: whether this kind of training shows samples on the way.
        objective: what is trained, from `build` on.
    """

    samples = True
    objective: nn.Module

    def __init__(self, config: Run, folder: Path) -> None:
        self.config, self.folder = config, folder

    def check(self) -> None:
        """Refuse what config and machine alone tell to be wrong. It takes seconds and makes nothing, not even a folder.

        Raises:
            ValueError: options that nothing reads, a place for metrics whose package is not installed.
        """
        refuse_unread(self.config)
        check_sinks(self.config.train.log)

    def prepare(self) -> None:
        """Make what the training depends on, where it is not there. What can be wrong with the data, and with a model
        of such data, is told before another stage is trained.

        Raises:
            ValueError: data, codec or config that cannot be used; a run that holds another model.
        """
        raise NotImplementedError

    def keep(self) -> None:
        """Write what the run's folder holds beside its configs. The folder is claimed meanwhile."""

    def build(self) -> None:
        """Make the objective, with its first weights, and what it is validated on."""
        raise NotImplementedError

    def dataset(self) -> Samples:
        """What is trained on."""
        raise NotImplementedError

    def indexes(self) -> list[Index]:
        """Whose files the numbers of the data set's samples mean, those of one index after those of another."""
        raise NotImplementedError

    def validate(self, step: int) -> dict[str, float]:
        """Numbers to log, of the weights as they are."""
        raise NotImplementedError

    def sample(self, step: int) -> None:
        """Write samples into the run's folder."""

    def finish(self) -> None:
        """Write what a training leaves that has reached its last step."""

    def sample_path(self, step: int) -> Path:
        return self.config.folder / "samples" / f"step-{step:07d}.mp4"

    def here(self, batch: Sample) -> Sample:
        """A batch where the objective is."""
        device = next(self.objective.parameters()).device
        return {name: value.to(device) for name, value in batch.items()}


def run_stage(stage: Stage[Any], given: str) -> None:
    """Bring a training to its last step.

    Args:
        given: the config as the user wrote it, kept beside the resolved one.

    Raises:
        ValueError: where data or config cannot be used, memory is far too small, or another training holds the run.
        vidiff.engine.guard.Interrupted: after a signal, with everything saved.
    """
    config = stage.config
    config.check_name()
    refuse_too_large(config, stage.folder)
    with ExitStack() as held:
        held.enter_context(kernels(config.train.deterministic, one_shape=not config.data.buckets))
        group = held.enter_context(processes(config.device))
        shards_of(group, config.train)
        group.agree(stage.check)
        if group.main:
            held.enter_context(locked(config.folder))
        stage.prepare()
        with claimed(config.folder / ".turn"):
            write_whole(config.folder / "config.yaml", given)  # whole: processes that had their turn read them already
            write_whole(config.folder / "resolved.yaml", dump(config))
            stage.keep()
        torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
        stage.build()
        dataset, files = stage.dataset(), [file.name for index in stage.indexes() for file in index.files]
        fit(
            stage.objective,
            batches(config, dataset),
            config.batch,
            config.train,
            config.folder,
            device=config.device,
            validate=stage.validate,
            sample=stage.sample if stage.samples else None,
            title=config.name,
            name=files.__getitem__,
        )
        if group.main:
            stage.finish()


CLIPS = ("root", "shapes", "split", "fold", "images", "control")  # of the data: which clips a training sees,
SIGHT = ("size", "frames", "stride", "least_stride", "buckets", "flip", "zoom", "jitter")  # and what of them


def changed_sight(before: RunConfig, now: RunConfig, keys: Sequence[str] = (*CLIPS, "limit", *SIGHT)) -> list[str]:
    """In what the clips that one config names differ from those of another: a phrase for each such key of the data.

    Who saw as many of the files as are wanted now, or more, has seen these.
    """
    phrases = []
    for key in keys:
        one, other = getattr(before.data, key), getattr(now.data, key)
        same = one == other
        if key in ("root", "images", "control") and one and other and not is_url(one) and not is_url(other):
            same = Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
        if key == "limit":
            same = not one or 0 < other <= one
        if key == "buckets" and one and other:  # of which a run keeps those that are filled
            same = {*before.data.plan()} <= {*now.data.plan()}
        if not same:
            phrases.append(f"data.{key}={one}, not {other}")
    return phrases


ADVICE = "give this training another name=..., or set it as it was"  # where a run holds another model


def begun(run: Path) -> bool:
    """Whether a run holds weights."""
    return (run / "checkpoints" / "latest").is_file() and (run / "resolved.yaml").is_file()


def refuse_another_model(config: RunConfig) -> None:
    """Raises ValueError if the run holds weights of another model, before anything of the run is written over."""
    folder = config.folder
    if not begun(folder):
        return
    last = load_resolved(folder / "resolved.yaml")
    before, now = flatten(asdict(last)), flatten(asdict(config))
    fixed = ["unet.", "vae.", "text.", "classifier.", "kind", "prediction", "lowres.factor"]
    fixed += ["loss.discriminator"] if now.get("loss.adversarial") else []
    if isinstance(config, StudentRun) and config.loss.told:  # which guidance it is told the scale of
        fixed += ["loss.guidance", "loss.history", "sampling.interval"]
    for key in now:
        if key.startswith(tuple(fixed)) and key not in FREE and before.get(key) != now[key]:
            raise ValueError(f"{folder} was trained with {key}={before.get(key)}, not {now[key]}: {ADVICE}")
    if bool(before.get("loss.adversarial")) != bool(now.get("loss.adversarial")):
        raise ValueError(
            f"{folder} was trained with loss.adversarial={before.get('loss.adversarial')}, and a discriminator cannot "
            f"come or go on the way: give this training another name=..., and start={folder}"
        )
    if other := changed_sight(last, config, CLIPS):
        checkpoint = newest(folder / "checkpoints")
        if checkpoint is not None and step_of(checkpoint) >= config.train.steps:
            raise ValueError(f"{folder} has been trained to its last step, with {'; '.join(other)}: {ADVICE}")
        tqdm.write(f"{folder} was trained so far with {'; '.join(other)}: from here on it sees the other clips")


def refuse_other_latents(config: RunConfig, codec: Codec) -> None:
    """Raises ValueError if the run holds a model of the latents of another codec."""
    folder = config.folder
    if not (begun(folder) and (folder / "codec" / "codec.json").is_file()):
        return
    if not same_codec(load_codec(folder / "codec"), codec):
        raise ValueError(f"{folder} was trained with another codec, which has been trained further since: {ADVICE}")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
