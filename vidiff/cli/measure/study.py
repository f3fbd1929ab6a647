"""Which of two models do people prefer? Serves blind pairs of their clips on a local page, and counts the votes.

vidiff study --a runs/x --b runs/y                    clips of both for the same labels, then the page
vidiff study --a runs/x --b others/clips --real data  a folder of clips, one a file, is a model as well
vidiff study --out studies/x-y --results              what the votes so far say
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, add_device, port, rate, seed, side, tilde

if TYPE_CHECKING:
    from vidiff.data.root import Root
    from vidiff.training.windows import Windows

OF_MAKING = ("real", "split", "pairs", "checks", "frames", "size", "fps", "text", "seed", "device")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: vidiff study --a runs/x --b runs/y --pairs 20",
    )
    parser.add_argument("--a", type=tilde, help="a trained run's folder, or a folder of clips, one a file")
    parser.add_argument("--b", type=tilde, help="the other")
    parser.add_argument("--real", type=tilde, help="real clips, for checks of attention (default: the data of a run)")
    parser.add_argument("--split", default="test", help="of the real clips (default: test)")
    parser.add_argument("--pairs", type=Whole(), default=40, help="that each rater sees (default: 40)")
    parser.add_argument(
        "--checks", type=Whole(0), default=6, help="real clips beside spoilt ones, besides (default: 6)"
    )
    parser.add_argument("--frames", type=Whole(), help="of a clip; by default a window of the runs, or 16")
    parser.add_argument("--size", type=side, help="of the frames in pixels; by default the run's, or 64")
    parser.add_argument("--fps", type=rate, help="at which clips are shown; by default the run's, or 8")
    parser.add_argument("--text", action="store_true", help="ask for the real clips' captions, not their labels")
    parser.add_argument("--seed", type=seed, default=0, help="of the clips, their order and their sides (default: 0)")
    parser.add_argument("--out", type=tilde, help="the study's folder (default: studies/A-B)")
    parser.add_argument("--host", default="127.0.0.1", help="any but the default wants a token of each visitor")
    parser.add_argument("--port", type=port, default=8765, help="0 for any that is free (default: 8765)")
    parser.add_argument("--token", help="for raters to know; by default one is made where it is needed")
    parser.add_argument("--results", action="store_true", help="serve nothing; write and print what the votes say")
    add_device(parser)
    options = parser.parse_args(arguments)
    if options.a is None and options.b is None and options.out is not None:
        unread = [name for name in OF_MAKING if getattr(options, name) != parser.get_default(name)]
        if unread:
            parser.error(f"--{unread[0]} is of a study that is made: give it with --a and --b; --out alone opens one")
    return options


def study(options: argparse.Namespace) -> None:
    from vidiff.store.error import absent
    from vidiff.store.files import check_writable

    try:
        from vidiff.study.plan import make_study, open_study
        from vidiff.study.results import result_lines
        from vidiff.study.serve import serve, write_results
    except ImportError as error:
        raise absent(error, "study") from None
    if (options.a is None) != (options.b is None) or options.a is options.out is None:
        raise ValueError("give --a and --b, the two models, or --out alone, a study made before")
    if options.a is None:
        asked = open_study(options.out)
    else:
        folder = options.out or Path("studies") / f"{options.a.resolve().name}-{options.b.resolve().name}"
        check_writable(folder, folder=True)
        asked = make_study(folder, **parts(options))
    if options.results:
        results = write_results(asked)
    else:
        results = serve(asked, options.host, options.port, options.token, lambda line: print(line, flush=True))
    print("\n".join(["", *result_lines(results), str(asked.folder / "results.html")]))


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """The study that the options describe, as `make_study` takes it."""
    from vidiff.data.index import index_of, other_data
    from vidiff.data.options import DataConfig
    from vidiff.data.root import copies_of, root_of
    from vidiff.evaluate.clips import DrawnClips, index_folder
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import read_config, runs_of
    from vidiff.training.windows import Windows, choose_windows, evenly

    runs = {
        name: Pipeline.from_pretrained(path, options.device) if (path / "resolved.yaml").is_file() else None
        for name, path in (("a", options.a), ("b", options.b))
    }
    trained = [run for run in runs.values() if run is not None]
    one = trained[0] if trained else None
    frames = options.frames or (min(run.frames for run in trained) if trained else 16)
    size = options.size or (one.size if one else 64)
    if options.real is None and one is None:
        raise ValueError("neither model is a trained run, which would name its data: give --real, for the checks")
    if one is None:
        data, folder = DataConfig(str(options.real)), Path("runs")
    else:
        path = options.a if runs["a"] else options.b
        config = read_config(path)
        data, folder = replace(config.data, limit=0), runs_of(path, config)
        data = data if options.real is None else other_data(data, options.real)
    index = index_of(data, folder, options.split)
    stride = data.stride[0]
    real = choose_windows(index, frames, size, stride, options.pairs, "--frames")
    places = [real.starts[i] for i in evenly(options.checks, len(real))]
    checks = Windows(index, places, frames, stride, size)
    root = root_of(data.root, copies_of(folder, data.remote_cache_gb)) if options.text else None
    check_labels, labels = (labels_of(windows, root, data.captions) for windows in (checks, real))
    sources: dict[str, Any] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, path in (("a", options.a), ("b", options.b)):
        run = runs[name]
        if run is None:
            clips = choose_windows(index_folder(path, index.labels), frames, size, 1, options.pairs, "--frames")
            sources[name], facts[name] = clips, {"source": str(path), "sha256": clips.sha256}
            continue
        if run.size != size:
            raise ValueError(f"{path} makes clips of {run.size} px, but the study is of {size} px: compare like sizes")
        names, texts = ([None] * len(labels), labels) if options.text else (labels, None)
        maker = DrawnClips(run, names, frames, options.seed, texts=texts)
        sources[name], facts[name] = maker, maker.how(str(path))
        for caution in maker.cautions:
            print(f"note: {path}: {caution}", file=sys.stderr)
    return {
        **sources,
        "real": checks,
        "labels": labels,
        "check_labels": check_labels,
        "seed": options.seed,
        "facts": facts,
        "fps": options.fps or (one.fps if one else 8.0),
    }


def labels_of(windows: Windows, root: Root | None, captions: str) -> list[str | None]:
    """What each real clip shows: its caption in `root`, or its label; None for none.

    Args:
        captions: as `data.captions`.
    """
    from vidiff.evaluate.clips import captions_of, classes_of

    return classes_of(windows) if root is None else [*captions_of(windows, root, captions)]


def main(arguments: list[str] | None = None) -> int:
    return exit_code(study, parse(arguments), "the same command goes on with the clips that are made")
