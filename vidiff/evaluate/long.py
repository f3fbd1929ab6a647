"""Strategies for long videos beside each other: held-out clips of a run, continued by each and measured.

A video is measured while it is being continued, so that no more of it is kept than its figures.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from vidiff.data.clip import Clip
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.data.shapes import ShapesClip
from vidiff.draw.long import STRATEGIES, Clean
from vidiff.draw.window import windows
from vidiff.evaluate.comparison import finite
from vidiff.evaluate.shapes import held_out_shapes, label_numbers
from vidiff.metrics.drift import Looks, after, drift, join, look
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import Reading, extension_score, join_readings, kept_along, read_shapes
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.slots import build_strategy, read_slot
from vidiff.store.plain import read_json
from vidiff.training.windows import evenly
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader
from vidiff.video.writer import sheet, write_image

PICTURED = 4  # clips in the pictures
GAP = 4  # white pixels between them


@dataclass(frozen=True)
class LongProtocol:
    """How strategies are compared. Figures compare only under one protocol, on one run.

    Raises:
        ValueError: a number out of range.
    """

    clips: int = 24  # held-out clips, evenly chosen, or all where there are fewer
    given: int = 8  # frames that each begins with
    frames: int = 256  # that each has in the end
    chunk: int = 32  # frames of a stretch, by which drift is measured
    batch: int = 8  # clips drawn at once
    seed: int = 0
    steps: int | None = None  # of the sampler; None for the run's own
    context: int | None = None  # frames that each window looks back on; None for the run's own

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("given", 1), ("chunk", 2), ("batch", 1), ("frames", self.given + 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more")


@dataclass(frozen=True)
class Way:
    """A strategy, with guidance on the frames that are continued, by the scale `history`, or without."""

    strategy: dict[str, Any]
    history: float | None

    @property
    def name(self) -> str:
        """Such as "noisy, level 0.02, history 2.5"."""
        options = {**self.strategy, **({} if self.history is None else {"history": self.history})}
        return ", ".join([options.pop("name"), *(f"{key} {value}" for key, value in options.items())])


@dataclass(frozen=True)
class HeldOut:
    """Held-out clips of a run's data.

    Attributes:
        files: the clips, as an index has them.
        labels: names of what they show, None for one without, for a model that is told; else None.
        truth: all about each clip, where the data is the shapes set; else empty.
        length: frames that each file has at least; where the truth is known, each clip goes on for ever.
        stride: source frames per frame.
        side: height and width in pixels.
        fps: frames a second at which the files are seen; 0 for their own.
    """

    files: list[Clip]
    labels: Sequence[str | None] | None
    truth: list[ShapesClip]
    length: int
    stride: int
    side: int
    fps: float = 0.0
    treatment: Treatment = PLAIN

    @property
    def names(self) -> list[str]:
        """Of the files, as text."""
        return [str(file.place) for file in self.files]

    def real(self, rows: slice, frames: int) -> Tensor:
        """How some clips really go on, `(b, 3, frames, side, side)`."""
        return torch.stack([clip.video(frames) for clip in self.truth[rows]]) if self.truth else self.read(rows, frames)

    def read(self, rows: slice, frames: int) -> Tensor:
        """The first frames of some clips, `(b, 3, frames, side, side)`, resized and cropped as for training."""
        return torch.stack([self._read(file, frames) for file in self.files[rows]])

    def _read(self, file: Clip, frames: int) -> Tensor:
        with file.place.held() as here, VideoReader(here, self.fps, file.decoder, self.treatment, file.part) as reader:
            fit = Fit(reader.size, (self.side, self.side))
            return fit.read(reader, range(0, frames * self.stride, self.stride))


def held_out(pipeline: Pipeline, data: DataConfig, protocol: LongProtocol, runs: Path) -> HeldOut:
    """Held-out clips of the data that a run was trained on, evenly chosen.

    Args:
        runs: folder of runs, of which the quarantine is left out.

    Raises:
        ValueError: as `read_clips` and `index_of`; shapes of another size than the model's; files with fewer frames
            than the protocol gives.
    """
    clips = _find(pipeline, data, protocol.clips, runs)
    if not clips.truth and clips.length < protocol.given:
        raise ValueError(
            f"given is {protocol.given}, but a held-out clip in {data.root} has only {clips.length} frames: give fewer"
        )
    return clips


def _find(pipeline: Pipeline, data: DataConfig, count: int, runs: Path) -> HeldOut:
    stride, root, side = data.stride[0], Path(data.root), pipeline.size
    if (root / "captions.jsonl").is_file() and stride == 1 and not data.fps:
        index = index_of(replace(data, limit=0), runs, data.test_split)
        file_at = {root / file.name: file for file in index.files}
        known = list(held_out_shapes(root, side, file_at).items())
        paths, truth = zip(*(known[i] for i in evenly(count, len(known), middle=True)), strict=True)
        labels = [clip.label for clip in truth] if set(LABELS) <= set(pipeline.labels) else None
        return HeldOut([file_at[path] for path in paths], labels, list(truth), 0, 1, side)
    index = index_of(replace(data, limit=count), runs, data.test_split)
    labels = [index.class_of(file) for file in index.files] if pipeline.labels and index.labels else None
    length = min(1 + (file.frames - 1) // stride for file in index.files)
    return HeldOut(index.files, labels, [], length, stride, side, data.fps, data.treatment)


def ways(
    pipeline: Pipeline, names: Sequence[str] | None = None, histories: Sequence[float | None] | None = None
) -> list[Way]:
    """Each strategy by each scale of guidance on history; those that have none of it, once.

    Args:
        names: names or slots as text; by default all that the run's model can do.
        histories: scales, None for guidance on the label alone; by default the run's, or else the scale of its
            guidance, and None.

    Raises:
        ValueError: for an unknown strategy or option.
    """
    if names is None:
        able = [name for name, way in STRATEGIES.items() if way.causal in (None, pipeline.facts.causal)]
        names = [name for name in able if name != "keyframes" or pipeline.stride is not None]
    slots = [read_slot("strategy", name) for name in names]
    guided = [build_strategy(slot).guides for slot in slots]
    scales = [pipeline.sampling.history or pipeline.sampling.guidance, None] if histories is None else histories
    return [
        Way(slot, scale if guides else None)
        for number, scale in enumerate(scales)
        for slot, guides in zip(slots, guided, strict=True)
        if guides or number == 0
    ]


def seams_of(pipeline: Pipeline, way: Way | None, protocol: LongProtocol) -> list[int]:
    """Frames at which a window begins, the given ones counted; of the real videos, those of the strategy "clean".

    A strategy that does not go on window by window has none.

    Raises:
        ValueError: a context that fills a window.
    """
    slot = {"name": "clean"} if way is None else way.strategy
    if not isinstance(build_strategy(slot), Clean):
        return []
    context = pipeline.reach(slot, protocol.context)
    walk = windows(pipeline.frames, protocol.frames, context, protocol.given, unit=pipeline.codec.unit)
    return [window.begin for window in walk]


def compare_ways(
    pipeline: Pipeline,
    clips: HeldOut,
    every: Sequence[Way],
    protocol: LongProtocol,
    show: Sequence[int],
    folder: Path,
    origin: str,
    real: bool = True,
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Continue the clips in every way, the real one first where it is known.

    Each result is kept in `folder` as soon as it is there; one that is there already, of the same run and protocol, is
    not made again.

    Args:
        show: numbers of frames to picture.
        origin: which weights these are.
        real: whether the real one is wanted.

    Yields:
        a result, with its `name` (see `score_continuation`), and the file of its pictures.
    """
    known = real and (clips.truth or clips.length >= protocol.frames)
    first: list[Way | None] = [None] if known else []
    with tqdm(total=len(first) + len(every), desc="strategies") as bar:
        for way in [*first, *every]:
            name = "real" if way is None else way.name
            bar.set_postfix_str(name)
            seams = seams_of(pipeline, way, protocol)
            slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
            doing = {"origin": origin, "protocol": asdict(protocol), "shown": list(show), "files": clips.names}
            origins = finite({"name": name, "way": None if way is None else asdict(way), **doing, "seams": seams})
            result_file, picture = folder / f"{slug}.json", folder / f"{slug}.png"
            result = _kept(result_file, origins) if picture.is_file() else None
            if result is None:
                result, shown = _measure(pipeline, clips, way, protocol, show, seams)
                result = origins | finite(result)
                rows = evenly(PICTURED, len(shown))
                write_image(picture, torch.cat([pad(sheet(clip), (0, GAP), value=1.0) for clip in shown[rows]], dim=2))
                result_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
            bar.update()
            yield result, picture


