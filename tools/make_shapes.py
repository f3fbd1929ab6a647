"""Write the shapes set: coloured shapes bouncing around, as H.264 files in one folder a class."""

from __future__ import annotations

import argparse
import sys

from vidiff.data.shapes import ShapesSpec, make_shapes


def main(arguments: list[str] | None = None) -> int:
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
    parser.add_argument("--force", action="store_true", help="replace a set that was made with other options")
    options = vars(parser.parse_args(arguments))
    out, force = options.pop("out"), options.pop("force")
    try:
        written = make_shapes(out, ShapesSpec(**options), force=force)
    except (ValueError, OSError) as error:
        print(f"make_shapes: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {f'wrote {written} clips' if written else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
