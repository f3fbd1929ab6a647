"""Score a trained run, or a folder of clips, with a page and a card that says how.

vidiff evaluate --run runs/ucf --network networks/motion     by a feature network, against held-out clips
vidiff evaluate --made clips --data data/ucf --network networks/motion
vidiff evaluate --run runs/shapes                            by the oracle of the shapes set, as it was trained
vidiff evaluate --run runs/breakout --follow                 how truly a world obeys, against its environment
vidiff evaluate --run runs/shapes --few 18 9 5 --students runs/shapes_guided     what few steps cost: a table
vidiff evaluate --run runs/texture_sr128 --upscale runs/texture_sr256 --few 1 4 16 --network efficientnet     the same
                                                             of runs that enlarge clips, beside bicubic

The oracle reads colour, shape and place of objects. With a network, the same numbers come from one process and from
several, given as many threads each (torchrun --nproc-per-node 2 --no-python -- vidiff evaluate ...; without its "--"
torchrun takes --run for its own).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidiff.cli.command import exit_code
from vidiff.cli.options import (
    Help,
    Parser,
    Whole,
    add_device,
    add_latest,
    add_weights,
    number,
    seed,
    side,
    steps,
    tilde,
)


class Plain(Help, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if TYPE_CHECKING:
    from vidiff.pipeline.pipeline import Pipeline


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=Plain,
        epilog="example: vidiff evaluate --run runs/ucf --network networks/motion --clips 256",
    )
    add_latest(parser)
    parser.add_argument("--data", help="the data set, or a URL of it; by default the one that the run was trained on")
    add_device(parser)
    add_weights(parser)
    oracle = parser.add_argument_group("by the oracle")
    oracle.add_argument("--oracle", choices=["shapes"], help="what reads the clips; by default shapes")
    which = oracle.add_mutually_exclusive_group()
    which.add_argument("--editing", action="store_true", help="score inpainting, interpolation and loops instead")
    which.add_argument("--classifier", type=tilde, help="a classifier's run: score how it guides the run to labels")
    which.add_argument("--follow", action="store_true", help="score how a model that is told actions follows them")
    which.add_argument(
        "--few", type=steps, nargs="+", metavar="N", help="score these numbers of steps beside each other"
    )
    two = "of --follow and --few:"
    oracle.add_argument("--starts", type=Whole(), default=48, help=f"{two} held-out clips; default %(default)s")
    oracle.add_argument("--given", type=Whole(), default=8, help=f"{two} frames given; default %(default)s")
    oracle.add_argument("--new", type=Whole(), default=8, help=f"{two} frames made, or enlarged; default %(default)s")
    oracle.add_argument(
        "--students", type=tilde, nargs="+", metavar="RUN", help="of --few: runs, each by its own steps"
    )
    oracle.add_argument(
        "--upscale",
        type=tilde,
        action="append",
        metavar="RUN",
        help="of --few: a run that goes on from what --run has enlarged; repeat to enlarge it further",
    )
    oracle.add_argument("--grid", metavar="KIND", help="of --few: how the run's times are spaced")
    oracle.add_argument("--json", type=tilde, help="file for the scores; of following a page goes beside it")
    network = parser.add_argument_group("by a feature network; None is the run's own, or as many as there are")
    network.add_argument(
        "--network", type=tilde, help="efficientnet, or a folder with network.json and the weights of another"
    )
    network.add_argument("--made", type=tilde, help="a folder of clips, one a file, in place of a run")
    network.add_argument("--split", help="of the data set; by default the held-out one")
    network.add_argument("--clips", type=Whole(), help="real clips, and made ones")
    network.add_argument("--frames", type=Whole(), help="of a clip; 16 for a folder of clips")
    network.add_argument("--stride", type=Whole(), help="source frames per clip frame")
    network.add_argument("--size", type=side, help="of the frames, in pixels; 64 for a folder of clips")
    network.add_argument("--seed", type=seed, default=0, help="of the made clips, also by --few, and of resampling")
    network.add_argument("--guidance", type=number, help="its scale, also by --few")
    network.add_argument("--steps", type=steps, help="of the sampler")
    network.add_argument("--sampler", help="that draws, also by --few for the run")
    network.add_argument(
        "--predict", type=Whole(), metavar="GIVEN", help="also continue real clips from so many frames"
    )
    network.add_argument("--tries", type=Whole(), default=1, help="of each prediction; the best counts")
    network.add_argument("--extend", type=Whole(), metavar="FRAMES", help="also show how clips continued so far drift")
    network.add_argument("--checkpoints", metavar="N|all", help="also score earlier ones, evenly chosen: N in all")
    network.add_argument(
        "--lpips", type=tilde, help="a network of two pictures, for predictions: efficientnet, or a folder"
    )
    network.add_argument(
        "--clip", type=tilde, help="a CLIP model's folder, to score clips against their captions or labels"
    )
    network.add_argument("--against", type=tilde, help="another card.json, to compare with")
    network.add_argument("--out", type=tilde, help="folder for card, scores and page; by default scores-NETWORK in RUN")
    options = parser.parse_args(arguments)
    from vidiff.evaluate.network import Drawing, Prediction, RealClips, Request

    def given(names: Sequence[str]) -> list[str]:
        return [name for name in names if getattr(options, name) != parser.get_default(name)]

    shared = ("sampler", "guidance", "seed")
    own = [option.name for record in (RealClips, Drawing, Prediction, Request) for option in fields(record)]
    names = ("made", *(name for name in own if name in vars(options) and name not in ("network", "data")))
    unread = ("editing", "classifier", "follow", "json") if options.network and not options.few else names
    odd = [name for name in given(unread) if not (options.few and name in shared)]
    for name in () if options.follow or options.few else given(("starts", "given", "new")):
        parser.error(f"--{name} needs --follow or --few")
    for name in () if options.few else given(("students", "grid", "upscale")):
        parser.error(f"--{name} needs --few")
    if odd:
        reason = "goes with the oracle, not with --network" if options.network else "needs a --network"
        reason = "does not go with --few" if options.few else reason
        parser.error(f"--{odd[0]} {reason}")
    if options.run and options.made:
        parser.error("--made stands in place of --run: give one of them")
    for name in ("network", "few", "follow"):
        if options.oracle and getattr(options, name):
            parser.error(f"--oracle is not read with --{name}: leave one of them out")
    for name in given(("guidance", "steps", "sampler", "weights")) if options.made else ():
        parser.error(f"--{name} is of a run that draws clips, and those of --made are there: leave it out")
    for name in () if options.predict else given(("tries", "lpips")):
        parser.error(f"--{name} needs --predict")
    return options


def by_network(options: argparse.Namespace) -> None:
    from vidiff.engine.parallel import processes
    from vidiff.evaluate.network import Drawing, Prediction, RealClips, Request, score_by_network
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run
    from vidiff.store.files import check_writable

    def part(record: type, **parts: object) -> Any:
        """A record of the options that are named as its fields."""
        given = {field.name: vars(options).get(field.name) for field in fields(record) if field.name not in parts}
        return record(**given, **parts)

    request = part(Request, real=part(RealClips), drawing=part(Drawing), prediction=part(Prediction))
    with processes(options.device) as group:
        origin = options.made or options.run or latest_run()
        check_writable(options.out or origin, folder=True)
        run = None if options.made else Pipeline.from_pretrained(origin, group.device, options.weights)
        if run is not None and run.facts.enlarges:
            raise ValueError(
                f"{origin} enlarges clips and makes none by itself, so --network alone has none to score: leave it "
                "out, or give numbers of steps as well, such as --few 1 4"
            )
        for line in score_by_network(request, origin, run, group):
            print(line)


def by_oracle(options: argparse.Namespace) -> None:
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run, read_config
    from vidiff.report.run import write_report
    from vidiff.store.files import check_writable, write_whole

    run = options.run or latest_run()
    if (options.editing or options.classifier) and read_config(run).lowres.factor:
        name = "--editing" if options.editing else "--classifier"
        raise ValueError(f"{name} is of runs that make clips, and {run} enlarges them: leave {name} out")
    if options.weights != "ema" and options.json is None:
        raise ValueError(f"weights is {options.weights}: name a file with --json, since scores.json is of the ema's")
    pipeline = Pipeline.from_pretrained(run, options.device, options.weights, options.classifier)
    for file in (run / "scores.json", *([options.json] if options.json else [])):
        check_writable(file)
    scores, own = score(run, pipeline, options)
    for path in {own, options.json or own} if options.weights == "ema" else {options.json}:  # the report shows own
        write_whole(path, json.dumps(scores, indent=2) + "\n")
    write_report(own.parent)
    tell(scores)


def by_environment(options: argparse.Namespace) -> None:
    from vidiff.evaluate.comparison import finite
    from vidiff.evaluate.follow.page import write_page
    from vidiff.evaluate.follow.score import FollowProtocol, score_following
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run
    from vidiff.store.files import check_writable, write_whole

    run = options.run or latest_run()
    if options.weights != "ema" and options.json is None:
        raise ValueError(f"weights is {options.weights}: name a file with --json, since follow.json is of the ema's")
    protocol = FollowProtocol(options.starts, options.given, options.new)
    file = options.json or run / "follow.json"
    check_writable(file)
    pipeline = Pipeline.from_pretrained(run, options.device, options.weights)
    found = score_following(run, pipeline, options.data, protocol)
    scores = finite({"sampling": pipeline.settings(), "run": str(run), **found.scores})
    write_whole(file, json.dumps(scores, indent=2, allow_nan=False) + "\n")
    tell(found.scores)
    print(*write_page(file, found), sep="\n")


def by_steps(options: argparse.Namespace) -> None:
    from vidiff.evaluate.comparison import markdown
    from vidiff.evaluate.few import COLUMNS, FewProtocol, Way, compare_few
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run
    from vidiff.store.files import check_writable

    run = options.run or latest_run()
    file = options.json or run / "few_steps.json"
    check_writable(file)
    asked = {name: getattr(options, name) for name in ("sampler", "grid", "guidance")}
    asked = {name: value for name, value in asked.items() if value is not None}
    pipeline = Pipeline.from_pretrained(run, options.device, options.weights)
    if pipeline.facts.enlarges:
        by_steps_enlarged(options, run, pipeline, file, asked)
        return
    if options.upscale or options.network:
        name = "--upscale" if options.upscale else "--network"
        raise ValueError(f"{name} with --few is for a run that enlarges clips, and {run} makes them: leave it out")
    protocol = FewProtocol(options.starts, options.given, options.new, seed=options.seed)
    ways = [Way(run, pipeline, {**asked, "steps": steps}) for steps in options.few]
    for student in options.students or ():
        own = Pipeline.from_pretrained(student, options.device, options.weights)
        ways.append(Way(student, own, {} if options.guidance is None else {"guidance": options.guidance}))
    print(markdown(list(compare_few(ways, options.data, protocol, file)), COLUMNS, "run"), end="")
    print(file, *sorted(file.parent.glob(f"{file.stem}-*.png")), sep="\n")


def by_steps_enlarged(
    options: argparse.Namespace, run: Path, pipeline: Pipeline, file: Path, asked: dict[str, Any]
) -> None:
    from vidiff.evaluate.comparison import markdown
    from vidiff.evaluate.few import FewProtocol
    from vidiff.evaluate.upscaling import COLUMNS, UpscalingProtocol, compare_steps, kept
    from vidiff.metrics.features import Features
    from vidiff.pipeline.cascade import Cascade
    from vidiff.pipeline.pipeline import Pipeline

    if options.students:
        raise ValueError("--students are of runs that make clips: name a further run that enlarges with --upscale")
    if options.given != FewProtocol().given:
        raise ValueError("--given is of runs that go on from given frames, and this one enlarges: leave it out")
    further = options.upscale or []
    stages = [pipeline, *(Pipeline.from_pretrained(path, options.device, options.weights) for path in further)]
    cascade = Cascade(stages, [str(path) for path in (run, *further)])
    network = Features.load(options.network, pipeline.device) if options.network else None
    protocol = UpscalingProtocol(options.starts, options.new, seed=options.seed)
    picture = file.with_suffix(".png")
    of = (further[-1] if further else run), options.few, options.data, protocol, network, picture
    print(markdown(list(kept(compare_steps(cascade, *of, **asked), file)), COLUMNS, "enlarged"), end="")
    print(file, picture, sep="\n")


def tell(scores: dict[str, Any]) -> None:
    """Prints scores, a part at a time, but for lists of them and for how they were measured."""
    for part, values in scores.items():
        if part == "run" or part.startswith(("protocol", "sampling")) or not values:
            continue
        print(part)
        for key, value in values.items():
            if not isinstance(value, list):
                print(f"  {key:24}{value:.3f}" if isinstance(value, float) else f"  {key:24}{value}")


def score(run: Path, pipeline: Pipeline, options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The scores that are asked for without a network, and where they belong."""
    from vidiff.evaluate.editing import score_edits
    from vidiff.evaluate.shapes import ShapesProtocol, Subject, score_classifier, score_run
    from vidiff.evaluate.upscaling import UpscalingProtocol, score_upscaler
    from vidiff.pipeline.run import read_config

    data: str | None = options.data
    own = run / "scores.json"
    if pipeline.facts.enlarges:
        scores = score_upscaler(run, pipeline, data, UpscalingProtocol())
    else:
        subject = Subject(run, pipeline, Path(data or read_config(run).data.root))
        if options.editing:
            scores, own = score_edits(subject), run / "editing.json"
        elif options.classifier is not None:
            scores, own = score_classifier(subject, ShapesProtocol()), options.classifier / "scores.json"
        else:
            scores = score_run(subject)
    return {"sampling": pipeline.settings(), "run": str(run), **scores}, own


def evaluate(options: argparse.Namespace) -> None:
    by = by_steps if options.few else by_network if options.network else by_environment if options.follow else by_oracle
    by(options)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    kept = ", but each earlier checkpoint that is done has its card" if options.checkpoints else ""
    kept = ", but each row that was done is kept" if options.few else kept
    return exit_code(evaluate, options, f"no scores were written{kept}")
