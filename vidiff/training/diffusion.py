"""Training a diffusion model, after its codec and on cached latents."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, same_codec, save_codec
from vidiff.data.clips import Joint, Samples
from vidiff.data.index import Index
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_part, newest
from vidiff.objective.bound import BoundObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.build import build_objective
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.slots import build_text
from vidiff.training.datasets import clip_dataset, first_batches, latent_dataset
from vidiff.training.indexes import captions_of
from vidiff.training.prepare import prepare_latents
from vidiff.training.stage import Stage, refuse_another_model
from vidiff.video.writer import grid, write_video

TESTED = 16  # held-out clips of each bucket to validate on


class DiffusionStage(Stage[DiffusionRun]):
    """Training a diffusion model."""

    objective: DiffusionObjective | BoundObjective

    def prepare(self) -> None:
        config = self.config
        self.prepared = prepared = prepare_latents(config, self.folder)
        self.encoder = build_text(config.text) if config.text else None
        self.captions = list[str]()
        if self.encoder is not None:
            self.captions = captions_of(config, prepared.index)
            shown = captions_of(config, prepared.pictures, pictures=True) if prepared.pictures else []
            self.encoder.learn([*self.captions, *shown])
        text = (0, 0) if self.encoder is None else (self.encoder.dim, self.encoder.words)
        config.resolve(prepared.codec.channels, len(prepared.index.labels), text)
        refuse_another_model(config, prepared.codec, self.encoder)
        self.facts = Facts.of(
            config,
            labels=tuple(prepared.index.labels),
            fps=statistics.median(file.fps for file in prepared.index.files) / config.data.stride[0],
            detail=None if prepared.seen.detail is None else tuple(prepared.seen.detail.tolist()),
            text=None if self.encoder is None else self.encoder.facts(),
        )

    def keep(self) -> None:
        save_codec(self.config.folder / "codec", self.prepared.codec)
        self.facts.save(self.config.folder)

    def build(self) -> None:
        config, prepared, encoder = self.config, self.prepared, self.encoder
        self.objective = build_objective(config)
        start_denoiser(config, prepared.codec, self.objective.denoiser)
        model = TrainedModel(self.objective.denoiser, prepared.codec, self.facts, encoder)
        self.pipeline = Pipeline(model, config.sampling, config.device)
        held_out = latent_dataset(config, prepared.held_out, prepared.unseen, prepared.seen, encoder)
        self.tests = first_batches(config, held_out, TESTED)
        self.prompts = [text for text in sorted(set(self.captions)) if encoder is not None and encoder.fits(text)]
        self.real = first_batches(config, clip_dataset(config, prepared.held_out), config.sampling.count)[0]["video"]

    def dataset(self) -> Samples:
        config, prepared = self.config, self.prepared
        clips = latent_dataset(config, prepared.index, prepared.seen, prepared.seen, self.encoder)
        if prepared.pictures is None or prepared.shown is None:
            return clips
        pictures = latent_dataset(config, prepared.pictures, prepared.shown, prepared.seen, self.encoder, pictures=True)
        return Joint(clips, pictures, config.data.images_share)

    def indexes(self) -> list[Index]:
        return self.prepared.indexes

    def validate(self, step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        return {"val/loss": statistics.fmean(float(self.objective(self.here(test))["loss"]) for test in self.tests)}

    def sample(self, step: int) -> None:
        """Clips that the model makes, and how it continues held-out ones; or how it enlarges these."""
        config, pipeline, real, path = self.config, self.pipeline, self.real, self.sample_path(step)
        count, prompts = config.sampling.count, self.prompts
        if factor := config.enlarges:
            small = shrink(real, factor)
            rows = [enlarge(small, factor), pipeline.upscale(small), real]  # one below another: bicubic, model, truth
            write_video(path, grid(torch.cat(rows), columns=count), fps=pipeline.fps)
            return
        labels = [pipeline.labels[i % len(pipeline.labels)] for i in range(count)] if pipeline.labels else None
        texts = [prompts[i * len(prompts) // count] for i in range(count)] if prompts else None
        clips = pipeline.generate(label=labels, count=count, text=texts)
        write_video(path, clips.cpu(), fps=pipeline.fps)
        if (frames := real.shape[2]) > 1:
            context = min(config.sampling.context, frames - 1)
            longer = pipeline.extend(real[:, :, :context], frames=2 * frames - context)
            write_video(path.with_stem(f"{path.stem}-extended"), longer.cpu(), fps=pipeline.fps)


def start_denoiser(config: DiffusionRun, codec: Codec, denoiser: Denoiser) -> None:
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
    try:
        differences = denoiser.load_state_dict(load_part(checkpoint, "denoiser"), strict=False)
    except RuntimeError as error:
        raise ValueError(f"start={source} has another network: {str(error).splitlines()[-1].strip()}") from None
    if differences.unexpected_keys:
        raise ValueError(f"start={source} has weights that this model lacks, such as {differences.unexpected_keys[0]}")
