"""The stages of a training, in order: index of clips, codec, latent cache, model. What is there is not made again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.codec import Codec, Identity, VAECodec
from vidiff.config import DiffusionRun, RunConfig, VAERun, build_objective, dump, load, load_codec_config
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.index import Index, build_index
from vidiff.data.latents import LatentCache, LatentDataset, encode_latents
from vidiff.data.order import Order
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.data.video import write_video
from vidiff.engine.checkpoint import load_weights, newest
from vidiff.engine.guard import locked
from vidiff.engine.loop import fit
from vidiff.engine.parallel import choose_device, processes
from vidiff.engine.precision import Precision, autocast
from vidiff.nn.vae import VAE
from vidiff.objective.bound import BoundObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.objective.vae import VAEObjective
from vidiff.pipeline import Pipeline
from vidiff.run import load_codec, save_codec, trained_precision

Samples = ClipDataset | LatentDataset
Batches = Callable[[int], Iterable[dict[str, Tensor]]]

FREE = ("unet.dropout", "unet.checkpoint", "unet.attention_backend")  # what may change while a model is trained


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


def train_vae(config: VAERun, given: str) -> None:
    """Train an autoencoder."""
    refuse_another_model(config)
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    record(config, given)
    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = VAEObjective(VAE(config.vae), config.loss)
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

    fit_run(config, objective, clip_dataset(config, index), validate, sample)


def train_diffusion(config: DiffusionRun, given: str, folder: Path) -> None:
    """Train a diffusion model, after whatever it depends on."""
    vae = load_codec_config(config, folder) if config.codec.name == "vae" else None
    index, held_out = make_index(config, config.data.split), make_index(config, config.data.test_split)
    codec, key = (Identity(), "identity") if vae is None else prepare_codec(vae, folder)
    precision = "fp32" if vae is None else trained_precision(vae.folder, choose_device(config.device))
    cache = cache_latents(config, codec, key, index, precision)
    test_cache = cache_latents(config, codec, key, held_out, precision)
    codec.set_statistics(*cache.statistics)
    resolve(config, codec, index)
    refuse_another_model(config, codec)
    record(config, given)
    with one_at_a_time(config.folder):
        shape = codec.network.config if isinstance(codec, VAECodec) else None
        save_codec(config.folder / "codec", codec, shape)
        labels = index.labels if config.unet.labels else []
        fps = statistics.median(file.fps for file in index.files) / config.data.stride[0]
        (config.folder / "data.json").write_text(json.dumps({"labels": labels, "fps": fps}))

    torch.manual_seed(config.train.seed)  # first weights depend on the seed alone, whatever ran before
    objective = build_objective(config)
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
    )
    test = first_batch(config, latent_dataset(config, test_cache, cache.statistics), 16)
    seen = first_batch(config, clip_dataset(config, held_out), config.sampling.count)["video"]

    def validate(step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        batch = {name: value.to(pipeline.device) for name, value in test.items()}
        scores = objective(batch)
        return {"val/loss": float(scores["loss"])}

    def sample(step: int) -> None:
        count, frames = config.sampling.count, config.data.frames
        labels = [i % len(pipeline.labels) for i in range(count)] if pipeline.labels else None
        made = pipeline.generate(label=labels, count=count)
        folder = config.folder / "samples"
        write_video(folder / f"step-{step:07d}.mp4", made.cpu(), fps=pipeline.fps)
        if frames > 1:
            given = seen[:, :, : config.sampling.context]
            longer = pipeline.extend(given, frames=2 * frames - config.sampling.context)
            write_video(folder / f"step-{step:07d}-extended.mp4", longer.cpu(), fps=pipeline.fps)

    fit_run(config, objective, latent_dataset(config, cache, cache.statistics), validate, sample)


def fit_run(
    config: RunConfig,
    objective: VAEObjective | DiffusionObjective | BoundObjective,
    dataset: Samples,
    validate: Callable[[int], dict[str, float]],
    sample: Callable[[int], None],
) -> None:
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
    )


def make_index(config: RunConfig, split: str) -> Index:
    """The clips of a split. The shapes set is drawn first where a config wants it and it is not there."""
    data = config.data
    folder = Path(config.runs) / "index"  # shared by all runs on the same data
    with one_at_a_time(folder):
        layout = data.layout
        if layout == "shapes":
            layout = "folders"
            if not (Path(data.root) / "spec.json").is_file():
                make_shapes(data.root, ShapesSpec())
        return build_index(
            data.root,
            layout=layout,
            split=split,
            fold=data.fold,
            limit=data.limit,
            max_broken=data.max_broken,
            cache=folder / f"{Path(data.root).resolve().name}-{split}.jsonl",
        )


def prepare_codec(vae: VAERun, folder: Path) -> tuple[VAECodec, str]:
    """The autoencoder, trained first if it has not reached its last step, and a hash that names it."""
    checkpoint = newest(vae.folder / "checkpoints") if vae.folder.is_dir() else None
    if checkpoint is None or int(checkpoint.name.split("-")[1]) < vae.train.steps:
        train(vae, dump(vae), folder)
        checkpoint = newest(vae.folder / "checkpoints")
        assert checkpoint is not None
    codec = VAECodec(vae.vae)
    weights = load_weights(checkpoint)
    codec.network.load_state_dict({key.removeprefix("network."): value for key, value in weights.items()})
    digest = hashlib.sha256(repr(vae.vae).encode())
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].contiguous().numpy().tobytes())
    return codec.eval().requires_grad_(False), digest.hexdigest()


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
    if isinstance(codec, VAECodec) and (folder / "codec" / "codec.safetensors").is_file():
        old, new = (each.state_dict() for each in (load_codec(folder / "codec"), codec))
        weights = [key for key in new if key.startswith("network.")]  # the statistics follow the data
        if not all(key in old and torch.equal(old[key], new[key].cpu()) for key in weights):
            raise ValueError(f"{folder} was trained with another codec, which has been trained further since: {advice}")


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
    stride = (data.stride[0], data.stride[1])
    return ClipDataset(index, data.frames, data.size, stride, data.flip, config.train.seed, data.max_broken)


def latent_dataset(config: DiffusionRun, cache: LatentCache, moments: tuple[Tensor, Tensor]) -> LatentDataset:
    """Random windows of cached latents, normalised by the statistics of the training split."""
    data = config.data
    return LatentDataset(cache, data.frames, (data.stride[0], data.stride[1]), config.train.seed, moments)


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
    return next(iter(make_loader(dataset, Order(len(dataset), count, config.train.seed), workers=0)))


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that share a folder take turns; who comes second finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".turn", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
