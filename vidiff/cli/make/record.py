"""Record games and simulators: clips to train on, with what was done and what was so at each frame beside them.

An environment is named as Gymnasium names it; Atari games by plain names as well. The same command goes on where it
stopped.
"""

from __future__ import annotations

import argparse

from vidiff.cli.command import exit_code
from vidiff.cli.options import MOST_PROCESSES, MOST_SIDE, Parser, Whole, seed, tilde

MOST_CLIPS = 1_000_000


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff record breakout pong --out data/games --size 128")
    parser.add_argument(
        "environments",
        nargs="+",
        metavar="ENV",
        help="such as breakout, VizdoomBasic-v1 or CartPole-v1; of several each is a label",
    )
    parser.add_argument(
        "--out", type=tilde, required=True, help="folder to write to; clips go to train/ and test/ in it"
    )
    parser.add_argument(
        "--episodes", type=Whole(0, MOST_CLIPS), default=200, help="clips of each to train on; default %(default)s"
    )
    parser.add_argument(
        "--held-out", type=Whole(0, MOST_CLIPS), default=20, help="clips of each to test on; default %(default)s"
    )
    parser.add_argument("--frames", type=Whole(), default=64, help="of each clip; default %(default)s")
    parser.add_argument(
        "--hold",
        type=Whole(),
        default=4,
        help="frames of the environment that a frame and an action last; default %(default)s",
    )
    parser.add_argument(
        "--size",
        type=Whole(8, MOST_SIDE),
        help="side in pixels that frames are squeezed to, best twice a model's, since H.264 halves colours; by "
        "default as they are drawn",
    )
    parser.add_argument(
        "--policy",
        default="sticky",
        help="random, sticky (mostly what was done before), or a file of actions, .npy or .csv; default %(default)s",
    )
    parser.add_argument(
        "--start",
        type=Whole(0),
        default=50,
        help="the most frames that are played before a clip begins; default %(default)s",
    )
    parser.add_argument("--seed", type=seed, default=0, help="same seed, same clips")
    parser.add_argument(
        "--processes", type=Whole(0, MOST_PROCESSES), default=0, help="that play at once; by default one for each core"
    )
    return parser.parse_args(arguments)


def write(options: argparse.Namespace) -> None:
    from vidiff.record.record import Recording, record

    size = None if options.size is None else (options.size, options.size)
    recordings = [
        Recording(name, options.frames, options.hold, size, options.policy, options.start, options.seed)
        for name in options.environments
    ]
    written = record(options.out, recordings, options.episodes, options.held_out, options.processes)
    print(f"{options.out}: {f'recorded {written} clips' if written else 'up to date'}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(write, parse(arguments), "the same command goes on from what is finished")
