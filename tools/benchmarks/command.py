"""The command line of `tools/benchmark.py`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidiff.cli.command import exit_code
from vidiff.store.files import check_writable, write_whole

from . import ablation, attending, drawing, latents, load, page, quality, steps, stream
from .timing import ROUNDS, Machine, figures_of
from .untrained import untrained

DOOR = Path(__file__).parents[1] / "benchmark.py"
BROUGHT = (  # by `make bench`: the peers, what these need, films and pictures
    *("video_diffusion_pytorch", "imagen_pytorch", "diffusers"),
    *("einops_exts", "rotary_embedding_torch", "skvideo", "matplotlib"),
)
Options = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Measure:
    """Something that can be measured.

    Attributes:
        says: what it is, for help.
        run: measures, and returns figures as plain values.
        options: adds those of its own.
        rounds: of turns, by default; None where there are none.
        threads: by default.
        seeded: whether anything is drawn at random.
        shorter: arguments with which `all` has it, where it is long.
    """

    says: str
    run: Callable[[argparse.Namespace], dict[str, Any]]
    options: Options
    rounds: int | None = ROUNDS
    threads: int = 2
    seeded: bool = True
    shorter: tuple[str, ...] = ()


def train_options(command: argparse.ArgumentParser) -> None:
    steps.options(command)
    command.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peaks of memory")


MEASURES = {
    "train": Measure("a training step against the peers, and its memory", steps.train, train_options),
    "forward": Measure("a forward pass against the peers, and longer clips", steps.forward, steps.options),
    "attention": Measure("attention by every backend, and the peer's", attending.measure, attending.options),
    "sample": Measure("the network's share of a draw", drawing.sample, drawing.sample_options, rounds=3),
    "guidance": Measure("what guidance costs", drawing.guidance, untrained, shorter=("--steps", "4")),
    "extend": Measure(
        "memory and time of ten windows against one", drawing.extend, drawing.extend_options, rounds=None
    ),
    "ablation": Measure("a training step with one choice changed", ablation.measure, ablation.options),
    "load": Measure(
        "random clips out of video files, against plain PyAV and torchcodec",
        load.load,
        load.options,
        rounds=9,
        threads=1,
        seeded=False,
        shorter=("--rounds", "3", "--clips", "4"),
    ),
    "latents": Measure(
        "clips from a latent cache against decoding, and against memcpy",
        latents.latents,
        latents.options,
        rounds=200,
        threads=1,
        shorter=("--rounds", "50", "--megabytes", "256"),
    ),
    "stream": Measure(
        "a stream's new frame against a window's",
        stream.stream,
        stream.options,
        rounds=None,
        threads=1,
        shorter=("--frames", "16"),
    ),
    "play": Measure("a frame of a world, and its parts", stream.play, stream.play_options, rounds=None, threads=1),
    "quality": Measure(
        "minutes of training to the peer's final error",
        quality.measure,
        quality.options,
        rounds=None,
        shorter=("--minutes", "1", "--seeds", "1", "--slices", "10"),
    ),
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed, measured against well-known peers on the machine at hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, measure in MEASURES.items():
        command = commands.add_parser(name, help=measure.says)
        command.set_defaults(work=work)
        common(command, measure)
        measure.options(command)
    command = commands.add_parser("all", help="each of these, in a process of its own, shorter where it is long")
    command.set_defaults(work=everything)
    command.add_argument("--but", nargs="+", choices=MEASURES, default=[], metavar="NAME", help="leave these out")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--json", type=Path, default=page.FIGURES, help="file that gets the figures")
    command = commands.add_parser("page", help="fill docs/speed.md, and draw its pictures, from such a file")
    command.set_defaults(work=page.write)
    page.options(command)
    return parser.parse_args(arguments)


def common(command: argparse.ArgumentParser, measure: Measure) -> None:
    command.add_argument("--threads", type=int, default=measure.threads)
    if measure.rounds is not None:
        command.add_argument("--rounds", type=int, default=measure.rounds, help="turns of all sides that are timed")
    if measure.seeded:
        command.add_argument("--seed", type=int, default=0, help="of weights and input")
    command.add_argument("--json", type=Path, help="add the figures to this file as well, in place of older ones")


def work(args: argparse.Namespace) -> None:
    """Measures one thing, and keeps what it finds beside what is kept already."""
    if args.json:  # before hours are spent on what could not be kept
        check_writable(args.json)
        figures_of(args.json)
    machine = Machine()
    result = MEASURES[args.command].run(args)
    if args.json:
        known = figures_of(args.json)  # now: another process may have added to it meanwhile
        args.json.parent.mkdir(parents=True, exist_ok=True)
        given = {name: vars(args)[name] for name in ("threads", "rounds") if name in args}
        known[args.command] = {"machine": machine.facts(), **given, **result}
        write_whole(args.json, json.dumps(known, indent=1) + "\n")


def everything(args: argparse.Namespace) -> None:
    """Measures one after another; what is measured is kept, whatever comes after."""
    for name, measure in MEASURES.items():
        if name in args.but:
            continue
        threads = ("--threads", str(args.threads)) if measure.threads > 1 else ()  # the others are of one
        command = [sys.executable, str(DOOR), name, "--json", str(args.json), *threads, *measure.shorter]
        print(f"\n== {name}", flush=True)
        if subprocess.run(command).returncode:
            raise ValueError(f"{name} failed, which says above why; --but {name} leaves it out")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(work_of, parse(arguments), "what was measured before is kept")


def work_of(args: argparse.Namespace) -> None:
    """Does what was asked for. Raises ValueError where what that is measured with is missing."""
    try:
        args.work(args)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in BROUGHT:  # one of our own, or of a package that is there: no installing mends that
            raise
        raise ValueError(f"{package} is not installed; `make bench` installs what the comparison needs") from None
