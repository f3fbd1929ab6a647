"""Tabulate what feature networks can see: how far held-out clips move away from others as they are made worse.

python tools/sensitivity.py --real data/shapes --network networks/motion networks/transnetv2 --out docs/metrics.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vidiff.cli.command import exit_code
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.data.root import name_of
from vidiff.engine.parallel import choose_device
from vidiff.metrics.features import Features
from vidiff.metrics.sensitivity import sensitivity, sensitivity_page
from vidiff.report.log import git_revision
from vidiff.training.windows import choose_windows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, help="the data set: a folder, a list, tars, or a URL of these")
    parser.add_argument("--network", type=Path, nargs="+", required=True, help="folders of networks, or efficientnet")
    parser.add_argument("--split", default="test", help="of the data set (default: test)")
    parser.add_argument("--clips", type=int, nargs="*", default=[], help="for each network; by default all there are")
    parser.add_argument("--frames", type=int, default=16, help="of a clip (default: 16)")
    parser.add_argument("--size", type=int, default=64, help="of the frames, in pixels (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn to make clips worse (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0")
    return parser.parse_args(arguments)


def tabulate(options: argparse.Namespace) -> None:
    if options.clips and len(options.clips) != len(options.network):
        raise ValueError(f"{len(options.clips)} numbers of clips for {len(options.network)} networks")
    device = choose_device(options.device)
    networks = [Features.load(folder, device) for folder in options.network]
    index = index_of(DataConfig(options.real), Path("runs"), options.split)
    parts = []
    for network, count in zip(networks, options.clips or [None] * len(networks), strict=True):
        chosen = choose_windows(index, options.frames, options.size, count=count, lower="--frames")
        if len(chosen) < 4:
            raise ValueError(f"{options.real} has {len(chosen)} clips of {options.frames} frames; 4 are needed")
        video = torch.cat([chosen.read(range(n, min(n + 8, len(chosen)))) for n in range(0, len(chosen), 8)])
        found = sensitivity(network, video[::2], video[1::2], chosen.labels[1::2], seed=options.seed)
        parts.append((network, len(chosen) // 2, found))
    about = f"{name_of(options.real)}, split {options.split}, {options.frames} frames of {options.size} pixels"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(sensitivity_page(parts, about, str(git_revision())))
    print(options.out)


def main(arguments: list[str] | None = None) -> int:
    return exit_code(tabulate, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
