"""Strategies for long videos beside each other: held-out clips of a run, continued by each and measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from vidiff.data.index import index_of
from vidiff.data.shapes import Clip, read_clips
from vidiff.draw.long import STRATEGIES
from vidiff.evaluate.comparison import finite
from vidiff.evaluate.continuation import score, watch
from vidiff.metrics.objects import LABELS
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import DataConfig
from vidiff.recipe.slots import build_strategy, read_slot
from vidiff.store.plain import read_json
from vidiff.video.fit import Fit
from vidiff.video.reader import VideoReader
from vidiff.video.writer import sheet, write_image

PICTURED = 4  # clips in the pictures
GAP = 4  # white pixels between them


@dataclass(frozen=True)
class Protocol:
    """How strategies are compared. Figures compare only under one protocol, on one run.

    Raises:
        ValueError: a number out of range.
    """

    clips: int = 24  # held-out clips, evenly chosen
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
class Clips:
    """Held-out clips of a run's data.

    Attributes:
        paths: of the files.
        labels: names of what they show, for a model that is told; else None.
        truth: all about each clip, where the data is the shapes set; else empty.
        length: frames that each file has at least; where the truth is known, each clip goes on for ever.
        stride: source frames per frame.
        side: height and width in pixels.
        fps: frames a second at which the files are seen; 0 for their own.
        decoders: what reads each file.
    """

    paths: list[Path]
    labels: list[str] | None
    truth: list[Clip]
    length: int
    stride: int
    side: int
    fps: float = 0.0
    decoders: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of the files, as text."""
        return [str(path) for path in self.paths]

    def real(self, rows: slice, frames: int) -> Tensor:
        """How some clips really go on, `(b, 3, frames, side, side)`."""
        return torch.stack([clip.video(frames) for clip in self.truth[rows]]) if self.truth else self.read(rows, frames)

    def read(self, rows: slice, frames: int) -> Tensor:
        """The first frames of some clips, `(b, 3, frames, side, side)`, resized and cropped as for training."""
        pairs = zip(self.paths[rows], self.decoders[rows], strict=True)
        return torch.stack([self._read(path, decoder, frames) for path, decoder in pairs])

    def _read(self, path: Path, decoder: str, frames: int) -> Tensor:
        with VideoReader(path, self.fps, decoder) as reader:
            fit = Fit(reader.size, (self.side, self.side))
            return fit.read(reader, range(0, frames * self.stride, self.stride))


def held_out(pipeline: Pipeline, data: DataConfig, protocol: Protocol, runs: Path) -> Clips:
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


