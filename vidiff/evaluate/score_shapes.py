"""Scores of a run of the shapes set: the oracle reads colour, shape and place of the object in every frame."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.data.shapes import DIRECTIONS, Clip, direction, read_clips
from vidiff.evaluate.prompts import TRIPLES, PromptProtocol, prompt_score, score_prompts
from vidiff.evaluate.protocol import ShapesProtocol, score_extension, score_generation, score_real
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import read_shapes
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.video.reader import read_video
from vidiff.video.writer import sheet, write_image, write_video


def score_run(run: Path, pipeline: Pipeline, data: Path | None) -> dict[str, Any]:
    """Score a run by label, by text, or both, as it was trained. Its clips go to `run/samples/evaluated-*`.

    Args:
        data: the shapes set, of which the test split is read; by default the one that the run was trained on.

    Returns:
        the protocols, the sampling settings, and a dictionary of scores for each part.

    Raises:
        ValueError: a run of another set, or held-out clips that are not there or of another size.
    """
    labelled = set(pipeline.labels) == set(LABELS)
    if pipeline.text is None:
        check_labels(run, pipeline)
    root = Path(read_config(run).data.root) if data is None else data
    scores: dict[str, Any] = {"sampling": pipeline.settings(), "run": str(run)}
    if labelled:
        scores |= score_labels(pipeline, root, run)
    if pipeline.text is not None:
        scores |= score_text(pipeline, root, run)
    return scores


def check_labels(run: Path, pipeline: Pipeline) -> None:
    """Raises ValueError unless a run's labels are those of the shapes set."""
    if set(pipeline.labels) != set(LABELS):
        found = f"its labels are {', '.join(pipeline.labels[:3])}, ..." if pipeline.labels else "it has no labels"
        raise ValueError(f"{run} was not trained on the shapes set: {found}; name another with --run")


def score_labels(pipeline: Pipeline, root: Path, run: Path) -> dict[str, Any]:
    """Does a model show the label, steadily, and continue held-out clips as they went on?"""
    protocol, folder = ShapesProtocol(), run / "samples"
    files, truth = held_out_clips(root, pipeline.size, run)
    real = torch.stack([read_video(path, range(protocol.frames)) for path in files])
    paths = torch.stack([clip.path(protocol.frames) for clip in truth])
    labels = torch.tensor([LABELS.index(clip.label) for clip in truth])
    scores: dict[str, Any] = {"protocol": asdict(protocol)}
    scores["real"] = score_real(real[:, :, : pipeline.frames], through_codec(pipeline, real), labels)
    scores["generation"], made = score_generation(
        lambda names, seed: pipeline.generate(label=names, count=len(names), seed=seed, progress=True).cpu(),
        LABELS,
        protocol,
    )
    for name, count in (("extension", protocol.extended), ("extension_untold", protocol.untold)):
        every = max(len(files) // count, 1)
        chosen = range(every // 2, len(files), every)
        scores[name], longer = score_extension(
            lambda given, names, frames, seed: pipeline.extend(given, frames, names, seed=seed, progress=True).cpu(),
            real[chosen],
            [LABELS[i] for i in labels[chosen]] if name == "extension" else None,
            paths[chosen],
            protocol,
        )
        write_video(folder / f"evaluated-{name}.mp4", longer, fps=pipeline.fps)
        rows = [sheet(clip[:, ::2]) for clip in longer[::4]]
        write_image(folder / f"evaluated-{name}.png", torch.cat(rows, dim=1))
    write_video(folder / "evaluated-generated.mp4", made, fps=pipeline.fps)
    write_image(folder / "evaluated-generated.png", torch.cat([sheet(clip) for clip in made[:12]], dim=1))
    return scores


def score_text(pipeline: Pipeline, root: Path, run: Path) -> dict[str, Any]:
    """Does a model show what a prompt asks for, also where training left that prompt out?"""
    protocol, folder = PromptProtocol(), run / "samples"
    files, truth = held_out_clips(root, pipeline.size, run)
    trained = {
        (clip.label, direction(*clip.velocity)) for path, clip in read_clips(root).items() if split(path) != "test"
    }
    real = torch.stack([read_video(path, range(pipeline.frames)) for path in files])
    decoded = through_codec(pipeline, real)
    labels = torch.tensor([LABELS.index(clip.label) for clip in truth])
    courses = torch.tensor([DIRECTIONS.index(direction(*clip.velocity)) for clip in truth])
    scores: dict[str, Any] = {"protocol_text": asdict(protocol)}
    scores["real_text"] = {"clips": len(files), **prompt_score(read_shapes(decoded), labels, courses)}
    found, made = score_prompts(
        lambda prompts, seed: pipeline.generate(text=prompts, count=len(prompts), seed=seed, progress=True).cpu(),
        [triple for triple in TRIPLES if triple not in trained],
        protocol,
    )
    write_video(folder / "evaluated-text.mp4", made, fps=pipeline.fps)
    many = len(DIRECTIONS)  # a row of the picture shows one label, going each way, with a bar after each
    shown = [torch.nn.functional.pad(sheet(clip[:, ::3]), (0, 4), value=1.0) for clip in made[: len(TRIPLES)]]
    lines = [torch.cat(shown[start : start + many], dim=2) for start in range(0, len(shown), many)]
    write_image(folder / "evaluated-text.png", torch.cat(lines, dim=1))
    return {**scores, **found}


def held_out_clips(root: Path, size: int, run: Path) -> tuple[list[Path], list[Clip]]:
    """Files of the test split, label by label, and the truth about each. Raises ValueError if none fits."""
    truth = {path: clip for path, clip in read_clips(root).items() if split(path) == "test"}
    files = [path for label in LABELS for path in sorted(truth) if truth[path].label == label]
    wrong = [path for path in files if truth[path].side != size]
    if wrong or not files:
        found = f"{wrong[0]} has {truth[wrong[0]].side}" if wrong else "there are none"
        raise ValueError(f"held-out clips in {root} must have frames of {size} px, as {run}: {found}")
    return files, [truth[path] for path in files]


def split(path: Path) -> str:
    return path.parts[-3]


def through_codec(pipeline: Pipeline, real: Tensor) -> Tensor:
    """As many frames of `(n, 3, f, h, w)` as the model sees at once, encoded and decoded."""
    return torch.cat([pipeline.reconstruct(part[:, :, : pipeline.frames]) for part in real.split(8)])
