"""The stages of a training, in order: index of clips, codec, latent cache, model. What is there is not made again."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from vidiff.codec.codec import TILE, Codec, Identity, VAECodec
from vidiff.codec.diffusers import DiffusersCodec
from vidiff.codec.files import save_codec
from vidiff.data.clips import Joint, Samples
from vidiff.data.index import Index
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.guard import locked
from vidiff.engine.loop import fit
from vidiff.engine.parallel import choose_device, processes
from vidiff.engine.precision import Precision
from vidiff.nn.causal import Stream
from vidiff.objective.bound import BoundObjective
from vidiff.objective.classifier import ClassifierObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.objective.vae import VAEObjective
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import trained_precision
from vidiff.plan.estimate import refuse_too_large
from vidiff.recipe.build import build_classifier, build_codec, build_objective, build_vae_objective
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, LatentRun, RunConfig, VAERun
from vidiff.recipe.load import dump, load_codec_config
from vidiff.recipe.slots import build_text
from vidiff.store.files import claimed
from vidiff.training.begin import begin, begin_vae
from vidiff.training.datasets import batches, clip_dataset, first_batches, latent_dataset
from vidiff.training.prepare import (
    Latents,
    captions_of,
    encode_plan,
    keep_filled,
    kinds,
    latents_folder,
    make_index,
    make_latents,
    make_pictures,
    plan_latents,
    record,
    refuse_another_model,
    resolve,
)
from vidiff.video.writer import grid, write_video

HELD_OUT = 96  # clips that a classifier is validated on


def train(config: RunConfig, given: str, folder: Path) -> None:
    """Bring a run to its last step.

    Args:
        config: as `vidiff.recipe.load.load` returns it.
        given: the config as the user wrote it, kept beside the resolved one.
        folder: where the config file stands; paths in it are relative to that.

    Raises:
        ValueError: where data or config cannot be used, memory is far too small, or another training holds the run.
        vidiff.engine.guard.Interrupted: after a signal, with everything saved.
    """
    refuse_too_large(config, folder)
    with processes(config.device) as group, locked(config.folder) if group.main else nullcontext():
        if isinstance(config, VAERun):
            train_vae(config, given)
        elif isinstance(config, DiffusionRun):
            train_diffusion(config, given, folder)
        elif isinstance(config, ClassifierRun):
            train_classifier(config, given, folder)


def train_vae(config: VAERun, given: str) -> None:
    """Train an autoencoder."""
    refuse_another_model(config)
    index, held_out = find_clips(config)
    pictures = make_pictures(config, index.labels)
    record(config, given)
    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_vae_objective(config)
    begin_vae(config, objective.network)
    test = first_batches(config, clip_dataset(config, held_out), 16)[0]["video"]

    def validate(step: int) -> dict[str, float]:
        device = next(objective.parameters()).device
        return {f"val/{key}": float(value) for key, value in objective({"video": test.to(device)}).items()}

    def sample(step: int) -> None:
        device = next(objective.parameters()).device
        clips = test[:8].to(device)
        frames = clips.transpose(1, 2).flatten(0, 1)
        mean, _ = objective.network.encode(frames, Stream(len(clips)))
        found = objective.network.decode(mean, Stream(len(clips))).clamp(-1, 1).cpu()
        pairs = torch.cat([frames.cpu(), found], dim=-1).unflatten(0, (-1, test.shape[2])).transpose(1, 2)
        write_video(config.folder / "samples" / f"step-{step:07d}.mp4", pairs, fps=2)

    clips = clip_dataset(config, index, changed=True)
    dataset: Samples = clips
    if pictures is not None:
        shown = clip_dataset(config, pictures, changed=True, pictures=True)
        dataset = Joint(clips, shown, config.data.images_share)
    fit_run(config, objective, dataset, validate, sample, indexes=[index, pictures])


def train_diffusion(config: DiffusionRun, given: str, folder: Path) -> None:
    """Train a diffusion model, after whatever it depends on."""
    found = prepare_latents(config, folder)
    index, codec, seen = found.index, found.codec, found.seen
    encoder, captions = build_text(config.text) if config.text else None, list[str]()
    if encoder is not None:
        captions = captions_of(config, index)
        encoder.learn([*captions, *(captions_of(config, found.pictures) if found.pictures else [])])
    resolve(config, codec, index, encoder)
    refuse_another_model(config, codec, encoder)
    record(config, given)
    with claimed(config.folder / ".turn"):
        save_codec(config.folder / "codec", codec)
        facts = Facts.of(
            config,
            labels=tuple(index.labels),
            fps=statistics.median(file.fps for file in index.files) / config.data.stride[0],
            detail=None if seen.detail is None else tuple(seen.detail.tolist()),
            text=None if encoder is None else encoder.facts(),
        )
        facts.save(config.folder)

    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_objective(config)
    begin(config, codec, objective.denoiser)
    model = TrainedModel(objective.denoiser, codec, facts, encoder)
    pipeline = Pipeline(model, config.sampling, config.device)
    clips = latent_dataset(config, index, seen, seen, encoder)
    dataset: Samples = clips
    if found.pictures is not None and found.shown is not None:
        pictures = latent_dataset(config, found.pictures, found.shown, seen, encoder, pictures=True)
        dataset = Joint(clips, pictures, config.data.images_share)
    tests = first_batches(config, latent_dataset(config, found.held_out, found.unseen, seen, encoder), 16)
    prompts = [caption for caption in sorted(set(captions)) if encoder is not None and encoder.fits(caption)]
    real = first_batches(config, clip_dataset(config, found.held_out), config.sampling.count)[0]["video"]

    def validate(step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        batches = [{name: value.to(pipeline.device) for name, value in test.items()} for test in tests]
        return {"val/loss": statistics.fmean(float(objective(batch)["loss"]) for batch in batches)}

    def sample(step: int) -> None:
        count = config.sampling.count
        path = config.folder / "samples" / f"step-{step:07d}.mp4"
        if factor := config.lowres.factor:
            small = shrink(real, factor)
            rows = [enlarge(small, factor), pipeline.upscale(small), real]  # one below another: bicubic, model, truth
            write_video(path, grid(torch.cat(rows), columns=count), fps=pipeline.fps)
            return
        labels = [i % len(pipeline.labels) for i in range(count)] if pipeline.labels else None
        texts = [prompts[i * len(prompts) // count] for i in range(count)] if prompts else None
        made = pipeline.generate(label=labels, count=count, text=texts)
        write_video(path, made.cpu(), fps=pipeline.fps)
        if (frames := real.shape[2]) > 1:
            context = min(config.sampling.context, frames - 1)
            longer = pipeline.extend(real[:, :, :context], frames=2 * frames - context)
            write_video(path.with_stem(f"{path.stem}-extended"), longer.cpu(), fps=pipeline.fps)

    fit_run(config, objective, dataset, validate, sample, indexes=[index, found.pictures])


def train_classifier(config: ClassifierRun, given: str, folder: Path) -> None:
    """Train a classifier of noised latents, after whatever it depends on."""
    found = prepare_latents(config, folder)
    index, codec, seen = found.index, found.codec, found.seen
    resolve(config, codec, index)
    refuse_another_model(config, codec)
    record(config, given)
    with claimed(config.folder / ".turn"):
        save_codec(config.folder / "codec", codec)
        (config.folder / "classifier.json").write_text(json.dumps({"labels": index.labels}))

    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_classifier(config)
    test = first_batches(config, latent_dataset(config, found.held_out, found.unseen, seen), HELD_OUT)[0]

    def validate(step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        device = next(objective.parameters()).device
        scores = objective({name: value.to(device) for name, value in test.items()})
        return {f"val/{key}": float(value) for key, value in scores.items()}

    fit_run(config, objective, latent_dataset(config, index, seen, seen), validate, indexes=[index])


def find_clips(config: RunConfig) -> tuple[Index, Index]:
    """The clips to train on, and those that are held out. Buckets that stay empty are left out of the config."""
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    keep_filled(config, index)
    return index, held_out


@dataclass(frozen=True)
class Prepared:
    """What a training on latents begins from.

    Attributes:
        index, seen: the clips to train on, and their latents.
        held_out, unseen: those that are held out.
        pictures, shown: pictures to train on besides, if any.
    """

    codec: Codec
    index: Index
    seen: Latents
    held_out: Index
    unseen: Latents
    pictures: Index | None
    shown: Latents | None


def prepare_latents(config: LatentRun, folder: Path) -> Prepared:
    """Clips, codec and latents, made where they are not there."""
    plan = plan_codec(config, folder)
    index, held_out = find_clips(config)
    pictures = make_pictures(config, index.labels)
    codec, key, precision = make_codec(config, plan, folder)
    data, how = config.data, (precision, config.data.split)
    seen, unseen = (
        make_latents(config, codec, key, clips, precision, split)
        for clips, split in ((index, data.split), (held_out, data.test_split))
    )
    shown = None if pictures is None else make_latents(config, codec, key, pictures, *how, pictures=True)
    if not codec.fixed:
        codec.set_statistics(*seen.codec_moments)
    return Prepared(codec, index, seen, held_out, unseen, pictures, shown)


def encode(config: RunConfig, folder: Path, splits: Sequence[str], part: tuple[int, int] = (0, 1)) -> list[str]:
    """Cache the latents that a model will be trained on, or a part of them. The codec must have been trained.

    Args:
        folder: where the config file stands; paths in it are relative to that.
        part: (i, n), to encode the shards i, i + n, ... alone; others encode the rest, at any time, on any machine
            that shares the folder.

    Returns:
        a line on each cache.

    Raises:
        ValueError: as `train`; a config of another kind, or a codec that is not trained.
    """
    if not isinstance(config, LatentRun):
        raise ValueError(
            f"a run of kind {config.kind} has no latents: give the config of a model that is trained on them"
        )
    plan = plan_codec(config, folder)
    if isinstance(plan, VAERun) and not is_trained(plan):
        raise ValueError(
            f"the autoencoder in {plan.folder} is not trained: run python -m vidiff.train "
            f"{folder / config.codec.config}"
        )
    lines = []
    with processes(config.device):
        codec, key, precision = make_codec(config, plan, folder)
        index, held_out = find_clips(config)
        pictures = make_pictures(config, index.labels)
        indexes = [(config.data.split, index, False), (config.data.test_split, held_out, False)]
        indexes += [] if pictures is None else [(config.data.split, pictures, True)]
        for split, clips, shown in indexes:
            for of in kinds(config) if split in splits else ():
                wanted = plan_latents(config, codec, key, clips, precision, split, of, shown)
                found = encode_plan(config, codec, wanted, part)
                place = wanted.folder(latents_folder(config))
                there = len(list(place.glob("latents-*.safetensors")))
                state = "complete" if found else "the others are still to come"
                what = "pictures" if shown else split
                lines.append(f"{what} ({of}): {there} of {len(wanted.shards())} shards in {place}, {state}")
    return lines


def fit_run(
    config: RunConfig,
    objective: VAEObjective | DiffusionObjective | BoundObjective | ClassifierObjective,
    dataset: Samples,
    validate: Callable[[int], dict[str, float]],
    sample: Callable[[int], None] | None = None,
    *,
    indexes: Sequence[Index | None],
) -> None:
    """Trains on a data set of the files of `indexes`, one after another."""
    names = [file.name for index in indexes if index for file in index.files]
    fit(
        objective,
        batches(config, dataset),
        config.batch,
        config.train,
        config.folder,
        device=config.device,
        validate=validate,
        sample=sample,
        title=config.name,
        name=names.__getitem__,
    )


def is_trained(vae: VAERun) -> bool:
    """Whether an autoencoder has reached its last step."""
    checkpoint = newest(vae.folder / "checkpoints") if vae.folder.is_dir() else None
    return checkpoint is not None and int(checkpoint.name.split("-")[1]) >= vae.train.steps


def plan_codec(config: LatentRun, folder: Path) -> VAERun | Identity | DiffusersCodec:
    """The config that trains a model's codec, or a codec that needs no training.

    Raises:
        ConfigError: as `load_codec_config` and `build_codec`, before any data is touched.
    """
    return load_codec_config(config, folder) if config.codec.name == "vae" else build_codec(config)


def make_codec(
    config: LatentRun, plan: VAERun | Identity | DiffusersCodec, folder: Path
) -> tuple[Codec, str, Precision]:
    """A model's codec, trained first if need be, a hash that names it, and the precision in which it encodes."""
    if not isinstance(plan, VAERun):
        return plan, plan.digest(), "fp32"
    codec, key = prepare_codec(plan, folder, config.codec.tile)
    return codec, key, trained_precision(plan.folder, choose_device(config.device))


def prepare_codec(vae: VAERun, folder: Path, tile: int = TILE) -> tuple[VAECodec, str]:
    """The autoencoder, trained first if it has not reached its last step, and a hash that names it."""
    if not is_trained(vae):
        train(vae, dump(vae), folder)
    checkpoint = newest(vae.folder / "checkpoints")
    assert checkpoint is not None
    codec = VAECodec(vae.vae, tile)
    weights = load_part(checkpoint, "network")  # and not what helped to train it
    codec.network.load_state_dict(weights)
    digest = hashlib.sha256(repr(vae.vae).encode())
    for key in sorted(weights):
        digest.update(f"network.{key}".encode() + weights[key].contiguous().numpy().tobytes())
    return codec.eval().requires_grad_(False), digest.hexdigest()
