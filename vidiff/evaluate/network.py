"""Scores of made clips against real ones in the features of a network, with a card that says how.

A run makes its own clips, one for each real one, with its label. The same numbers come from one process and from
several, given as many threads each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from vidiff.codec.files import load_into
from vidiff.data.captions import has_captions
from vidiff.data.index import index_of, other_data
from vidiff.data.options import DataConfig
from vidiff.data.root import copies_of, name_of, root_of
from vidiff.engine.checkpoint import describe_weights, load_part, newest
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group
from vidiff.engine.publish import metadata_of, published, step_of
from vidiff.evaluate.card import (
    MADE,
    Card,
    card_lines,
    check_network,
    compare_cards,
    measured,
    protocol_of,
    read_card,
    write_card,
)
from vidiff.evaluate.clips import DrawnClips, captions_of, classes_of, index_folder, searched_windows
from vidiff.evaluate.comparison import finite
from vidiff.evaluate.long import watch
from vidiff.evaluate.measure import Scores, add_prediction, look_at_motion, measure, read_features
from vidiff.evaluate.page import SHOWN, Shown, checkpoint_curves, checkpoint_table, drift_curves, write_scores
from vidiff.metrics.clip_score import ClipScore
from vidiff.metrics.drift import STRETCH, Looks, by_frame, drift_at_end, look
from vidiff.metrics.features import Features
from vidiff.metrics.prediction import predicted
from vidiff.metrics.sensitivity import damaged
from vidiff.metrics.sets import nearest
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config, runs_of
from vidiff.training.kept import read_kept
from vidiff.training.windows import BATCH, Windows, choose_windows, gathered

T = TypeVar("T")


@dataclass(frozen=True)
class RealClips:
    """The real clips that made ones are held against; None for the run's own, or for as many as there are.

    Args:
        data: a folder, a list, tars, or a URL of these.
        split: of it.
        clips: how many real ones, and made ones.
        frames: of a clip, `stride` source frames apart.
        size: of the frames, in pixels.
    """

    data: str | None = None
    split: str | None = None
    clips: int | None = None
    frames: int | None = None
    stride: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Drawing:
    """How clips are made; None for the run's own. The seed is that of resampling as well."""

    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None


@dataclass(frozen=True)
class Prediction:
    """How real clips are continued, to be compared with how they went on.

    Args:
        predict: frames that are given; None to predict nothing.
        tries: of each prediction; the best counts.
        lpips: a network of two pictures: its folder, or efficientnet.
    """

    predict: int | None = None
    tries: int = 1
    lpips: Path | None = None


@dataclass(frozen=True)
class Request:
    """A scoring that is asked for.

    Args:
        network: a feature network's folder, or efficientnet.
        extend: continue some real clips to so many frames, and show how they drift.
        checkpoints: "all" or a number: score that many of the kept ones, evenly chosen, the newest among them.
        clip: a CLIP model's folder, to score clips against their captions, or their labels.
        against: another card to compare with.
        out: folder for card, scores and page; by default scores-NETWORK beside the clips.
    """

    network: Path
    real: RealClips
    drawing: Drawing
    prediction: Prediction
    extend: int | None = None
    checkpoints: str | None = None
    clip: Path | None = None
    against: Path | None = None
    out: Path | None = None


