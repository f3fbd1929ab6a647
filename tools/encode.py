"""Encode the latents that a model is trained on, before its training or beside others that do.

Any number of processes may share the work: under torchrun, by --shard on machines that share a folder, or simply by
running the same command several times. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import torch

from vidiff.recipe.load import load
from vidiff.training.stages import encode


def part_of(text: str) -> tuple[int, int]:
    """Of "i/n"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: give i/n with i from 0 to n - 1, such as 0/4")
    return int(found[1]), int(found[2])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/encode.py configs/shapes.yaml --shard 0/2"
    )
    parser.add_argument("config", type=Path, help="a model's YAML file, such as configs/shapes.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it, as for python -m vidiff.train"
    )
    parser.add_argument(
        "--shard", type=part_of, default=(0, 1), metavar="i/n", help="encode shards i, i + n, ... of the cache alone"
    )
    parser.add_argument("--split", choices=["train", "test", "all"], default="all", help="of which clips; default all")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load(options.config, options.overrides)
        splits = {"train": [config.data.split], "test": [config.data.test_split]}
        chosen = splits.get(options.split, splits["train"] + splits["test"])
        lines = encode(config, options.config.parent, chosen, options.shard)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
        return 130
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
