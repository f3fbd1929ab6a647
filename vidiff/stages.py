"""The stages of a training, in order: index of clips, codec, latent cache, model. What is there is not made again."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from vidiff.codec import Codec, Identity, VAECodec
from vidiff.config import dump, load_codec_config
from vidiff.data.index import Index
from vidiff.data.video import grid, write_video
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_weights, newest
from vidiff.engine.guard import locked
from vidiff.engine.loop import fit
from vidiff.engine.parallel import choose_device, processes
from vidiff.nn.vae import VAE
from vidiff.objective.bound import BoundObjective
from vidiff.objective.classifier import ClassifierObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.objective.vae import VAEObjective
from vidiff.pipeline import Pipeline
from vidiff.prepare import (
    Latents,
    Samples,
    batches,
    captions_of,
    clip_dataset,
    encode_plan,
    first_batch,
    kinds,
    latent_dataset,
    make_index,
    make_latents,
    one_at_a_time,
    plan_latents,
    record,
    refuse_another_model,
    resolve,
    same_codec,
    with_text,
)
from vidiff.recipe import (
    ClassifierRun,
    DiffusionRun,
    LatentRun,
    RunConfig,
    VAERun,
    build_classifier,
    build_objective,
    build_text,
    build_vae_objective,
)
from vidiff.resize import enlarge, shrink
from vidiff.run import load_codec, read_config, read_run, save_codec, trained_precision

HELD_OUT = 96  # clips that a classifier is validated on


def train(config: RunConfig, given: str, folder: Path) -> None:
    """Bring a run to its last step.

    Args:
        config: as `vidiff.config.load` returns it.
        given: the config as the user wrote it, kept beside the resolved one.
        folder: where the config file stands; paths in it are relative to that.

    Raises:
        ValueError: where data or config cannot be used, or another training holds the run.
        vidiff.engine.guard.Interrupted: after a signal, with everything saved.
    """
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
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    record(config, given)
    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_vae_objective(config)
    begin_vae(config, objective.network)
    test = first_batch(config, clip_dataset(config, held_out), 16)["video"]

    def validate(step: int) -> dict[str, float]:
        device = next(objective.parameters()).device
        return {f"val/{key}": float(value) for key, value in objective({"video": test.to(device)}).items()}

    def sample(step: int) -> None:
        device = next(objective.parameters()).device
        frames = test[:8].to(device).transpose(1, 2).flatten(0, 1)
        found = objective.network.decode(objective.network.encode(frames)[0]).clamp(-1, 1).cpu()
        pairs = torch.cat([frames.cpu(), found], dim=-1).unflatten(0, (-1, test.shape[2])).transpose(1, 2)
        write_video(config.folder / "samples" / f"step-{step:07d}.mp4", pairs, fps=2)

    fit_run(config, objective, clip_dataset(config, index), validate, sample, index=index)


def train_diffusion(config: DiffusionRun, given: str, folder: Path) -> None:
    """Train a diffusion model, after whatever it depends on."""
    index, held_out, codec, seen, unseen = prepare_latents(config, folder)
    encoder, captions = build_text(config.text) if config.text else None, list[str]()
    if encoder is not None:
        captions = captions_of(config, index)
        encoder.learn(captions)
    resolve(config, codec, index, encoder)
    refuse_another_model(config, codec, encoder)
    record(config, given)
    with one_at_a_time(config.folder):
        save_codec(config.folder / "codec", codec, codec.network.config if isinstance(codec, VAECodec) else None)
        labels = index.labels if config.unet.labels else []
        fps = statistics.median(file.fps for file in index.files) / config.data.stride[0]
        facts = {"labels": labels, "fps": fps} | ({} if encoder is None else {"text": encoder.facts()})
        if seen.detail is not None:
            facts["detail"] = seen.detail.tolist()
        (config.folder / "data.json").write_text(json.dumps(facts))

    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_objective(config)
    begin(config, codec, objective.denoiser)
    pipeline = Pipeline(
        objective.denoiser,
        codec,
        config.data.frames,
        config.data.size,
        labels,
        fps,
        config.sampling,
        config.device,
        config.data.stride[0] if config.unet.strided else None,
        boxes=config.loss.tasks.boxes > 0,
        text=encoder,
        lowres=config.lowres,
        detail=seen.detail,
        longest=config.data.stride[1],
    )
    dataset = with_text(config, latent_dataset(config, seen, seen), encoder, index)
    held = with_text(config, latent_dataset(config, unseen, seen), encoder, held_out)
    test = first_batch(config, held, 16)
    prompts = [caption for caption in sorted(set(captions)) if encoder is not None and encoder.fits(caption)]
    clips = first_batch(config, clip_dataset(config, held_out), config.sampling.count)["video"]

    def validate(step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        batch = {name: value.to(pipeline.device) for name, value in test.items()}
        scores = objective(batch)
        return {"val/loss": float(scores["loss"])}

    def sample(step: int) -> None:
        count, frames = config.sampling.count, config.data.frames
        path = config.folder / "samples" / f"step-{step:07d}.mp4"
        if factor := config.lowres.factor:
            small = shrink(clips, factor)
            rows = [enlarge(small, factor), pipeline.upscale(small), clips]  # one below another: bicubic, model, truth
            write_video(path, grid(torch.cat(rows), columns=count), fps=pipeline.fps)
            return
        labels = [i % len(pipeline.labels) for i in range(count)] if pipeline.labels else None
        texts = [prompts[i * len(prompts) // count] for i in range(count)] if prompts else None
        made = pipeline.generate(label=labels, count=count, text=texts)
        write_video(path, made.cpu(), fps=pipeline.fps)
        if frames > 1:
            given = clips[:, :, : config.sampling.context]
            longer = pipeline.extend(given, frames=2 * frames - config.sampling.context)
            write_video(path.with_stem(f"{path.stem}-extended"), longer.cpu(), fps=pipeline.fps)

    fit_run(config, objective, dataset, validate, sample, index=index)


def train_classifier(config: ClassifierRun, given: str, folder: Path) -> None:
    """Train a classifier of noised latents, after whatever it depends on."""
    index, _, codec, seen, unseen = prepare_latents(config, folder)
    resolve(config, codec, index)
    refuse_another_model(config, codec)
    record(config, given)
    with one_at_a_time(config.folder):
        save_codec(config.folder / "codec", codec, codec.network.config if isinstance(codec, VAECodec) else None)
        (config.folder / "classifier.json").write_text(json.dumps({"labels": index.labels}))

    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_classifier(config)
    test = first_batch(config, latent_dataset(config, unseen, seen), HELD_OUT)

    def validate(step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        device = next(objective.parameters()).device
        scores = objective({name: value.to(device) for name, value in test.items()})
        return {f"val/{key}": float(value) for key, value in scores.items()}

    fit_run(config, objective, latent_dataset(config, seen, seen), validate, index=index)


def prepare_latents(config: LatentRun, folder: Path) -> tuple[Index, Index, Codec, Latents, Latents]:
    """What a training on latents begins from, made where it is not there: clips, codec and latents.

    Returns:
        the index of the training clips, that of the held-out ones, the codec, and the latents of each index.
    """
    vae = load_codec_config(config, folder) if config.codec.name == "vae" else None
    splits = config.data.split, config.data.test_split
    index, held_out = (make_index(config, split) for split in splits)
    codec, key = (Identity(), "identity") if vae is None else prepare_codec(vae, folder)
    precision = "fp32" if vae is None else trained_precision(vae.folder, choose_device(config.device))
    seen, unseen = (
        make_latents(config, codec, key, clips, precision, split)
        for clips, split in zip((index, held_out), splits, strict=True)
    )
    codec.set_statistics(*seen.codec_moments)
    return index, held_out, codec, seen, unseen


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
    vae = load_codec_config(config, folder) if config.codec.name == "vae" else None
    if vae is not None and not is_trained(vae):
        raise ValueError(
            f"the autoencoder in {vae.folder} is not trained: run python -m vidiff.train {folder / config.codec.config}"
        )
    lines = []
    with processes(config.device):
        codec, key = (Identity(), "identity") if vae is None else prepare_codec(vae, folder)
        precision = "fp32" if vae is None else trained_precision(vae.folder, choose_device(config.device))
        for split in splits:
            index = make_index(config, split)
            for of in kinds(config):
                plan = plan_latents(config, codec, key, index, precision, split, of)
                found = encode_plan(config, codec, plan, part)
                place = plan.folder(Path(config.runs) / "latents")
                there = len(list(place.glob("latents-*.safetensors")))
                state = "complete" if found else "the others are still to come"
                lines.append(f"{split} ({of}): {there} of {len(plan.shards())} shards in {place}, {state}")
    return lines


def begin(config: DiffusionRun, codec: Codec, denoiser: Denoiser) -> None:
    """Give a denoiser the weights of the run `config.start`, as far as it has them.

    Raises:
        ValueError: no such run, one with another codec, or with weights that do not fit.
    """
    if not config.start:
        return
    source = Path(config.start)
    checkpoint = newest(source / "checkpoints") if read_config(source) else None
    if checkpoint is None:
        raise ValueError(f"start={source} has no checkpoint yet: train it first")
    if not same_codec(load_codec(source / "codec"), codec):
        raise ValueError(
            f"start={source} was trained on the latents of another codec, so its weights mean other things"
        )
    own = "denoiser."
    state = {key.removeprefix(own): value for key, value in load_weights(checkpoint).items() if key.startswith(own)}
    try:
        found = denoiser.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"start={source} has another network: {str(error).splitlines()[-1].strip()}") from None
    if found.unexpected_keys:
        raise ValueError(f"start={source} has weights that this model lacks, such as {found.unexpected_keys[0]}")


def begin_vae(config: VAERun, network: VAE) -> None:
    """Give an autoencoder the weights of the run `config.start`, its discriminator apart.

    Raises:
        ValueError: no such run, or one of another shape.
    """
    if not config.start:
        return
    source = Path(config.start)
    own, shape = "network.", read_run(source, VAERun).vae
    if shape != config.vae:
        raise ValueError(f"start={source} has an autoencoder of another shape, {shape}: set vae as it is there")
    weights = load_weights(source)
    network.load_state_dict({key.removeprefix(own): value for key, value in weights.items() if key.startswith(own)})


def fit_run(
    config: RunConfig,
    objective: VAEObjective | DiffusionObjective | BoundObjective | ClassifierObjective,
    dataset: Samples,
    validate: Callable[[int], dict[str, float]],
    sample: Callable[[int], None] | None = None,
    *,
    index: Index,
) -> None:
    """Trains on a data set of the clips of `index`."""
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
        name=lambda key: index.files[key].path,
    )


def is_trained(vae: VAERun) -> bool:
    """Whether an autoencoder has reached its last step."""
    checkpoint = newest(vae.folder / "checkpoints") if vae.folder.is_dir() else None
    return checkpoint is not None and int(checkpoint.name.split("-")[1]) >= vae.train.steps


def prepare_codec(vae: VAERun, folder: Path) -> tuple[VAECodec, str]:
    """The autoencoder, trained first if it has not reached its last step, and a hash that names it."""
    if not is_trained(vae):
        train(vae, dump(vae), folder)
    checkpoint = newest(vae.folder / "checkpoints")
    assert checkpoint is not None
    codec = VAECodec(vae.vae)
    own = "network."  # and not what helped to train it
    weights = {key: value for key, value in load_weights(checkpoint).items() if key.startswith(own)}
    codec.network.load_state_dict({key.removeprefix(own): value for key, value in weights.items()})
    digest = hashlib.sha256(repr(vae.vae).encode())
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].contiguous().numpy().tobytes())
    return codec.eval().requires_grad_(False), digest.hexdigest()