def _kept(file: Path, origins: dict[str, Any]) -> dict[str, Any] | None:
    """A result that was kept, if it is of the same doing."""
    if not file.is_file():
        return None
    result = read_json(file)
    return result if {key: result.get(key) for key in origins} == origins else None


def _measure(
    pipeline: Pipeline,
    clips: HeldOut,
    way: Way | None,
    protocol: LongProtocol,
    show: Sequence[int],
    seams: Sequence[int],
) -> tuple[dict[str, Any], Tensor]:
    """Figures of one way, or without one of the real videos, and the frames to show, `(b, 3, n, h, w)`."""
    count, given, frames = len(clips.files), protocol.given, protocol.frames
    seen, name = [], "real" if way is None else way.name
    with tqdm(total=count * (frames - given), desc=name, unit="frame", leave=False) as bar:
        for number, begin in enumerate(range(0, count, protocol.batch)):
            rows = slice(begin, min(begin + protocol.batch, count))
            start = clips.read(rows, given)
            if way is None:
                pieces = iter([clips.real(rows, frames)[:, :, given:]])
            else:
                pieces = pipeline.stream(
                    frames,
                    clips.labels and clips.labels[rows],
                    clip=start,
                    context=protocol.context,
                    strategy=way.strategy,
                    history=way.history,
                    guidance=None if way.history is not None else pipeline.sampling.guidance,
                    steps=protocol.steps,
                    seed=protocol.seed + number,
                )
            seen.append(watch(pieces, start, show, bool(clips.truth), partial(_advance, bar, len(start))))
    truth = clips.truth
    result = score_continuation(
        seen,
        given,
        protocol.chunk,
        seams,
        label_numbers([clip.label for clip in truth]) if truth else None,
        torch.stack([clip.path(frames) for clip in truth]) if truth else None,
    )
    if way is None:
        result.pop("seconds")  # of reading or drawing them
    return result, torch.cat([one.shown for one in seen])


