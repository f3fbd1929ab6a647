"""Write a recipe for a folder of clips and for this machine, with what was chosen, why, and what to expect.

Each clip is looked into once. The recipe is a file that may be changed like any other.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from vidiff.cli.command import exit_code
from vidiff.cli.make.plan import GPU_NAMES
from vidiff.cli.options import Amount, Parser, side


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff new mine --data data/mine")
    parser.add_argument("name", help="of the run; NAME.yaml and NAME_vae.yaml are written here")
    parser.add_argument("--data", required=True, help="a folder of clips, a list (.csv, .jsonl), tars, or a URL")
    parser.add_argument(
        "--hours", type=Amount(100_000), help="that training may take, about; by default 1, or 8 on a GPU"
    )
    parser.add_argument("--size", type=side, help="of the frames in pixels, in place of that which suits")
    parser.add_argument(
        "--trial",
        type=Amount(100_000),
        metavar="SECONDS",
        help="train each of a few autoencoders here for so long, such as 60, and take the one that keeps what moves; "
        "by default a table has one for each size",
    )
    parser.add_argument("--gpu", choices=[*GPU_NAMES, "cpu"], help="train on such a one; by default on what is here")
    parser.add_argument("--force", action="store_true", help="write over recipes of this name")
    return parser.parse_args(arguments)


def new(options: argparse.Namespace) -> None:
    from vidiff.plan.draft import draft
    from vidiff.plan.footage import look_at
    from vidiff.plan.shape import choose_shape, machine_of, network_for, this_machine
    from vidiff.recipe.kinds import RunConfig
    from vidiff.report.log import duration
    from vidiff.store.files import check_writable, write_whole

    name = options.name.removesuffix(".yaml")
    if "/" in name:
        raise ValueError(f"name is {name}; give one without a folder: recipes are written where the command is run")
    RunConfig(name=name).check_name()
    if options.size:
        network_for(options.size)
    files = [Path(f"{name}.yaml"), Path(f"{name}_vae.yaml")]
    for file in files:
        check_writable(file)
        if file.exists() and not options.force:
            raise ValueError(f"{file} is there already: give another name, or --force to write over it")
    footage = look_at(options.data)
    print("\n".join(footage.lines()))
    machine = machine_of(options.gpu) if options.gpu else this_machine()
    codec, size = None, options.size or choose_shape(footage, machine).size
    if options.trial:
        from vidiff.training.trial import try_codecs

        codec = try_codecs(name, footage, machine, size, options.trial)
    print("one step of each training is followed, to know its memory and time ...", flush=True)
    made = draft(name, footage, machine, options.hours, size, codec)
    write_whole(files[0], made.model)
    if made.codec is not None:
        write_whole(files[1], made.codec)
    shape, total = made.shape, sum(plan.seconds * plan.steps for plan in made.plans)
    written = " and ".join(map(str, files[: len(made.plans)]))
    print(f"{written}: {shape.frames} frames of {shape.size} px, {shape.rate:.4g} a second, on {machine}")
    print(f"training takes about {duration(total)}; the recipe says what else to expect")
    print(f"next: vidiff train {shlex.quote(name)}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(new, parse(arguments))
