"""Make the weights' average of any width after the training, from the snapshots that train.ema_widths left.

A width is relative: 0.1 spans about the last tenths of the training. Use what it writes with --weights:

vidiff generate --run runs/shapes --weights runs/shapes/ema/width-0.080.safetensors
"""

from __future__ import annotations

import argparse
from functools import partial

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, number, tilde


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: vidiff ema runs/shapes --width 0.08",
    )
    parser.add_argument("run", type=tilde, help="a run's folder")
    parser.add_argument("--width", type=number, required=True, help="relative, 0.01 to 0.28")
    parser.add_argument("--step", type=Whole(0), help="of a snapshot; by default the last")
    parser.add_argument("--out", type=tilde, help="by default RUN/ema/width-WIDTH.safetensors")
    return parser.parse_args(arguments)


def average(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vidiff.engine.ema import find_snapshots, synthesise
    from vidiff.engine.publish import write_tensors
    from vidiff.store.files import check_writable, draft_of

    if not options.run.is_dir():
        raise ValueError(f"{options.run} is not a trained run's folder; give one, such as runs/shapes")
    out = options.out or options.run / "ema" / f"width-{options.width:.3f}.safetensors"
    if out.suffix != ".safetensors":
        raise ValueError(f"out is {out}; give a name that ends in .safetensors")
    check_writable(out)
    show = partial(tqdm, desc="snapshots", unit="snapshot", disable=None)
    tensors, step = synthesise(find_snapshots(options.run / "ema"), options.width, options.step, show)
    with draft_of(out) as draft:
        write_tensors(tensors, draft, {"width": str(options.width), "step": str(step)})
    print(f"{out}: the average of width {options.width} at step {step}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(average, parse(arguments))
