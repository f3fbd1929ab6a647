"""Scores of made clips against real ones in the features of a network, with a card that says how.

A run makes its own clips, one for each real one, with its label. The same numbers come from one process and from
several, given as many threads each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vidiff.codec.files import fill
from vidiff.data.index import Index, index_of
from vidiff.data.root import name_of
from vidiff.engine.checkpoint import describe_weights, load_part, newest
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group
from vidiff.engine.publish import metadata_of, published, step_of
from vidiff.evaluate.along import STRETCH, by_frame, checkpoint_curves, checkpoint_table, drift_curves, drift_scores
from vidiff.evaluate.card import MADE, Card, check_network, compare, lines, measured, read_card, write_card
from vidiff.evaluate.clips import BATCH, Windows, choose_windows, gathered
from vidiff.evaluate.comparison import finite
from vidiff.evaluate.continuation import watch
from vidiff.evaluate.folder import index_folder
from vidiff.evaluate.made import Made
from vidiff.evaluate.measure import Scores, add_prediction, look, look_at_motion, measure
from vidiff.evaluate.page import SHOWN, write_page
from vidiff.metrics.clip_score import ClipScore
from vidiff.metrics.drift import Looks
from vidiff.metrics.drift import look as drift_look
from vidiff.metrics.features import Features
from vidiff.metrics.prediction import predicted
from vidiff.metrics.sensitivity import damaged
from vidiff.metrics.sets import nearest
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.kinds import DataConfig


@dataclass(frozen=True)
class Asked:
    """What is to be scored, and how; None for the run's own, for as many as there are, or for no such score.

    Args:
        network: a feature network's folder.
        data: the real clips: a folder, a list, tars, or a URL of these.
        split: of it.
        clips: real clips, and made ones.
        frames: of a clip, `stride` source frames apart.
        size: of the frames, in pixels.
        seed: of the made clips and of resampling.
        guidance, steps, sampler: by which clips are made.
        predict: continue the real clips from so many frames, and compare with how they went on.
        tries: of each prediction; the best counts.
        extend: continue some real clips to so many frames, and show how they drift.
        checkpoints: "all" or a number: score that many of the kept ones, evenly chosen, the newest among them.
        lpips: a network of two pictures, for predictions.
        clip: a CLIP model's folder, to score clips against their labels.
        against: another card to compare with.
        out: folder for card, scores and page.
    """

    network: Path
    data: str | None = None
    split: str | None = None
    clips: int | None = None
    frames: int | None = None
    stride: int | None = None
    size: int | None = None
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None
    predict: int | None = None
    tries: int = 1
    extend: int | None = None
    checkpoints: str | None = None
    lpips: Path | None = None
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

    def __init__(self, asked: Asked, origin: Path, run: Pipeline | None, group: Group) -> None:
        self.asked, self.origin, self.run, self.group = asked, origin, run, group
        self.config = read_config(origin) if run else None
        self.network = Features.load(asked.network, group.device)
        self.judge = ClipScore(asked.clip, group.device) if asked.clip else None
        self.similar = Features.load(asked.lpips, group.device) if asked.lpips else None
        if run and asked.size not in (None, run.size):
            raise ValueError(f"size is {asked.size}, but {origin} makes clips of {run.size} pixels")
        data = self.config.data if self.config else DataConfig()
        self.split = asked.split or data.test_split
        self.real = real = self.windows(self.split, asked.clips)
        self.known: Windows | None = None
        if self.split != data.split:
            with suppress(ValueError):  # no such split, or too few clips: the card says that the floor is left out
                self.known = self.windows(data.split, len(real))
        self.names = [real.index.labels[n] if n >= 0 else None for n in real.labels.tolist()]
        self.cautions: list[str] = []
        self.source: Made | Windows
        if run:
            drawn = {name: getattr(asked, name) for name in ("guidance", "steps", "sampler")}
            self.source = Made(run, self.names, real.frames, asked.seed, drawn)
        else:
            index = self._shared(lambda: index_folder(origin, real.index.labels))
            self.source = choose_windows(index, real.frames, real.size, real.stride, len(real))
            other = sum((file.height, file.width) != (real.size, real.size) for file in index.files)
            if other:
                told = f"{other} of {len(index.files)} made clips are not of {real.size} x {real.size} px"
                self.cautions.append(f"{told}: they were resized and cropped")

    def windows(self, split: str, count: int | None, frames: int | None = None) -> Windows:
        """Of a split of the data set; one process looks for the files."""
        asked, run, config = self.asked, self.run, self.config
        data = config.data if config else DataConfig()
        if asked.data is not None:
            data = DataConfig(asked.data, fps=data.fps, decoder=data.decoder)
        elif config is None:
            raise ValueError("name the real clips with --data: a folder of made ones knows of none")
        runs = self.origin.parent if config else Path("runs")
        index = self._shared(lambda: index_of(replace(data, limit=0), runs, split))
        frames = frames or asked.frames or (run.frames if run else 16)
        size = asked.size or (run.size if run else 64)
        return choose_windows(index, frames, size, asked.stride or data.stride[0], count)

    @property
    def root(self) -> str:
        """Of the data set."""
        assert self.asked.data is not None or self.config is not None
        return self.asked.data if self.asked.data is not None else self.config.data.root  # type: ignore[union-attr]

    def measure_real(self) -> None:
        """Look at all that is not made."""
        count, network, known, run = len(self.real), self.network, self.known, self.run

        def read(which: range) -> dict[str, Tensor]:
            video = self.real.read(which)
            return self._seen(which, video) | damaged(network, video, self.asked.seed + which.start)

        self.truth = gathered(count, self.group, read, "real")
        self.train: dict[str, Tensor] | None = None
        self.coded: dict[str, Tensor] | None = None
        if known:
            self.train = gathered(count, self.group, lambda which: look(network, known.read(which)), "training")
        if run:
            self.coded = gathered(
                count, self.group, lambda which: look(network, run.reconstruct(self.real.read(which))), "codec"
            )

    def measure_made(self) -> tuple[dict[str, Tensor], Scores]:
        """What there is to see of made clips, and their scores; on the main process."""
        count, asked, source = len(self.real), self.asked, self.source
        made = gathered(count, self.group, lambda which: self._seen(which, source.read(which)), "made")
        future = gathered(count, self.group, self._predicted, "prediction") if asked.predict else {}
        if not self.group.main:
            return {}, Scores()
        scores = measure(self.network, self.truth, made, self.train, self.coded, asked.seed)
        scores.cautions += self.cautions
        if asked.predict:
            add_prediction(scores, future, asked.predict, asked.tries)
        return made, scores

    def protocol(self) -> dict[str, Any]:
        """For a card."""
        real, network = self.real, self.network
        return {
            "network": network.name,
            "network_sha256": network.sha256,
            "preprocessing": network.preprocessing,
            "data": name_of(self.root),
            "data_sha256": real.sha256,
            "split": self.split,
            "real_clips": len(real),
            "clips": len(real),
            "frames": real.frames,
            "stride": real.stride,
            "size": real.size,
            "seed": self.asked.seed,
        }

    def how(self, checkpoint: Path | None) -> dict[str, Any]:
        """How clips of a checkpoint are made, for a card."""
        if self.run is None or checkpoint is None or self.config is None or not isinstance(self.source, Made):
            return {**dict.fromkeys(MADE), "source": str(self.origin)}
        weights = self.run.weights
        return self.source.how(
            str(self.origin), **describe_weights(checkpoint, weights), ema=width_of(weights, self.config.train)
        )

    def looks(self, frames: int, given: int) -> dict[str, Looks]:
        """Of the first clips as they are continued to `frames`, and of real ones as long, where there are any."""
        count, source = min(BATCH, len(self.real)), self.source
        assert isinstance(source, Made)

        def made(which: range) -> dict[str, Tensor]:
            start = self.real.read(which)[:, :, :given]
            return dict(vars(watch(source.onward(which, start, frames), start, (), False, lambda _: None).looks))

        found = {"made": gathered(count, self.group, made, f"to {frames} frames")}
        try:
            real = self.windows(self.split, None, frames)
        except ValueError:  # no held-out file is so long
            pass
        else:
            short = min(BATCH, len(real))
            found["real"] = gathered(short, self.group, lambda which: dict(vars(drift_look(real.read(which)))), "real")
        return {name: Looks(**parts) for name, parts in found.items()} if self.group.main else {}

    def _shared(self, make: Callable[[], Index]) -> Index:
        found = self.group.share(make() if self.group.main else None)
        assert found is not None
        return found

    def _seen(self, which: range, video: Tensor) -> dict[str, Tensor]:
        found = look(self.network, video) | look_at_motion(video) | {"shown": video[: max(0, SHOWN - which.start)]}
        captions = [str(name).replace("_", " ") for name in self.names[which.start : which.stop]]
        return found | ({"CLIP score": self.judge(video, captions)} if self.judge else {})

    def _predicted(self, which: range) -> dict[str, Tensor]:
        source, asked = self.source, self.asked
        assert isinstance(source, Made) and asked.predict
        return predicted(partial(source.extend, which), self.real.read(which), asked.predict, asked.tries, self.similar)


def score(asked: Asked, origin: Path, run: Pipeline | None, group: Group) -> list[str]:
    """Score a run's clips, or those in a folder, and write card, scores and page.

    Of the checkpoints besides the newest a card is kept as soon as it is there, and not made again.

    Returns:
        the scores as lines, and last the page's path; nothing on other processes than the main one.

    Raises:
        ValueError: as `Scoring`; for anything that makes the scores meaningless.
    """
    if run is None and any((asked.predict, asked.extend, asked.checkpoints)):
        raise ValueError(
            f"{origin} is no trained run, so it cannot continue clips and has no checkpoints: leave out --predict, "
            "--extend and --checkpoints"
        )
    other = read_card(asked.against) if asked.against else None
    paths: list[Path | None] = [*choose_checkpoints(origin, asked.checkpoints, run.weights)] if run else [None]
    scoring = Scoring(asked, origin, run, group)
    given = 0
    if asked.extend and run:
        given = asked.predict or min(run.sampling.context, scoring.real.frames - 1)
        if asked.extend < given + 2 * STRETCH:
            raise ValueError(f"extend is {asked.extend}; give at least {given + 2 * STRETCH} frames, to see a drift")
    scoring.measure_real()
    out = asked.out or origin / f"scores-{scoring.network.name}"
    protocol, circumstances = scoring.protocol(), measured(str(group.device), group.world)
    cards: list[Card] = []
    for path in paths:
        how, file = scoring.how(path), out / "checkpoints" / f"{path.name if path else ''}.json"
        kept = _kept(file, protocol, how, circumstances) if group.main and path != paths[-1] else None
        if (kept := group.share(kept)) is not None:
            cards.append(kept)
            continue
        if run and path and len(paths) > 1:
            fill(run.denoiser, load_part(path, "denoiser", run.weights), path)
        made, scores = scoring.measure_made()
        card = Card(protocol, how, circumstances, scores.values, scores.left_out, tuple(scores.cautions))
        cards.append(card)
        if group.main and asked.checkpoints:
            write_card(file, card)
    looks = scoring.looks(asked.extend, given) if asked.extend else {}
    if not group.main:
        return []
    further = {}
    if len(cards) > 1:
        further["Over checkpoints"] = checkpoint_curves(cards) + checkpoint_table(cards)
    if asked.extend:
        further[f"Along an extension, after {given} given frames"] = drift_curves(looks, given)
        told = {f"drift to {asked.extend} frames, {part}": v for part, v in drift_scores(looks["made"], given).items()}
        card = replace(card, scores={**card.scores, **told})
        out.mkdir(parents=True, exist_ok=True)
        frames = {name: by_frame(each, given) for name, each in looks.items()}
        (out / "drift.json").write_text(json.dumps(finite({"given": given, **frames}), allow_nan=False) + "\n")
    comparison = compare(card, check_network(other, scoring.network.sha256)) if other else None
    near = None
    if scoring.known and scoring.train:
        near = (nearest(made["features"][:SHOWN], scoring.train["features"])[1], scoring.known.read)
    fps = run.fps if run else 16.0
    page = write_page(out, card, scoring.truth["shown"], made["shown"], near, fps, comparison, further)
    return [*lines(card, comparison), str(page)]


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
    found = [path for path in published(run / "checkpoints") if step_of(path) <= step_of(last)]
    if which == "all":
        return found
    if not which.isdecimal() or not 1 <= int(which) <= len(found):
        raise ValueError(f'checkpoints is {which!r}; {run} has {len(found)}: give "all", or 1 to {len(found)}')
    count = int(which)
    return [found[(i + 1) * len(found) // count - 1] for i in range(count)]


def width_of(weights: str, train: TrainOptions) -> str | None:
    """How wide an average the weights are: as `train.ema` has it, or by the width in the name of a file."""
    if weights in ("ema", "best"):
        return f"decay {train.ema:g}, warm-up {train.ema_warmup}"
    if weights == "model":
        return "none"
    path = Path(weights)
    stem = re.search(r"\d\.\d+$", path.stem)
    told = metadata_of(path).get("width") or (stem and stem[0])
    return f"relative width {told}" if told else None


def _kept(file: Path, protocol: dict[str, Any], how: dict[str, Any], circumstances: dict[str, Any]) -> Card | None:
    """The card in a file, where it is of the same doing by the same code."""
    if not file.is_file():
        return None
    card = read_card(file)
    wanted = json.loads(json.dumps([protocol, how, circumstances["git"], circumstances["versions"]]))
    told = [card.protocol, card.made, card.measured.get("git"), card.measured.get("versions")]
    return card if told == wanted and not card.doubts else None
