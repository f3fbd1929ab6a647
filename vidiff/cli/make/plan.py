"""What a training would take, before it is launched: parameters, memory by part, FLOPs, time and cost.

Nothing is computed or allocated: the step is followed by shape alone. Where the config does not fit as it is,
settings with which it does are proposed, as changes to the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, add_config, number, tilde

GPU_NAMES = ("h200", "h100", "a100", "l40s", "4090")  # the keys of vidiff.plan.plan.GPUS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff plan ucf --gpus 8 --gpu h100 --price 2.50")
    add_config(parser, "a YAML file, or the name of a recipe that comes with vidiff", "such as data.size=128")
    parser.add_argument("--gpus", type=Whole(), default=1, metavar="N", help="how many train; default 1")
    parser.add_argument("--gpu", choices=[*GPU_NAMES, "cpu"], default="a100", help="cpu is this machine, timed now")
    parser.add_argument("--local", type=Whole(), default=8, metavar="N", help="GPUs in one machine; default 8")
    parser.add_argument("--memory", type=number, metavar="GB", help="of each, in place of that which such a one has")
    parser.add_argument(
        "--mfu",
        type=number,
        metavar="PART",
        help="of its peak rate that whole steps reach, such as 0.3; by default reckoned from what they do",
    )
    parser.add_argument("--price", type=number, metavar="MONEY", help="of an hour of one, for the cost")
    parser.add_argument("--json", type=tilde, metavar="FILE", help="write the numbers there as well")
    options = parser.parse_intermixed_args(arguments)
    for name in ("memory", "mfu", "price"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} is {value}; give a number above 0")
    if options.mfu is not None and options.mfu > 1:
        parser.error(f"--mfu is {options.mfu}; give a part of 1, such as 0.3")
    return options


def plan(options: argparse.Namespace) -> None:
    from vidiff.plan.estimate import GB
    from vidiff.plan.plan import GPUS, Planner, this_cpu
    from vidiff.recipe.load import find_config, load
    from vidiff.store.files import check_writable, write_whole

    if options.json:
        check_writable(options.json)
    device = this_cpu() if options.gpu == "cpu" else GPUS[options.gpu]
    device = replace(
        device,
        memory=device.memory if options.memory is None else int(options.memory * GB),
    )
    if options.mfu:  # of whole steps, with all that they move
        device = replace(device, used=dict.fromkeys(device.rate, options.mfu), bandwidth=None)
    source = find_config(options.config)
    config = load(source, options.overrides)
    planner = Planner(config, source.parent, device, options.gpus, options.local, options.price)
    for unknown in planner.sketch.unknown:
        print(f"note: {unknown}", file=sys.stderr)
    given = planner.given()
    chosen = given if given is not None and given.fits else None
    if given is None:
        print(f"batch={config.batch} does not divide among {options.gpus}; the nearest that does:\n")
    elif chosen is None:
        print("\n".join([*given.lines(), "\nwhat fits:\n"]))
    chosen = chosen or planner.proposal()
    print("\n".join(chosen.lines()))
    if chosen.changes:
        print(f"\nadd to the command: {shlex.join(chosen.changes)}")
    if options.json:
        facts = {"given": given and given.facts(), "proposal": chosen.facts() if chosen.changes else None}
        write_whole(options.json, json.dumps(facts, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(plan, parse(arguments))
