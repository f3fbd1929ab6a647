"""Share a trained run on the Hugging Face hub: its weights, its settings and a card that tells what it is.

vidiff push runs/shapes ada/bouncing-shapes --private
vidiff push runs/shapes ada/bouncing-shapes --out shared       writes the folder, and sends nothing
"""

from __future__ import annotations

import argparse

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, add_weights, tilde


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: vidiff push runs/shapes ada/bouncing-shapes --license cc-by-4.0",
    )
    parser.add_argument("run", type=tilde, help="a run's folder")
    parser.add_argument("name", help="on the hub: owner/name; it is made if it is not there")
    parser.add_argument("--private", action="store_true", help="for its owner alone")
    parser.add_argument(
        "--license", default="other", metavar="ID", help="of the weights, such as apache-2.0 or cc-by-4.0"
    )
    parser.add_argument("--out", type=tilde, help="write what would be sent into this folder, and send nothing")
    add_weights(parser)
    return parser.parse_args(arguments)


def share(options: argparse.Namespace) -> None:
    from vidiff.pipeline.hub import check_hub_name
    from vidiff.share.export import export
    from vidiff.share.push import push
    from vidiff.store.files import check_writable

    check_hub_name(options.name)
    if options.out is None:
        how = {"private": options.private, "weights": options.weights, "licence": options.license}
        print(push(options.run, options.name, **how))
        return
    if options.private:
        raise ValueError("--private is of a repository, but with --out nothing is sent: leave one of them out")
    check_writable(options.out, folder=True)
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"--out {options.out}: it is not empty; give a new folder")
    export(options.run, options.out, options.name, options.weights, options.license)
    print(f"{options.out}: what would be sent as {options.name}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(share, parse(arguments), "whether anything was sent, the page of the model shows")
