"""Extend a clip with a trained run: its frames come first, new ones follow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from vidiff.data.video import VideoReader, VideoWriter
from vidiff.long import STRATEGIES
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run

CHUNK = 64  # frames of the given clip that are copied at once


def fit(size: tuple[int, int], shorter: int) -> tuple[int, int] | None:
    """Height and width once the shorter side is as given; None where it is already."""
    scale = shorter / min(size)
    fitted = max(shorter, round(size[0] * scale)), max(shorter, round(size[1] * scale))
    return None if fitted == size else fitted


def crop(video: Tensor, side: int) -> Tensor:
    """The square in the middle of each frame, as the model's training clips were cropped."""
    top, left = (video.shape[2] - side) // 2, (video.shape[3] - side) // 2
    return video[:, :, top : top + side, left : left + side]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("clip", type=Path, help="a video file")
    parser.add_argument("--frames", type=int, required=True, help="of the result, the given ones included")
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--context", type=int, help="frames on which each window looks back")
    parser.add_argument("--given", type=int, help="use the first frames of the clip alone; by default all")
    parser.add_argument("--label", help="what the clip shows, where the model has labels")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1 is the plain model")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--history", type=float, help="where frames are continued: scale on them and the label")
    parser.add_argument("--lag", type=int, help="steps by which each new frame follows the one before; 0: all at once")
    parser.add_argument("--strategy", help=f"how a video longer than a window goes on: {', '.join(STRATEGIES)}")
    parser.add_argument("--sampler", help="such as ddpm, ddim, euler, heun or dpmpp_2m")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same frames")
    parser.add_argument("--fps", type=float, help="frames per second; by default the clip's")
    parser.add_argument("--out", default="extended.mp4", help=".mp4, .webm, .gif, or a folder of .png, ending in /")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    options = parser.parse_args(arguments)
    try:
        run = options.run or latest_run()
        pipeline = Pipeline.from_pretrained(run, options.device)
        keys = ("guidance", "history", "steps", "lag", "strategy", "sampler", "seed", "context")
        settings = {key: getattr(options, key) for key in keys}
        with VideoReader(options.clip) as reader:
            size = fit(reader.size, pipeline.size)
            given = reader.frames if options.given is None else options.given
            if not 1 <= given <= reader.frames:
                raise ValueError(f"--given is {given}; {options.clip} has 1 to {reader.frames}")
            if options.frames <= given:
                raise ValueError(f"--frames is {options.frames}, but {given} are given already: ask for more, all told")
            reach = min(given, pipeline.reach(options.strategy, options.context))
            last = crop(reader.read(range(given - reach, given), size), pipeline.size)
            new = pipeline.stream(
                options.frames - given + reach, options.label, clip=last[None], progress=True, **settings
            )
            metadata = {
                "run": str(run),
                "clip": str(options.clip),
                "given": given,
                **pipeline.settings(**settings),
            }
            with VideoWriter(options.out, reader.fps if options.fps is None else options.fps, metadata) as writer:
                for start in range(0, given, CHUNK):
                    part = reader.read(range(start, min(start + CHUNK, given)), size)
                    writer.write(crop(part, pipeline.size))
                for part in new:
                    writer.write(part[0].cpu())
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.out}: {given} given frames and {writer.frames - given} new ones, from {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
