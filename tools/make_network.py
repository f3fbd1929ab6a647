"""Make a feature network for tools/evaluate.py: one that is trained on your clips, or TransNet V2 from its package.

python tools/make_network.py motion --data data/shapes --out networks/motion
python tools/make_network.py transnetv2 --out networks/transnetv2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from vidiff.cli.command import exit_code
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.metrics.motion_network import SIZE, save_motion, train_motion
from vidiff.metrics.transnet import save_transnet
from vidiff.training.windows import choose_windows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["motion", "transnetv2"])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--data", help="the data set, of which motion learns the training split")
    parser.add_argument("--frames", type=int, default=16, help="of a clip, as scores will have (default: 16)")
    parser.add_argument("--clips", type=int, default=768, help="most clips to learn from (default: 768)")
    parser.add_argument("--steps", type=int, default=400, help="of training (default: 400, two minutes on one core)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> None:
    if options.network == "transnetv2":
        save_transnet(options.out)
    else:
        if options.data is None or options.steps < 20:
            raise ValueError("motion is trained on clips: name them with --data, and take 20 or more --steps")
        index = index_of(DataConfig(options.data), Path("runs"), "train")
        windows = choose_windows(index, 2 * options.frames, SIZE, lower="--frames")
        if len(windows) > options.clips:
            windows = choose_windows(index, 2 * options.frames, SIZE, count=options.clips)
        parts = tqdm(range(0, len(windows), 8), desc="clips", unit="batch")
        read = (windows.read(range(start, min(start + 8, len(windows)))) for start in parts)
        clips = torch.cat([part.add(1).mul(127.5).round().byte() for part in read])
        network, right = train_motion(clips, windows.labels, options.seed, options.steps)
        save_motion(options.out, network, {**right, "clips": windows.sha256, "seed": options.seed})
        print(", ".join(f"{name} {value:.3f}" for name, value in right.items()))
    print(options.out)


def main(arguments: list[str] | None = None) -> int:
    return exit_code(make, parse(arguments), "no network was written")


if __name__ == "__main__":
    sys.exit(main())