class Scoring:
    """The real clips and all that made ones are measured against, ready for any checkpoint of a run.

    Args:
        origin: the run's folder, or that of clips.
        run: loaded; None for a folder of clips.

    Raises:
        ValueError: too few real clips; a size or a network that does not fit.
    """

    def __init__(self, request: Request, origin: Path, run: Pipeline | None, group: Group) -> None:
        self.request, self.origin, self.run, self.group = request, origin, run, group
        self.config = read_config(origin) if run else None
        self.network = Features.load(request.network, group.device)
        self.judge = ClipScore(request.clip, group.device) if request.clip else None
        self.similar = Features.load(request.prediction.lpips, group.device) if request.prediction.lpips else None
        if run and request.real.size not in (None, run.size):
            raise ValueError(f"size is {request.real.size}, but {origin} makes clips of {run.size} pixels")
        self.data = replace(self.config.data, limit=0) if self.config else DataConfig()
        self.runs = runs_of(origin, self.config) if self.config else Path("runs")
        if request.real.data is not None:
            self.data = other_data(self.data, request.real.data)
        elif self.config is None:
            raise ValueError("name the real clips with --data: a folder of made ones knows of none")
        self.split = request.real.split or self.data.test_split
        self.real = real = self.windows(self.split, request.real.clips)
        self.known: Windows | None = None
        self.training_clips = 0  # in all, of which `known` are some
        if self.split != self.data.split:
            with suppress(ValueError):  # no such split, or none so long: the card says that the floor is left out
                every = self.windows(self.data.split, None)
                self.training_clips = len(every)
                self.known = searched_windows(every, len(real)) if len(every) >= len(real) else None
        names = classes_of(real)
        texts = self._captions() if run and run.text is not None else None
        self.cautions: list[str] = []
        self.source: DrawnClips | Windows
        if run:
            options = {name: getattr(request.drawing, name) for name in ("guidance", "steps", "sampler")}
            self.source = DrawnClips(run, names, real.frames, request.drawing.seed, options, texts)
            self.cautions += self.source.cautions
            if kept := read_kept(origin):
                self.cautions.append(f"of held-out clips the codec keeps {kept}: the model can show no more")
        else:
            index = self._shared(lambda: index_folder(origin, real.index.labels))
            self.source = choose_windows(index, real.frames, real.size, 1, len(real))
            other = sum((file.height, file.width) != (real.size, real.size) for file in index.files)
            if other:
                odd = f"{other} of {len(index.files)} made clips are not of {real.size} x {real.size} px"
                self.cautions.append(f"{odd}: they were resized and cropped")
        self.words, self.wordless = self._words(names, texts) if self.judge else ({}, "")

    def windows(self, split: str, count: int | None, frames: int | None = None) -> Windows:
        """Windows of a split of the data set; one process looks for the files."""
        asked, run = self.request.real, self.run
        index = self._shared(lambda: index_of(self.data, self.runs, split))
        frames = frames or asked.frames or (run.frames if run else 16)
        size = asked.size or (run.size if run else 64)
        return choose_windows(index, frames, size, asked.stride or self.data.stride[0], count)

    def measure_real(self) -> None:
        """Look at all that is not made."""
        count, network, known, run = len(self.real), self.network, self.known, self.run

        def read(which: range) -> dict[str, Tensor]:
            video = self.real.read(which)
            return self._seen(which, video, "real") | damaged(network, video, self.request.drawing.seed + which.start)

        def features(windows: Windows, title: str) -> dict[str, Tensor]:
            return gathered(len(windows), self.group, lambda which: {"features": network(windows.read(which))}, title)

        self.truth = gathered(count, self.group, read, "real")
        self.train: dict[str, Tensor] | None = None
        self.coded: dict[str, Tensor] | None = None
        if known:
            # the floor's apart, so that its batches, and their bits, are the same whatever else is searched
            floor, others = (replace(known, starts=part) for part in (known.starts[:count], known.starts[count:]))
            self.train = features(floor, "training")
            if others and (further := features(others, "training, for copies")):
                self.train = {name: torch.cat([part, further[name]]) for name, part in self.train.items()}
        if run:
            self.coded = gathered(
                count, self.group, lambda which: read_features(network, run.reconstruct(self.real.read(which))), "codec"
            )

    def measure_made(self) -> tuple[dict[str, Tensor], Scores]:
        """What there is to see of made clips, and their scores; on the main process."""
        count, request, source = len(self.real), self.request, self.source
        made = gathered(count, self.group, lambda which: self._seen(which, source.read(which), "made"), "made")
        future = gathered(count, self.group, self._predicted, "prediction") if request.prediction.predict else {}
        if not self.group.main:
            return {}, Scores()
        scores = measure(
            self.network, self.truth, made, self.train, self.coded, request.drawing.seed, self.training_clips
        )
        scores.cautions += self.cautions
        if self.wordless:
            scores.left_out["CLIP score"] = self.wordless
        if request.prediction.predict:
            add_prediction(scores, future, request.prediction.predict, request.prediction.tries)
        return made, scores

    def protocol(self) -> dict[str, Any]:
        """What a card needs to tell which scores compare."""
        of, beside = self.request.prediction, dict[str, Any]()
        if of.predict:
            beside |= {"given": of.predict, "tries": of.tries}
        if self.judge and self.words:
            captions = isinstance(self.source, DrawnClips) and self.source.texts is not None
            beside |= {"clip_sha256": self.judge.sha256, "clip_words": "captions" if captions else "labels"}
        data, seed, pairs = name_of(self.data.root), self.request.drawing.seed, self.similar if of.predict else None
        return protocol_of(self.network, self.real, data, self.split, seed, pairs, **beside)

    def how(self, checkpoint: Path | None) -> dict[str, Any]:
        """How clips of a checkpoint are made, for a card."""
        if self.run is None or checkpoint is None or self.config is None or not isinstance(self.source, DrawnClips):
            return {**dict.fromkeys(MADE), "source": str(self.origin)}
        weights = self.run.weights
        return self.source.how(
            str(self.origin), **describe_weights(checkpoint, weights), ema=width_of(weights, self.config.train)
        )

    def looks(self, frames: int, given: int) -> dict[str, Looks]:
        """The looks of the first clips as they are continued to `frames`, and of real ones as long, if any are."""
        count, source = min(BATCH, len(self.real)), self.source
        assert isinstance(source, DrawnClips)

        def made(which: range) -> dict[str, Tensor]:
            start = self.real.read(which)[:, :, :given]
            return dict(vars(watch(source.onward(which, start, frames), start, (), False, lambda _: None).looks))

        looks = {"made": gathered(count, self.group, made, f"to {frames} frames")}
        try:
            real = self.windows(self.split, None, frames)
        except ValueError:  # no held-out file is so long
            pass
        else:
            short = min(BATCH, len(real))
            looks["real"] = gathered(short, self.group, lambda which: dict(vars(look(real.read(which)))), "real")
        return {name: Looks(**parts) for name, parts in looks.items()} if self.group.main else {}

    def _shared(self, make: Callable[[], T]) -> T:
        return cast(T, self.group.share(make() if self.group.main else None))

    def _captions(self) -> list[str] | None:
        """What the real clips show in words; None where the data set has no captions."""

        def read() -> list[str] | None:
            root, windows = root_of(self.data.root, copies_of(self.runs, self.data.remote_cache_gb)), self.real
            there = has_captions(root, [windows.index.files[number] for number, _ in windows.starts])
            return captions_of(windows, root, self.data.captions) if there else None

        return self._shared(read)

    def _words(self, names: Sequence[str | None], texts: Sequence[str] | None) -> tuple[dict[str, list[str]], str]:
        """What real and made clips are said to show, for CLIP; or nothing, and why."""
        source = self.source
        if isinstance(source, DrawnClips) and not source.told:
            return {}, "the run's clips are drawn without label and text"
        if texts is not None:
            return {"real": [*texts], "made": [*texts]}, ""
        said = {"real": names, "made": names if isinstance(source, DrawnClips) else classes_of(source)}
        for kind, words in said.items():
            if count := sum(name is None for name in words):
                return {}, f"{count} of {len(words)} {kind} clips have neither a caption nor a label"
        return {kind: [str(name).replace("_", " ") for name in words] for kind, words in said.items()}, ""

    def _seen(self, which: range, video: Tensor, kind: str) -> dict[str, Tensor]:
        views = (
            read_features(self.network, video) | look_at_motion(video) | {"shown": video[: max(0, SHOWN - which.start)]}
        )
        if not self.judge or not self.words:
            return views
        return views | {"CLIP score": self.judge(video, self.words[kind][which.start : which.stop])}

    def _predicted(self, which: range) -> dict[str, Tensor]:
        source, request = self.source, self.request
        assert isinstance(source, DrawnClips) and request.prediction.predict
        return predicted(
            partial(source.extend, which),
            self.real.read(which),
            request.prediction.predict,
            request.prediction.tries,
            self.similar,
        )