def _find(pipeline: Pipeline, data: DataConfig, count: int, runs: Path) -> Clips:
    stride, root = data.stride[0], Path(data.root)
    if (root / "captions.jsonl").is_file() and stride == 1 and not data.fps:
        index = index_of(replace(data, limit=0), runs, data.test_split)
        decoders = {root / file.path: file.decoder for file in index.files}
        truth = {path: clip for path, clip in read_clips(root).items() if path in decoders}
        files = [path for label in LABELS for path in sorted(truth) if truth[path].label == label]
        files = [files[(2 * i + 1) * len(files) // (2 * count)] for i in range(count if files else 0)]
        wrong = [path for path in files if truth[path].side != pipeline.size]
        if wrong or not files:
            found = f"{wrong[0]} has {truth[wrong[0]].side}" if wrong else "there are none"
            raise ValueError(f"held-out clips in {root} must have frames of {pipeline.size} px: {found}")
        labels = [truth[path].label for path in files] if set(LABELS) <= set(pipeline.labels) else None
        known = [truth[path] for path in files]
        return Clips(files, labels, known, 0, 1, pipeline.size, decoders=[decoders[path] for path in files])
    index = index_of(replace(data, limit=count), runs, data.test_split)
    labels = [index.labels[file.label] for file in index.files] if pipeline.labels else None
    length = min(1 + (file.frames - 1) // stride for file in index.files)
    paths, read_by = [index.root / file.path for file in index.files], [file.decoder for file in index.files]
    return Clips(paths, labels, [], length, stride, pipeline.size, data.fps, read_by)


def ways(pipeline: Pipeline, names: Sequence[str] | None, history: float | None) -> list[Way]:
    """Each strategy with guidance on history, by a scale or the run's own, and then each without.

    Args:
        names: names or slots as text; by default all that the run's model can do.
        history: scale; by default the run's, or else the scale of its guidance.

    Raises:
        ValueError: for an unknown strategy or option.
    """
    if names is None:
        names = [name for name in STRATEGIES if name != "keyframes" or pipeline.stride is not None]
    slots = [read_slot("strategy", name) for name in names]
    guided = [build_strategy(slot).guides for slot in slots]
    scale = history if history is not None else pipeline.sampling.history or pipeline.sampling.guidance
    found = [Way(slot, scale if guides else None) for slot, guides in zip(slots, guided, strict=True)]
    return found + [Way(slot, None) for slot, guides in zip(slots, guided, strict=True) if guides]


def compare(
    pipeline: Pipeline,
    clips: Clips,
    every: Sequence[Way],
    protocol: Protocol,
    show: Sequence[int],
    folder: Path,
    origin: str,
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Continue the clips in every way, the real one first where it is known.

    Each result is kept in `folder` as soon as it is there; one that is there already, of the same run and protocol, is
    not made again.

    Args:
        show: numbers of frames to picture.
        origin: which weights these are.

    Yields:
        a result, with its `name` (see `evaluate.continuation.score`), and the file of its pictures.
    """
    real: list[Way | None] = [None] if clips.truth or clips.length >= protocol.frames else []
    with tqdm(total=len(real) + len(every), desc="strategies") as bar:
        for way in [*real, *every]:
            name = "real" if way is None else way.name
            bar.set_postfix_str(name)
            slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
            doing = {"origin": origin, "protocol": asdict(protocol), "shown": list(show), "files": clips.names}
            told = finite({"name": name, "way": None if way is None else asdict(way), **doing})
            result_file, picture = folder / f"{slug}.json", folder / f"{slug}.png"
            result = _kept(result_file, told) if picture.is_file() else None
            if result is None:
                result, shown = _measure(pipeline, clips, way, protocol, show)
                result = told | finite(result)
                rows = torch.arange(min(PICTURED, len(shown))) * len(shown) // min(PICTURED, len(shown))
                write_image(picture, torch.cat([pad(sheet(clip), (0, GAP), value=1.0) for clip in shown[rows]], dim=2))
                result_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
            bar.update()
            yield result, picture


def _kept(file: Path, told: dict[str, Any]) -> dict[str, Any] | None:
    """A result that was kept, if it is of the same doing."""
    if not file.is_file():
        return None
    result = read_json(file)
    return result if {key: result.get(key) for key in told} == told else None


def _measure(
    pipeline: Pipeline, clips: Clips, way: Way | None, protocol: Protocol, show: Sequence[int]
) -> tuple[dict[str, Any], Tensor]:
    """Figures of one way, or without one of the real videos, and the frames to show, `(b, 3, n, h, w)`."""
    count, given, frames = len(clips.paths), protocol.given, protocol.frames
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
            told = partial(_advance, bar, len(start))
            seen.append(watch(pieces, start, show, bool(clips.truth), told))
    truth = clips.truth
    context = pipeline.sampling.context if protocol.context is None else protocol.context
    result = score(
        seen,
        given,
        protocol.chunk,
        range(given, frames, max(pipeline.frames - context, 1)),
        torch.tensor([LABELS.index(clip.label) for clip in truth]) if truth else None,
        torch.stack([clip.path(frames) for clip in truth]) if truth else None,
    )
    if way is None:
        result.pop("seconds")  # of reading or drawing them
    return result, torch.cat([one.shown for one in seen])


def _advance(bar: Any, clips: int, frames: int) -> None:
    bar.update(clips * frames)
