"""A rehearsal: the whole of a training, for two steps on a few clips, in a folder that is thrown away."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from vidiff.data.lists import LIST_SUFFIXES
from vidiff.data.shapes import LABELS, ShapesSpec
from vidiff.engine.checkpoint import load_weights, newest
from vidiff.recipe.kinds import LatentRun, RunConfig, VAERun
from vidiff.recipe.load import dump
from vidiff.report.log import duration, read_metrics
from vidiff.store.remote import is_url
from vidiff.training.prepare import plan_codec
from vidiff.training.stages import STAGES, train

STEPS = 2  # the first warms up, the second is timed


def rehearse(config: RunConfig, folder: Path) -> None:
    """Index, codec, latents, training, validation, sampling and checkpoint, each for real; then what to expect.

    Raises:
        ValueError: as `vidiff.training.stages.train`.
    """
    config.check_name()
    STAGES[config.kind](config, folder).check()
    with tempfile.TemporaryDirectory() as scratch:
        small = copy.deepcopy(config)
        changes: dict[str, object] = {
            "steps": STEPS,
            "log_every": 1,
            "validate_every": STEPS,
            "sample_every": STEPS,
            "log": [],
        }
        for key, value in changes.items():
            setattr(small.train, key, value)
        if isinstance(small, VAERun):
            small.loss.adversarial_start = 0  # the dearer part of the training is the one to rehearse
        small.data.latents = ""
        small.runs, small.data.limit = scratch, max(config.batch, 16)
        if config.data.layout == "shapes" and not (Path(config.data.root) / "spec.json").is_file():
            small.data.root = f"{scratch}/shapes"  # a few clips of the set are drawn, for the rehearsal alone
            small.data.shapes = few_shapes(config.data.shapes, small.data.limit)
        elif any(_fetched(getattr(config.data, name)) for name in ("root", "images", "control")):
            # what is fetched for it is kept
            kept = Path(config.runs).resolve() / "remote"
            kept.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / "remote").symlink_to(kept)
        plans = [config]
        if isinstance(small, LatentRun) and isinstance(config, LatentRun) and config.codec.name == "vae":
            codec = plan_codec(config, folder)  # which refuses one that the training itself would not take over
            assert isinstance(codec, VAERun)
            plans = [config] if config.codec.run else [codec, config]  # one that is there is not trained
            if not config.codec.run:
                small.codec.least = 0.0  # an autoencoder of two steps keeps nothing yet
            small.codec.ceiling.clips = min(small.codec.ceiling.clips, 8)
            small.codec.own_data = False  # that data may have to be made, and would be kept
            small.codec.override = {
                **small.codec.override,
                "train": {**small.codec.override.get("train", {}), **changes},
                "loss": {**small.codec.override.get("loss", {}), "adversarial_start": 0},
            }
        train(small, dump(small), folder)
        print(f"\n{'':12}{'parameters':>14}{'memory':>10}{'a step':>10}{'steps':>10}{'all':>12}")
        for plan in plans:
            print(expectation(plan, Path(scratch) / plan.name))
    print("dry run complete: nothing was kept")


def few_shapes(asked: dict[str, int], clips: int) -> dict[str, int]:
    """Options of a shapes set like the one that is asked for, but with no more than `clips` in a split, or one of each
    label."""
    spec, most = ShapesSpec(**asked), -(-clips // len(LABELS))
    return {**asked, "train": min(spec.train, most), "test": min(spec.test, most)}


def _fetched(root: str) -> bool:
    """Whether files of a data set may be elsewhere: it is a URL, or a list, which may name some."""
    return is_url(root) or Path(root).suffix.lower() in LIST_SUFFIXES


def expectation(plan: RunConfig, done: Path) -> str:
    """One line on a run, from the rehearsal in the folder `done`."""
    checkpoint = newest(done / "checkpoints")
    assert checkpoint is not None
    parameters = sum(tensor.numel() for tensor in load_weights(checkpoint).values())
    last = [line for line in read_metrics(done / "metrics.jsonl") if "clips_per_second" in line][-1]
    seconds = plan.batch / last["clips_per_second"]
    return (
        f"{plan.kind:12}{parameters:>14,}{last['memory_gb']:>7.1f} GB{seconds:>8.2f} s{plan.train.steps:>10,}"
        f"{duration(seconds * plan.train.steps):>12}"
    )