def score_by_network(request: Request, origin: Path, run: Pipeline | None, group: Group) -> list[str]:
    """Score a run's clips, or those in a folder, and write card, scores and page.

    Of the checkpoints besides the newest a card is kept as soon as it is there, and not made again.

    Returns:
        the scores as lines, and last the page's path; nothing on other processes than the main one.

    Raises:
        ValueError: as `Scoring`; for anything that makes the scores meaningless.
    """
    if run is None and any((request.prediction.predict, request.extend, request.checkpoints)):
        raise ValueError(
            f"{origin} is no trained run, so it cannot continue clips and has no checkpoints: leave out --predict, "
            "--extend and --checkpoints"
        )
    if run is None and request.out is not None and request.out.resolve() == origin.resolve():
        raise ValueError(
            f"out is {request.out}, the folder of made clips itself, of which what is written there would then be one: "
            "give another --out"
        )
    other = read_card(request.against) if request.against else None
    paths: list[Path | None] = [*choose_checkpoints(origin, request.checkpoints, run.weights)] if run else [None]
    scoring = Scoring(request, origin, run, group)
    given = 0
    if request.extend and run:
        given = request.prediction.predict or min(run.sampling.context, scoring.real.frames - 1)
        if request.extend < given + 2 * STRETCH:
            raise ValueError(f"extend is {request.extend}; give at least {given + 2 * STRETCH} frames, to see a drift")
    scoring.measure_real()
    out = request.out or origin / f"scores-{scoring.network.name}"
    protocol, circumstances = scoring.protocol(), measured(str(group.device), group.world)
    cards: list[Card] = []
    for path in paths:
        how, file = scoring.how(path), out / "checkpoints" / f"{path.name if path else ''}.json"
        kept = _kept(file, protocol, how, circumstances) if group.main and path != paths[-1] else None
        if (kept := group.share(kept)) is not None:
            cards.append(kept)
            continue
        if run and path and len(paths) > 1:
            load_into(run.denoiser, load_part(path, "denoiser", run.weights), path)
        made, scores = scoring.measure_made()
        card = Card(protocol, how, circumstances, scores.values, scores.left_out, tuple(scores.cautions))
        cards.append(card)
        if group.main and request.checkpoints:
            write_card(file, card)
    looks = scoring.looks(request.extend, given) if request.extend else {}
    if not group.main:
        return []
    further: dict[str, str] = {}
    if len(cards) > 1:
        further["Over checkpoints"] = checkpoint_curves(cards) + checkpoint_table(cards)
    if request.extend:
        further[f"Along an extension, after {given} given frames"] = drift_curves(looks, given)
        last = drift_at_end(looks["made"], given).items()
        drifts = {f"drift to {request.extend} frames, {k}": v for k, v in last}
        card = replace(card, protocol={**card.protocol, "given": given}, scores={**card.scores, **drifts})
        out.mkdir(parents=True, exist_ok=True)
        frames = {name: by_frame(part, given) for name, part in looks.items()}
        (out / "drift.json").write_text(json.dumps(finite({"given": given, **frames}), allow_nan=False) + "\n")
    comparison = compare_cards(card, check_network(other, scoring.network.sha256)) if other else None
    known = scoring.known if scoring.train else None
    shown = Shown(
        scoring.truth["shown"],
        made["shown"],
        nearest(made["features"][:SHOWN], scoring.train["features"])[1] if known and scoring.train else None,
        known.read if known else None,
        run.fps if run else 16.0,
    )
    return [*card_lines(card, comparison), str(write_scores(out, card, shown, comparison, further))]


