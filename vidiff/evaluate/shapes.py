"""Scores of a run of the shapes set: the oracle reads colour, shape and place of the object in every frame.

What is scored are clips that the run generates, by label or by prompt, and held-out clips that it continues; and how
well a classifier guides a run to labels that it is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.data.shapes import DIRECTIONS, FPS, TRAVEL, ShapesClip, caption, direction, read_clips
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import Reading, acceleration, extension_score, label_right, label_score, read_shapes
from vidiff.metrics.prediction import overall_psnr
from vidiff.pipeline.pipeline import Pipeline
from vidiff.training.windows import evenly
from vidiff.video.reader import read_video
from vidiff.video.writer import sheet, write_image, write_video

LEAST = TRAVEL[0] / 2 / 64  # of the frame's height that an object must go, from end to end, to go anywhere
INSTEAD = "--network efficientnet, or numbers of steps such as --few 8, score clips of any kind"
TRIPLES = tuple((label, course) for label in LABELS for course in DIRECTIONS)


@dataclass(frozen=True)
class Subject:
    """A run that is scored, and the shapes set that it is held against.

    Args:
        run: its folder.
        root: of the set, of which the test split is read.

    Raises:
        ValueError: a run that sees other frames of a clip than each, for which the set tells no truth.
    """

    run: Path
    pipeline: Pipeline
    root: Path

    def __post_init__(self) -> None:
        facts = self.pipeline.facts
        if facts.strides[0] > 1 or facts.rate not in (0, FPS):
            raise ValueError(
                f"{self.run} sees clips at {facts.fps:g} frames a second, and the set tells where objects are at its "
                f"own {FPS:g} alone: {INSTEAD}"
            )

    def check_labels(self) -> None:
        """Raises ValueError unless the run's labels are those of the shapes set."""
        labels = self.pipeline.labels
        if set(labels) != set(LABELS):
            more = ", ..." * (len(labels) > 3)
            told = f"its labels are {', '.join(labels[:3])}{more}" if labels else "it has no labels"
            raise ValueError(f"{self.run} was not trained on the shapes set: {told}; {INSTEAD}")

    def check_set(self) -> None:
        """Raises ValueError unless the data is a shapes set."""
        try:
            read_clips(self.root)
        except ValueError as error:
            raise ValueError(f"{error}; {INSTEAD}") from None

    def show(self, name: str, clips: Tensor, rows: Sequence[Tensor], folder: Path | None = None) -> None:
        """Leaves clips `(n, 3, f, h, w)` as a video, and rows `(3, h, w)` as a picture, in the run's samples."""
        folder = (folder or self.run) / "samples"
        write_video(folder / f"evaluated-{name}.mp4", clips, fps=self.pipeline.fps)
        write_image(folder / f"evaluated-{name}.png", torch.cat(list(rows), dim=1))


def held_out_shapes(root: Path, size: int, among: Collection[Path] | None = None) -> dict[Path, ShapesClip]:
    """Files of a shapes set, label by label, with the truth about each.

    Args:
        size: of the frames in pixels.
        among: files of which to take those of the set; by default its test split.

    Raises:
        ValueError: a file of another size, or none at all.
    """
    every = read_clips(root).items()
    truth = {path: clip for path, clip in every if (path.parts[-3] == "test" if among is None else path in among)}
    clips = {path: truth[path] for label in LABELS for path in sorted(truth) if truth[path].label == label}
    wrong = next((path for path, clip in clips.items() if clip.side != size), None)
    if wrong or not clips:
        reason = f"{wrong} has {clips[wrong].side}" if wrong else "there are none"
        raise ValueError(f"held-out clips in {root} must have frames of {size} px, as the run makes them: {reason}")
    return clips


def label_numbers(names: Sequence[str]) -> Tensor:
    """Labels of the set as `(n,)` int64, indices into LABELS."""
    return torch.tensor([LABELS.index(name) for name in names])


@dataclass(frozen=True)
class ShapesProtocol:
    """How many clips, and how they are extended. The scores of two models compare only under one protocol."""

    per_label: int = 8
    extended: int = 48  # held-out clips that are extended, evenly chosen, or all where there are fewer
    untold: int = 24  # of these, extended once more without telling the model their label
    given: int = 8
    frames: int = 40
    horizon: int = 8
    batch: int = 24  # clips drawn at once


def score_generation(
    generate: Callable[[Sequence[str], int], Tensor], labels: Sequence[str], protocol: ShapesProtocol
) -> tuple[dict[str, Any], Tensor]:
    """Score generated clips.

    Args:
        generate: (label names, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        labels: names of the classes, in the oracle's order.

    Returns:
        scores, and the clips `(n, 3, f, h, w)`.
    """
    wanted = torch.arange(len(labels)).repeat(protocol.per_label)
    parts = wanted.split(protocol.batch)
    clips = torch.cat([generate([labels[i] for i in part], seed) for seed, part in enumerate(parts)])
    reading = read_shapes(clips)
    return {"clips": len(clips), **label_score(reading, wanted), **acceleration(reading)}, clips


