"""Write the shapes set: coloured shapes bouncing around, as H.264 files in one folder a class."""

from __future__ import annotations

import argparse
import sys

from vidiff.cli.command import exit_code
from vidiff.data.shapes import ShapesSpec, make_shapes


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = ShapesSpec()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--out", default="data/shapes", help="folder to write to")
    parser.add_argument("--train", type=int, default=default.train, help="training clips a label")
    parser.add_argument("--test", type=int, default=default.test, help="held-out clips a label")
    parser.add_argument("--size", type=int, default=default.size, help="side of the frame in pixels")
    parser.add_argument("--frames", type=int, default=default.frames, help="frames a clip")
    parser.add_argument("--seed", type=int, default=default.seed, help="same seed, same set")
    parser.add_argument("--straight", action="store_const", const=1, default=0, help="objects reach no wall")
    parser.add_argument(
        "--held-out", type=int, default=0, help="pairs of label and direction that training leaves out, with --straight"
    )
    parser.add_argument(
        "--texture", type=int, default=0, metavar="FACTOR", help="fine random texture, gone when shrunk by FACTOR"
    )
    parser.add_argument("--force", action="store_true", help="replace a set that was made with other options")
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> None:
    settings = dict(vars(options))
    out, force = settings.pop("out"), settings.pop("force")
    written = make_shapes(out, ShapesSpec(**settings), force=force)
    print(f"{out}: {f'wrote {written} clips' if written else 'up to date'}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(make, parse(arguments), "the set is not whole, and the same command draws it anew")


if __name__ == "__main__":
    sys.exit(main())