def choose_checkpoints(run: Path, which: str | None, weights: str = "ema") -> list[Path]:
    """The newest, or with `which` "all" or a number, so many of those that are kept, evenly chosen, from old to new.

    Raises:
        ValueError: anything else, or weights that are not of each checkpoint.
    """
    last = newest(run / "checkpoints")
    assert last is not None  # the run was loaded
    if which is None:
        return [last]
    if weights not in ("ema", "model"):
        raise ValueError(f"weights is {weights}, of one checkpoint: with --checkpoints take ema or model")
    kept = [path for path in published(run / "checkpoints") if step_of(path) <= step_of(last)]
    if which == "all":
        return kept
    if not which.isdecimal() or not 1 <= int(which) <= len(kept):
        raise ValueError(f'checkpoints is {which!r}; {run} has {len(kept)}: give "all", or 1 to {len(kept)}')
    count = int(which)
    return [kept[(i + 1) * len(kept) // count - 1] for i in range(count)]


def width_of(weights: str, train: TrainOptions) -> str | None:
    """How wide an average the weights are: as `train.ema` has it, or by the width in the name of a file."""
    if weights in ("ema", "best"):
        return f"decay {train.ema:g}, warm-up {train.ema_warmup}"
    if weights == "model":
        return "none"
    path = Path(weights)
    stem = re.search(r"\d\.\d+$", path.stem)
    width = metadata_of(path).get("width") or (stem and stem[0])
    return f"relative width {width}" if width else None


def _kept(file: Path, protocol: dict[str, Any], how: dict[str, Any], circumstances: dict[str, Any]) -> Card | None:
    """The card in a file, where it is of the same doing by the same code."""
    if not file.is_file():
        return None
    card = read_card(file)
    wanted = json.loads(json.dumps([protocol, how, circumstances["git"], circumstances["versions"]]))
    own = [card.protocol, card.made, card.measured.get("git"), card.measured.get("versions")]
    return card if own == wanted and not card.doubts else None
