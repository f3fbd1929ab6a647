"""Encode the latents that a model is trained on, before its training or beside others that do.

Any number of processes may share the work: under torchrun, by --shard on machines that share a folder, or simply by
running the same command several times. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import re

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, add_config


def part_of(text: str) -> tuple[int, int]:
    """Of "i/n"."""
    part = re.fullmatch(r"(\d+)/(\d+)", text)
    if not part or not int(part[1]) < int(part[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: give i/n with i from 0 to n - 1, such as 0/4")
    return int(part[1]), int(part[2])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff encode shapes --shard 0/2")
    add_config(parser, "a model's YAML file, or the name of a recipe that comes with vidiff", "as for vidiff train")
    parser.add_argument(
        "--shard", type=part_of, default=(0, 1), metavar="i/n", help="encode shards i, i + n, ... of the cache alone"
    )
    parser.add_argument("--split", choices=["train", "test", "all"], default="all", help="of which clips; default all")
    return parser.parse_intermixed_args(arguments)


def encode(options: argparse.Namespace) -> None:
    from vidiff.recipe.load import find_config, load
    from vidiff.training import prepare

    source = find_config(options.config)
    config = load(source, options.overrides)
    splits = {"train": [config.data.split], "test": [config.data.test_split]}
    chosen = splits.get(options.split, splits["train"] + splits["test"])
    lines = prepare.encode(config, source.parent, chosen, options.shard)
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(lines))


def main(arguments: list[str] | None = None) -> int:
    return exit_code(encode, parse(arguments), "the same command goes on from what is finished")