def score_extension(
    extend: Callable[[Tensor, Sequence[str] | None, int, int], Tensor],
    clips: Tensor,
    labels: Sequence[str] | None,
    paths: Tensor,
    protocol: ShapesProtocol,
) -> tuple[dict[str, Any], Tensor]:
    """Score how held-out clips are continued.

    Args:
        extend: (given `(b, 3, g, h, w)`, label names, frames, seed) -> `(b, 3, frames, h, w)`.
        clips: real ones, `(n, 3, f, h, w)`.
        labels: what each shows; None to leave the model to see it for itself.
        paths: their true centres `(n, f, 2)` in pixels.

    Returns:
        scores, and the extended clips `(n, 3, protocol.frames, h, w)`.
    """
    given = clips[:, :, : protocol.given]
    longer = torch.cat(
        [
            extend(part, labels and labels[seed * protocol.batch :][: len(part)], protocol.frames, seed)
            for seed, part in enumerate(given.split(protocol.batch))
        ]
    )
    score = extension_score(read_shapes(longer), paths, protocol.given, protocol.horizon)
    equal = bool(torch.equal(longer[:, :, : protocol.given], given))
    return {"clips": len(longer), "given_bit_equal": equal, **score}, longer


def score_real(video: Tensor, decoded: Tensor, label: Tensor) -> dict[str, Any]:
    """What real clips reach after the codec, which no model on its latents can beat; and the codec's PSNR in dB."""
    reading = read_shapes(decoded)
    return {"psnr": overall_psnr(decoded, video), **label_score(reading, label), **acceleration(reading)}


@dataclass(frozen=True)
class PromptProtocol:
    """How many clips. The scores of two models compare only under one protocol."""

    repeats: int = 2  # of each of the 48 prompts
    batch: int = 24  # clips drawn at once


def read_direction(reading: Reading) -> Tensor:
    """Where objects go: `(b,)` int64, index into DIRECTIONS.

    It is the larger component of the way from the first to the last frame in which the object is found; -1 for one
    that is found in fewer than two, or goes less than half of the least way in a straight set.
    """
    courses = []
    for seen, centre in zip(reading.found, reading.centre, strict=True):
        way = centre[seen]  # n 2
        x, y = (way[-1] - way[0]).tolist() if len(way) else (0.0, 0.0)
        far = (x * x + y * y) ** 0.5 >= LEAST * reading.frame[0]
        courses.append(DIRECTIONS.index(direction(x, y)) if far else -1)
    return torch.tensor(courses)


def prompt_score(reading: Reading, label: Tensor, course: Tensor) -> dict[str, float]:
    """How often b clips show what was asked for.

    Args:
        reading: of `(b, f)` frames.
        label: `(b,)` int64, index into LABELS.
        course: `(b,)` int64, index into DIRECTIONS.

    Returns:
        `right`: fraction of clips with all of it right; `object_right`: with the right colour and shape in at least
        7/8 of their frames; `direction_right`: with the right direction.
    """
    shown, goes = label_right(reading, label), read_direction(reading) == course
    parts = {"right": shown & goes, "object_right": shown, "direction_right": goes}
    return {name: part.double().mean().item() for name, part in parts.items()}


