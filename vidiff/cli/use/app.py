"""A page on which a trained run generates, extends, inpaints and animates, in a browser on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vidiff.cli.command import exit_code
from vidiff.cli.options import Help, Parser, add_device, port


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, epilog="example: vidiff app runs/shapes --port 7860")
    parser.add_argument(
        "run", nargs="?", type=os.path.expanduser, help="a run's folder; by default all in runs/ may be chosen"
    )
    parser.add_argument("--host", default="127.0.0.1", help="any but this machine's own wants a token of each visitor")
    parser.add_argument("--port", type=port, default=7860, help="0 for any that is free")
    parser.add_argument("--token", help="for visitors to know; by default one is made where it is needed")
    add_device(parser)
    return parser.parse_args(arguments)


def app(options: argparse.Namespace) -> None:
    from vidiff.app.serve import serve
    from vidiff.engine.parallel import choose_device
    from vidiff.pipeline.hub import is_hub_name
    from vidiff.pipeline.run import read_config

    if options.token is not None and len(options.token) < 8:
        raise ValueError("--token has fewer than 8 characters, which are soon guessed: give more, or leave it out")
    choose_device(options.device)
    if options.run is not None and not is_hub_name(options.run):
        read_config(Path(options.run))
    serve(options.run, options.host, options.port, options.token, options.device, lambda line: print(line, flush=True))


def main(arguments: list[str] | None = None) -> int:
    return exit_code(app, parse(arguments), "what was made on the page is deleted")
