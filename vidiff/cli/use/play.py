"""Play with a run that learned actions: a page in a browser on this machine, on which keys lead from frame to frame.

It begins with a real clip, held out from training; a frame follows for each action, drawn by the model. One can stop,
go back to any frame, go on otherwise from there, and save what was played as clips with actions, to train on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vidiff.cli.command import exit_code
from vidiff.cli.options import DRAWING, GUIDING, Help, Parser, Whole, add_device, add_weights, port, tilde

MOST_SEED = 2**31 - 1  # below that of vidiff.play.session
DRAWN = {name: look for name, look in (DRAWING | GUIDING).items() if name in ("steps", "context", "action_guidance")}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=Help, epilog="example: vidiff play runs/breakout --steps 4 --beside"
    )
    parser.add_argument(
        "run", nargs="?", type=os.path.expanduser, help="a run's folder; by default the latest in runs/"
    )
    parser.add_argument(
        "--data",
        type=os.path.expanduser,
        help="clips to begin with, or one; by default those held out of the run's own",
    )
    parser.add_argument(
        "--beside", action="store_true", help="play the real environment as well, by the same keys from the same moment"
    )
    parser.add_argument(
        "--seed", type=Whole(0, MOST_SEED), default=0, help="of the first world: same seed and keys, same frames"
    )
    for name, look in DRAWN.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **look)
    parser.add_argument(
        "--scale", type=Whole(0, 64), default=0, help="pixels for each of a frame; 0 for about 512 in all"
    )
    parser.add_argument("--out", type=tilde, default=Path("played"), help="folder in which clips are saved")
    parser.add_argument("--host", default="127.0.0.1", help="any but this machine's own wants a token of each visitor")
    parser.add_argument("--port", type=port, default=7861, help="0 for any that is free")
    parser.add_argument("--token", help="for visitors to know; by default one is made where it is needed")
    add_device(parser)
    add_weights(parser)
    return parser.parse_args(arguments)


def play(options: argparse.Namespace) -> None:
    from vidiff.engine.parallel import choose_device
    from vidiff.pipeline.hub import folder_of
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run, read_config, runs_of
    from vidiff.play.serve import Play, serve
    from vidiff.store.files import check_writable

    if options.token is not None and len(options.token) < 8:
        raise ValueError("--token has fewer than 8 characters, which are soon guessed: give more, or leave it out")
    choose_device(options.device)
    check_writable(options.out, folder=True)
    run = folder_of(options.run) if options.run is not None else latest_run()
    config = read_config(run)
    pipeline = Pipeline.from_pretrained(run, options.device, options.weights)
    drawn = {name: value for name in DRAWN if (value := getattr(options, name)) is not None}
    what = Play(
        str(options.run or run),
        options.data,
        runs_of(run, config),
        options.beside,
        options.seed,
        options.scale,
        options.out.resolve(),
        drawn,
    )
    serve(pipeline, config, what, options.host, options.port, options.token, lambda line: print(line, flush=True))


def main(arguments: list[str] | None = None) -> int:
    return exit_code(play, parse(arguments), "what was saved is there, and nothing else")