def score_prompts(
    generate: Callable[[Sequence[str], int], Tensor],
    unseen: Collection[tuple[str, str]],
    protocol: PromptProtocol,
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Score clips that are drawn from prompts such as "a red square moves left".

    Args:
        generate: (prompts, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        unseen: (label, direction) of the prompts that training left out.

    Returns:
        "prompts", the scores of all; "prompts_held_out", of those left out, and "prompts_seen", of the others, where
        there are any; and the clips `(n, 3, f, h, w)`, in the order of TRIPLES, all of them `protocol.repeats` times.
    """
    wanted = TRIPLES * protocol.repeats
    starts = range(0, len(wanted), protocol.batch)
    parts = [wanted[start : start + protocol.batch] for start in starts]
    clips = torch.cat([generate([caption(*triple) for triple in part], seed) for seed, part in enumerate(parts)])
    reading = read_shapes(clips)
    label = label_numbers([name for name, _ in wanted])
    course = torch.tensor([DIRECTIONS.index(name) for _, name in wanted])
    new = torch.tensor([triple in unseen for triple in wanted])
    groups = {"prompts": torch.ones_like(new), "prompts_held_out": new, "prompts_seen": ~new}
    scores = {}
    for name, rows in groups.items():
        if rows.any():
            scores[name] = {"clips": int(rows.sum()), **prompt_score(reading[rows], label[rows], course[rows])}
    return scores, clips


def score_run(subject: Subject) -> dict[str, Any]:
    """Scores by label, by text, or both, as the run was trained. Its clips go to `samples/evaluated-*`.

    Raises:
        ValueError: a run of another set, or held-out clips that are not there or of another size.
    """
    if subject.pipeline.text is None:
        subject.check_labels()
    subject.check_set()
    scores: dict[str, Any] = {}
    if set(subject.pipeline.labels) == set(LABELS):
        scores |= score_labels(subject)
    if subject.pipeline.text is not None:
        scores |= score_text(subject)
    return scores


def score_labels(subject: Subject) -> dict[str, Any]:
    """Does a model show the label, steadily, and continue held-out clips as they went on?"""
    protocol, pipeline = ShapesProtocol(), subject.pipeline
    held_out = held_out_shapes(subject.root, pipeline.size)
    real = torch.stack([read_video(path, range(protocol.frames)) for path in held_out])
    paths = torch.stack([clip.path(protocol.frames) for clip in held_out.values()])
    labels = label_numbers([clip.label for clip in held_out.values()])
    scores: dict[str, Any] = {"protocol": asdict(protocol)}
    scores["real"] = score_real(real[:, :, : pipeline.frames], through_codec(pipeline, real), labels)
    scores["generation"], drawn = score_generation(
        lambda names, seed: pipeline.generate(label=names, count=len(names), seed=seed, progress=True).cpu(),
        LABELS,
        protocol,
    )
    for name, count in (("extension", protocol.extended), ("extension_untold", protocol.untold)):
        chosen = evenly(count, len(real), middle=True)
        scores[name], longer = score_extension(
            lambda given, names, frames, seed: pipeline.extend(given, frames, names, seed=seed, progress=True).cpu(),
            real[chosen],
            [LABELS[i] for i in labels[chosen]] if name == "extension" else None,
            paths[chosen],
            protocol,
        )
        subject.show(name, longer, [sheet(clip[:, ::2]) for clip in longer[::4]])
    subject.show("generated", drawn, [sheet(clip) for clip in drawn[:12]])
    return scores


def score_text(subject: Subject) -> dict[str, Any]:
    """Does a model show what a prompt asks for, also where training left that prompt out?"""
    protocol, pipeline = PromptProtocol(), subject.pipeline
    held_out = held_out_shapes(subject.root, pipeline.size)
    trained = {
        (clip.label, direction(*clip.velocity))
        for path, clip in read_clips(subject.root).items()
        if path.parts[-3] != "test"
    }
    real = torch.stack([read_video(path, range(pipeline.frames)) for path in held_out])
    labels = label_numbers([clip.label for clip in held_out.values()])
    courses = torch.tensor([DIRECTIONS.index(direction(*clip.velocity)) for clip in held_out.values()])
    reading = read_shapes(through_codec(pipeline, real))
    scores, drawn = score_prompts(
        lambda prompts, seed: pipeline.generate(text=prompts, count=len(prompts), seed=seed, progress=True).cpu(),
        [triple for triple in TRIPLES if triple not in trained],
        protocol,
    )
    many = len(DIRECTIONS)  # a row of the picture shows one label, going each way, with a bar after each
    shown = [torch.nn.functional.pad(sheet(clip[:, ::3]), (0, 4), value=1.0) for clip in drawn[: len(TRIPLES)]]
    subject.show("text", drawn, [torch.cat(shown[i : i + many], dim=2) for i in range(0, len(shown), many)])
    real_scores = {"clips": len(real), **prompt_score(reading, labels, courses)}
    return {"protocol_text": asdict(protocol), "real_text": real_scores, **scores}


def score_classifier(subject: Subject, protocol: ShapesProtocol) -> dict[str, Any]:
    """Scores how well a classifier's gradient guides a model that is not told the label.

    What was drawn goes to the classifier's samples.

    Returns:
        "unguided", the scores of clips that no label was asked of, which are right by chance, one in 12; "guided",
        those of as many that the classifier guided; and the protocol.

    Raises:
        ValueError: a pipeline without a classifier, or of another set.
    """
    subject.check_labels()
    pipeline = subject.pipeline
    if pipeline.classifier is None:
        raise ValueError(f"{subject.run} was loaded without a classifier: name its run as classifier")

    def draw(names: Sequence[str], seed: int) -> Tensor:
        return pipeline.generate(label=names, count=len(names), seed=seed, progress=True).cpu()

    def draw_unguided(names: Sequence[str], seed: int) -> Tensor:
        return pipeline.generate(count=len(names), seed=seed, progress=True).cpu()

    scores: dict[str, Any] = {"protocol": asdict(protocol)}
    for name, make in (("unguided", draw_unguided), ("guided", draw)):
        scores[name], drawn = score_generation(make, LABELS, protocol)
        rows = [sheet(clip) for clip in drawn[: len(LABELS)]]  # one of each label
        subject.show(name, drawn, rows, Path(pipeline.classifier.name))
    return scores


def through_codec(pipeline: Pipeline, real: Tensor) -> Tensor:
    """As many frames of `(n, 3, f, h, w)` as the model sees at once, encoded and decoded."""
    return torch.cat([pipeline.reconstruct(part[:, :, : pipeline.frames]) for part in real.split(8)])