def _advance(bar: Any, clips: int, frames: int) -> None:
    bar.update(clips * frames)


@dataclass(frozen=True)
class Seen:
    """The measures of b clips that were watched.

    Attributes:
        looks: of all f frames.
        reading: the same by the oracle of the shapes set; None where that was not asked.
        shown: (b, 3, n, h, w), the frames that were asked for.
        seconds: that making the new frames took.
    """

    looks: Looks
    reading: Reading | None
    shown: Tensor
    seconds: float


def watch(
    pieces: Iterator[Tensor], given: Tensor, show: Sequence[int], oracle: bool, advance: Callable[[int], object]
) -> Seen:
    """Look at clips as they are continued piece by piece.

    Args:
        pieces: new frames, each (b, 3, n, h, w) in [-1, 1].
        given: (b, 3, g, h, w), the frames before them.
        show: numbers of frames to keep, rising; the given ones count.
        oracle: whether to read the clips as of the shapes set.
        advance: is told the number of new frames of every piece.
    """
    looks, readings, shown = [look(given)], [read_shapes(given)] if oracle else [], []
    done, seconds, piece = 0, 0.0, given
    while True:
        shown.append(piece[:, :, [frame - done for frame in show if done <= frame < done + piece.shape[2]]].cpu())
        done, before = done + piece.shape[2], piece[:, :, -1:]
        begun = time.perf_counter()
        piece = next(pieces, given[:, :, :0]).detach().cpu()
        seconds += time.perf_counter() - begun
        if not piece.shape[2]:
            whole = join_readings(readings) if oracle else None
            return Seen(join(looks), whole, torch.cat(shown, dim=2), seconds)
        looks.append(look(piece, before))
        if oracle:
            readings.append(read_shapes(piece))
        advance(piece.shape[2])


def score_continuation(
    seen: Sequence[Seen],
    given: int,
    chunk: int,
    seams: Sequence[int],
    labels: Tensor | None = None,
    paths: Tensor | None = None,
) -> dict[str, Any]:
    """Figures of the new frames of clips that were seen some at a time.

    Args:
        given: frames that they began with, which are not counted: a codec alone makes new ones a little softer.
        chunk: frames of a stretch, see `drift`; the first begins with the first new frame.
        seams: frames at which a window began, the given ones counted.
        labels: (b,) int64, and paths: (b, f, 2), where they were read by the oracle: what they show, and where.

    Returns:
        `seconds`, for a new frame of one clip; `drift`; and `shapes`: `kept_along`, and `extension_score`'s `error`.
    """
    looks = after(join([one.looks for one in seen], dim=0), given)
    count, new = looks.change.shape
    result: dict[str, Any] = {
        "seconds": sum(one.seconds for one in seen) / (count * new),
        "drift": drift(looks, chunk, [seam - given for seam in seams]),
    }
    if labels is not None and paths is not None:
        reading = join_readings([one.reading for one in seen if one.reading is not None], dim=0)
        extension = extension_score(reading, paths, given, min(8, new))
        result["shapes"] = {
            **kept_along(reading, labels, chunk, given),
            "error": extension["error"],
            "error_by_frame": extension["error_by_frame"],
        }
    return result
