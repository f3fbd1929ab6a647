"""Draw clips, train a model on them, generate with it, extend a clip, and score it: a first look, in one command.

What is finished is not done again. Each step is a command, which is told, and may be given alone with other options.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from types import ModuleType

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, add_device

SMALL = [  # a few steps of narrow networks on 24 clips: all of it works, and what is made shows nothing
    *("name=shapes_small", "data.root=data/shapes_small", "data.shapes={train: 1, test: 1, frames: 40}"),
    *("batch=4", "unet.width=16", "unet.head_dim=16", "unet.blocks=[1,1]", "sampling.steps=2", "train.steps=10"),
    *("train.log_every=5", "train.validate_every=10", "train.sample_every=0", "train.checkpoint_every=10"),
    *("codec.least=0", "codec.override.name=shapes_small_vae", "codec.override.batch=4", "codec.override.vae.width=8"),
    *("codec.override.data.workers=0", "codec.override.train.steps=20", "codec.override.train.sample_every=0"),
    *("codec.override.train.validate_every=20", "codec.override.train.checkpoint_every=20"),
]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff demo --small")
    parser.add_argument("--small", action="store_true", help="in seconds, to see that all works; else half an hour")
    add_device(parser)
    return parser.parse_args(arguments)


def demo(options: argparse.Namespace) -> None:
    from vidiff.cli.make import train
    from vidiff.cli.measure import evaluate
    from vidiff.cli.use import extend, generate
    from vidiff.engine.parallel import choose_device

    choose_device(options.device)
    on = [] if options.device == "auto" else ["--device", options.device]
    began, name = time.monotonic(), "shapes_small" if options.small else "shapes"
    run = Path("runs") / name
    made, extended = run / "demo" / "generated.mp4", run / "demo" / "extended.mp4"
    clip = f"data/{name}/test/red_disc/0000.mp4"

    step(train, "shapes", *([f"device={options.device}"] if on else []), *(SMALL if options.small else []))
    step(generate, "--run", str(run), "--count", "12", "--out", str(made), *on)
    known = ["--run", str(run), "--label", "red_disc", "--given", "8", "--frames", "40", "--out", str(extended)]
    step(extend, clip, *known, *on)
    if not options.small:
        scored = ["--run", str(run), "--oracle", "shapes", "--json", str(run / "scores.json")]
        step(evaluate, *scored, *on)
    print(f"\ngenerated clips, a label each    {made}")
    print(f"a real clip, extended            {extended}")
    print(f"report, to open in a browser     {run / 'report.html'}")
    if not options.small:
        print(f"scores                           {run / 'scores.json'}")
    print(f"took {(time.monotonic() - began) // 60:.0f} min {(time.monotonic() - began) % 60:.0f} s")


def step(command: ModuleType, *words: str) -> None:
    """Does a command's work, and says which."""
    name = command.__name__.rpartition(".")[2]
    print(f"$ vidiff {name} {shlex.join(words)}", flush=True)
    getattr(command, name)(command.parse([*words]))


def main(arguments: list[str] | None = None) -> int:
    return exit_code(demo, parse(arguments), "the same command goes on from what is finished")
