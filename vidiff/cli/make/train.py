"""Train a model, and what it depends on."""

from __future__ import annotations

import argparse
import logging

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, add_config


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="vidiff train",
        description="Train a video diffusion model on a folder of clips. The same command goes on where it stopped.",
        epilog="example: vidiff train shapes train.steps=2000 name=longer",
    )
    add_config(parser, "a YAML file, or the name of a recipe that comes with vidiff", "such as train.steps=2000")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build all, run a step of training, validation and sampling, say what to expect, and keep nothing",
    )
    parser.add_argument("--show", action="store_true", help="print all keys, each as it would be used, and stop")
    return parser.parse_intermixed_args(arguments)


def train(options: argparse.Namespace) -> None:
    from vidiff.recipe.load import dump, find_config, load
    from vidiff.training import dry_run, stages

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    source = find_config(options.config)
    config = load(source, options.overrides)
    if options.show:
        print(dump(config), end="")
    elif options.dry_run:
        dry_run.rehearse(config, source.parent)
    else:
        given = source.read_text(encoding="utf-8") + "".join(f"# {change}\n" for change in options.overrides)
        stages.train(config, given, source.parent)


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    return exit_code(train, parse(arguments), "the same command goes on from what is finished")
