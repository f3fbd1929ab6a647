"""Training a diffusion model, after its codec and on cached latents."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidiff.codec.codec import Codec
from vidiff.codec.files import save_codec
from vidiff.data.actions.beside import ActionsBeside, most_and_usual
from vidiff.data.clips import Joint, Samples
from vidiff.data.index import Index
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.diffusion.schedule import Trained
from vidiff.engine.parallel import choose_device
from vidiff.objective.bound import BoundObjective
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.pipeline.facts import FILE, Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import drawn_in, read_config
from vidiff.recipe.build import build_denoiser, build_objective
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.recipe.slots import build_schedule, build_text
from vidiff.report.log import read_metrics
from vidiff.store.plain import read_json
from vidiff.text import TextEncoder, Words
from vidiff.training.datasets import clip_dataset, first_batches, latent_dataset
from vidiff.training.indexes import actions_of, captions_of, keep_split, listed
from vidiff.training.prepare import LatentStage
from vidiff.training.start import find_start, refuse_other_start, start_denoiser
from vidiff.video.writer import grid, write_video

TESTED = 16  # held-out clips of each bucket to validate on
FEWEST = 4  # held-out files whose clips tell in what clips differ


class DiffusionStage(LatentStage[DiffusionRun]):
    """Training a diffusion model."""

    objective: DiffusionObjective | BoundObjective
    facts: Facts

    def check(self) -> None:
        super().check()
        find_start(self.config)
        schedule, sampling = build_schedule(self.config.schedule), self.config.sampling
        if not isinstance(schedule, Trained):  # whose ends move
            sampling.grid(schedule, sampling.steps)

    def prepare(self) -> None:
        super().prepare()
        detail = self.prepared.seen.detail
        self.facts = replace(self.facts, detail=None if detail is None else tuple(detail.tolist()))

    def learn(self) -> None:
        config, found, temporal = self.config, self.found, self.found.shape.temporal
        learned = learned_text(config)
        self.encoder = build_text(config.text, **learned) if config.text else None
        self.captions = list[str]()
        if self.encoder is not None:
            self.captions = captions_of(config, found.index)
            shown = captions_of(config, found.pictures, pictures=True) if found.pictures else []
            self.encoder.learn([*self.captions, *shown])
            if learned:
                refuse_other_words(config, self.encoder, [*self.captions, *shown])
        text = (0, 0) if self.encoder is None else (self.encoder.dim, self.encoder.words)
        slots, self.actions = config.slots(temporal), list[ActionsBeside]()  # seen, and held out
        space, held = None, 1
        for index in (found.index, found.held_out) if config.data.actions else ():
            (told, rows), sources = actions_of(config, index)
            if sources and space is None:  # of the clips to train on
                slots, held = most_and_usual(sources, slots)
            if space is not None and told != space:
                raise ValueError(
                    f"{config.data.root}: {config.data.split} and {config.data.test_split} have actions of other "
                    "dimensions: give both the same actions.json"
                )
            space = told
            self.actions.append(ActionsBeside(space, rows, slots, temporal, sources))
        actions = slots * space.width if space is not None else 0
        config.resolve(found.shape.channels, len(found.index.labels), text, actions)
        self.facts = Facts.of(
            config,
            labels=tuple(found.index.labels),
            fps=statistics.median(file.fps for file in found.index.files) / config.data.stride[0],
            text=None if self.encoder is None else self.encoder.facts(),
            actions=space,
            held=held,
        )

    def keep(self) -> None:
        save_codec(self.config.folder / "codec", self.prepared.codec)
        self.facts.save(self.config.folder)
        keep_split(self.config.folder, self.prepared.held_out)

    def build(self) -> None:
        config, prepared, encoder = self.config, self.prepared, self.encoder
        self.objective = self.make(prepared.codec)
        facts = replace(self.facts, precision=drawn_in(config.train.precision, choose_device(config.device)))
        model = TrainedModel(self.objective.denoiser, prepared.codec, facts, encoder)
        self.pipeline = Pipeline(model, config.sampling, config.device)
        unseen = self.actions[1] if self.actions else None
        held_out = latent_dataset(config, prepared.held_out, prepared.unseen, prepared.seen, encoder, actions=unseen)
        self.tests = first_batches(config, held_out, TESTED)
        self.prompts = [text for text in sorted(set(self.captions)) if encoder is not None and encoder.fits(text)]
        self.real = first_batches(config, clip_dataset(config, prepared.held_out), config.sampling.count)[0]["video"]
        beside = prepared.unseen.control  # of which the same windows are drawn
        self.control: Tensor | None = None
        if beside is not None:
            self.control = first_batches(config, clip_dataset(config, beside), config.sampling.count)[0]["video"]

    def rehearse(self) -> None:
        self.make(self.found.codec, empty=True)

    def check_codec(self, codec: Codec) -> None:
        super().check_codec(codec)
        refuse_other_start(self.config, codec)

    def make(self, codec: VAERun | Codec, empty: bool = False) -> DiffusionObjective | BoundObjective:
        """The objective, with its first weights.

        Args:
            codec: or the config of one that is not trained yet.
            empty: weights have a shape and no content.
        """
        denoiser = build_denoiser(self.config, empty)
        start_denoiser(self.config, codec, self.facts, denoiser)
        return build_objective(self.config, denoiser)

    def dataset(self) -> Samples:
        config, prepared = self.config, self.prepared
        seen = self.actions[0] if self.actions else None
        made = partial(latent_dataset, config, moments=prepared.seen, encoder=self.encoder, changed=True)
        clips = made(index=prepared.index, of=prepared.seen, actions=seen)
        if prepared.pictures is None or prepared.shown is None:
            return clips
        return Joint(clips, made(index=prepared.pictures, of=prepared.shown, pictures=True), config.data.images_share)

    def indexes(self) -> list[Index]:
        return self.prepared.indexes

    def validate(self, step: int) -> dict[str, float]:
        torch.manual_seed(0)  # the same noise and tasks each time, so that numbers compare
        scores = {"val/loss": statistics.fmean(float(self.objective(self.here(test))["loss"]) for test in self.tests)}
        differ = len(self.prepared.held_out.files) >= FEWEST
        if isinstance(self.objective, DiffusionObjective) and self.objective.free and differ:
            half = self.objective.half_known(self.here(self.tests[0]))
            scores |= {} if half is None else {"val/half": half}
        return scores

    def finish(self) -> None:
        """Keep the last `val/half`: read back, since a run that went on from its last step validates no more."""
        lines = read_metrics(self.config.folder / "metrics.jsonl")
        half = next((line["val/half"] for line in reversed(lines) if "val/half" in line), None)
        replace(self.facts, half=half).save(self.config.folder)

    def sample(self, step: int) -> None:
        """Clips that the model makes, and how it continues held-out ones; or how it enlarges these. One that is shown
        another video makes what goes with those of held-out clips: they stand above, and the real clips below."""
        config, pipeline, real, path = self.config, self.pipeline, self.real, self.sample_path(step)
        control = self.control
        count, prompts = config.sampling.count, self.prompts
        if factor := config.enlarges:
            small = shrink(real, factor)
            rows = [enlarge(small, factor), pipeline.upscale(small), real]  # one below another: bicubic, model, truth
            write_video(path, grid(torch.cat(rows), columns=count), fps=pipeline.fps)
            return
        labels = [pipeline.labels[i % len(pipeline.labels)] for i in range(count)] if pipeline.labels else None
        texts = [prompts[i * len(prompts) // count] for i in range(count)] if prompts else None
        clips = pipeline.generate(label=labels, count=count, text=texts, control=control).cpu()
        shown = clips if control is None else grid(torch.cat([control, clips, real]), columns=count)
        write_video(path, shown, fps=pipeline.fps)
        if (frames := real.shape[2]) > 1:
            context = min(config.sampling.context, frames - 1)
            total = frames if control is not None else 2 * frames - context
            longer = pipeline.extend(real[:, :, :context], frames=total, control=control)
            write_video(path.with_stem(f"{path.stem}-extended"), longer.cpu(), fps=pipeline.fps)


def learned_text(config: DiffusionRun) -> dict[str, Any]:
    """What the text encoder of a run that goes on has learned of the captions; nothing for any other."""
    folder = config.folder
    if not ((folder / "checkpoints" / "latest").is_file() and (folder / FILE).is_file()):
        return {}
    return (read_json(folder / FILE).get("text") or {}) if read_config(folder).text == config.text else {}


def refuse_other_words(config: DiffusionRun, encoder: TextEncoder, captions: Sequence[str]) -> None:
    """Raises ValueError for captions with words on which a run was not trained so far, which are named, or longer."""
    if not isinstance(encoder, Words):
        return
    way_out = f"give this training another name=... with start={config.folder}, which keeps what fits"
    new = [] if "vocabulary" in config.text else encoder.unknown(captions)
    if new:
        raise ValueError(f"{config.folder} was trained with captions of other words, without {listed(new)}: {way_out}")
    longest = 0 if "length" in config.text else max(len(encoder.read(caption)) for caption in captions)
    if longest > encoder.length:
        raise ValueError(
            f"{config.folder} was trained with captions of {encoder.length} words at most, not {longest}: {way_out}"
        )
