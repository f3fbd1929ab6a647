"""Few steps beside each other: a run in several numbers of steps, and students of it in their own, on the same clips.

Each draws from the same noise, asked for the same labels, and continues the same held-out clips.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.data.index import index_of, other_data
from vidiff.evaluate.comparison import Columns, Result, figure_of, finite, rows_in
from vidiff.evaluate.follow.starts import GIVEN, refuse_gaps, windows_of
from vidiff.evaluate.long import LongProtocol, held_out
from vidiff.evaluate.shapes import ShapesProtocol, score_extension, score_generation
from vidiff.metrics.motion import moving
from vidiff.metrics.objects import LABELS
from vidiff.metrics.prediction import psnr
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config, runs_of
from vidiff.recipe.slots import build_grid, build_sampler
from vidiff.store.files import write_whole
from vidiff.training.windows import choose_windows, evenly
from vidiff.video.writer import write_image


def of_drawn(row: Result, name: str) -> str | None:
    """One of the figures of clips that were drawn, where any were."""
    return f"{row['generation'][name]:.1%}" if "generation" in row else None


COLUMNS: Columns = {
    "steps": (lambda row: str(row["sampling"]["steps"]), "times at which the model is asked for a window"),
    "right": (
        lambda row: of_drawn(row, "clips_right"),
        "clips drawn by label, with its colour and shape in 7/8 of the frames",
    ),
    "acceleration, px": (
        lambda row: figure_of(row, "generation", "acceleration"),
        "median of |c[i + 1] - 2 c[i] + c[i - 1]| of the object's centre c in these clips",
    ),
    "missing": (
        lambda row: of_drawn(row, "missing"),
        "places without one object to measure it by; twice the frame's diagonal stands in",
    ),
    "error, px": (
        lambda row: figure_of(row, "extension", "error"),
        "mean distance of the object to where it really went, over the new frames of held-out clips",
    ),
    "first": (
        lambda row: figure_of(row, "prediction", "first"),
        "squared error over what moves, in the first new frame, in that of the last given one repeated",
    ),
    "last": (lambda row: figure_of(row, "prediction", "last"), "the same in the last new frame"),
    "all": (lambda row: figure_of(row, "prediction", "all"), "the same in all new frames"),
    "s a frame": (
        lambda row: figure_of(row, "seconds"),
        "seconds for a new frame of one clip, codec included: of CPU time, or on a GPU by the clock",
    ),
}


@dataclass(frozen=True)
class FewProtocol:
    """Which clips. Figures compare only under one protocol.

    Raises:
        ValueError: a number out of range.
    """

    starts: int = 48  # held-out clips that are continued; of the shapes set also clips that are drawn, in whole dozens
    given: int = 8  # frames of each that are given
    new: int = 8  # frames that follow
    batch: int = 12  # clips drawn at once
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("starts", "given", "new", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True)
class Way:
    """A run, and how it draws, where that is not as it does by itself.

    Args:
        options: keywords of `Pipeline.generate` and `extend`, such as steps.

    Raises:
        ValueError: no steps, or an unknown sampler or grid.
    """

    run: Path
    pipeline: Pipeline
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.get("steps", 1) < 1:
            raise ValueError(f"steps is {self.options['steps']}; give 1 or more, such as 18 9 5")
        for name, build in (("sampler", build_sampler), ("grid", build_grid)):
            if name in self.options:
                build(self.options[name])  # told before anything is read


@dataclass(frozen=True)
class Held:
    """Held-out clips of a run's data.

    Attributes:
        clips: `(n, 3, given + new, h, w)`.
        names: their labels, None where the run has none.
        paths: true centres of the object, `(n, given + new, 2)` in pixels; None but of the shapes set.
        actions: what led to each frame, `(n, given + new, a)`; None for a model that is told none.
    """

    clips: Tensor
    names: list[str] | None
    paths: Tensor | None
    actions: np.ndarray | None


def read_held_out(way: Way, data: str | Path | None, protocol: FewProtocol) -> Held:
    """Held-out clips of the data that a run was trained on, or of a folder that is laid out as that, evenly chosen.

    Raises:
        ValueError: fewer clips than asked for, or shorter ones; as `held_out`.
    """
    run, pipeline, frames = way.run, way.pipeline, protocol.given + protocol.new
    config = read_config(run)
    source = replace(config.data if data is None else other_data(config.data, data), limit=0)
    runs = runs_of(run, config)
    if set(pipeline.labels) == set(LABELS):
        found = held_out(pipeline, source, LongProtocol(protocol.starts, protocol.given, frames), runs)
        if found.truth:
            if (count := len(found.truth)) < protocol.starts:
                asked = f"{protocol.starts} are asked for: lower --starts"
                raise ValueError(f"{source.root} has {count} held-out clips, but {asked}")
            paths = torch.stack([clip.path(frames) for clip in found.truth])
            clips = torch.cat([found.read(slice(i, i + 1), frames) for i in range(protocol.starts)])
            return Held(clips, [clip.label for clip in found.truth], paths, None)
    told = None
    if pipeline.facts.actions is None:
        index = index_of(source, runs, source.test_split)
        windows = choose_windows(index, frames, pipeline.size, source.stride[0], protocol.starts, GIVEN)
    else:
        refuse_gaps(run, pipeline.facts)
        windows, _, rows, _ = windows_of(source, runs, source.test_split, frames, pipeline.size, protocol.starts)
        told = np.stack(rows)
    files = windows.index.files
    names = [windows.index.class_of(files[number]) for number, _ in windows.starts]
    known = [name for name in names if name in pipeline.labels]
    clips = torch.cat([windows.read(range(number, number + 1)) for number in range(len(windows))])
    return Held(clips, known if len(known) == len(names) else None, None, told)


def score_way(way: Way, held: Held, protocol: FewProtocol, picture: Path | None = None) -> dict[str, Any]:
    """Figures of one way: of the shapes set by its oracle, "generation" and "extension"; else "prediction", of which a
    picture is left; and "seconds" for a new frame of a clip that is continued."""
    spent, made, pipeline = 0.0, [], way.pipeline
    clock = time.process_time if pipeline.device.type == "cpu" else time.perf_counter
    frames = protocol.given + protocol.new

    def extend(given: Tensor, names: Sequence[str] | None, frames: int, seed: int) -> Tensor:
        nonlocal spent
        rows = None if held.actions is None else held.actions[seed * protocol.batch :][: len(given)]
        begun = clock()
        longer = pipeline.extend(given, frames, names, actions=rows, seed=protocol.seed + seed, **way.options).cpu()
        spent += clock() - begun
        return longer

    scores: dict[str, Any] = {}
    if held.paths is not None:
        each = max(1, protocol.starts // len(LABELS))
        shapes = ShapesProtocol(each, given=protocol.given, frames=frames, horizon=protocol.new, batch=protocol.batch)
        scores["generation"], _ = score_generation(
            lambda names, seed: pipeline.generate(
                label=names, count=len(names), seed=protocol.seed + seed, **way.options
            ).cpu(),
            LABELS,
            shapes,
        )
        scores["extension"], _ = score_extension(extend, held.clips, held.names, held.paths, shapes)
    else:
        for number, part in enumerate(held.clips[:, :, : protocol.given].split(protocol.batch)):
            names = held.names and held.names[number * protocol.batch :][: len(part)]
            made.append(extend(part, names, frames, number))
        scores["prediction"] = score_prediction(torch.cat(made), held.clips, protocol.given)
        if picture is not None:
            write_image(picture, real_above_made(held.clips, torch.cat(made), protocol.given))
    return {**scores, "seconds": spent / (len(held.clips) * protocol.new)}


def score_prediction(made: Tensor, real: Tensor, given: int) -> dict[str, Any]:
    """The squared error over what moves in the frames after the given ones, as a share of that which the last given
    frame has, repeated: of the "first", of the "last" and of "all"; NaN of a frame in which nothing moves. And "psnr"
    of each of these frames, all pixels alike, with that of the last given one, "psnr_repeated": means over clips, in
    dB. Both videos are `(n, 3, f, h, w)`.

    Raises:
        ValueError: nothing moves in those frames.
    """
    moves, after = moving(real)[0][:, :, given:].double(), real[:, :, given:].double()

    def error(video: Tensor) -> Tensor:
        return ((video.double() - after).square() * moves).sum((0, 1, 3, 4))  # of each frame

    own, of_last = error(made[:, :, given:]), error(real[:, :, given - 1 : given])
    if not of_last.sum() > 0:
        raise ValueError(f"nothing moves in the frames that follow the {given} given ones: give others with --data")
    share = own / of_last
    frames = {"psnr": made[:, :, given:], "psnr_repeated": real[:, :, given - 1 : given].expand_as(after)}
    return {
        "first": float(share[0]),
        "last": float(share[-1]),
        "all": float(own.sum() / of_last.sum()),
        **{name: psnr(video.double(), after).mean(0).tolist() for name, video in frames.items()},
    }


def real_above_made(real: Tensor, made: Tensor, given: int, clips: int = 3, frames: int = 5) -> Tensor:
    """A picture of what follows a given frame, which comes first, in clips evenly chosen, one below another: each with
    the real frames above the made ones. Both videos are `(n, 3, f, h, w)`."""
    chosen = evenly(clips, len(real), middle=True)
    shown = range(given - 1, min(given + frames - 1, real.shape[2]))
    rows = (
        torch.cat([video[number, :, frame] for frame in shown], dim=2) for number in chosen for video in (real, made)
    )
    return torch.cat(list(rows), dim=1)


def compare_few(
    ways: Sequence[Way], data: str | Path | None, protocol: FewProtocol, file: Path
) -> Iterator[dict[str, Any]]:
    """Score ways to draw on the held-out clips of the first one's data.

    Each row is kept in `file` as soon as it is there; one that is there already, of the same weights, settings and
    protocol, is not made again. Pictures of predictions lie beside it, by the run's name and its steps.

    Yields:
        of each way its `name`, `sampling`, and the scores of `score_way`.

    Raises:
        ValueError: runs of clips of another size, or told other things; as `read_held_out` and `score_way`.
    """
    first = ways[0].pipeline.facts
    for way in ways[1:]:
        facts = way.pipeline.facts
        for what, own, other in (
            ("labels", facts.labels, first.labels),
            ("pixels", facts.size, first.size),
            ("actions", facts.actions, first.actions),
        ):
            if own != other:
                raise ValueError(
                    f"{way.run} has the {what} {own}, and {ways[0].run} {other}: name runs of the same data"
                )
    held: Held | None = None
    kept = rows_in(file)
    for way in tqdm(ways, desc="ways", disable=None):
        asked: dict[str, Any] = {
            "name": way.run.name,
            "run": str(way.run),
            "checkpoint": (way.run / "checkpoints" / "latest").read_text().strip(),
            "sampling": way.pipeline.settings(**way.options),
            "data": None if data is None else str(data),
            "protocol": asdict(protocol),
        }
        asked = finite(asked)
        row = next((one for one in kept if {key: one.get(key) for key in asked} == asked), None)
        if row is None:
            held = read_held_out(ways[0], data, protocol) if held is None else held
            steps = asked["sampling"]["steps"]
            picture = file.with_name(f"{file.stem}-{way.run.name}-{steps}.png")
            row = {**asked, **finite(score_way(way, held, protocol, picture))}
            kept.append(row)
            write_whole(file, json.dumps({"rows": kept}, indent=2, allow_nan=False) + "\n")
        yield row
