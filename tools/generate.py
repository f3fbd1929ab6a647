"""Generate clips with a trained run."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch

from vidiff.data.video import VideoWriter, grid
from vidiff.long import STRATEGIES
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--frames", type=int, help="by default as many as the model was trained on; more by extension")
    parser.add_argument(
        "--label", action="append", help="class to show; repeat for one each; by default all, in random order"
    )
    parser.add_argument("--count", type=int, help="clips, shown as a grid where more than one; by default 1 a --label")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1 is the plain model")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--history", type=float, help="where frames are continued: scale on them and the label")
    parser.add_argument("--lag", type=int, help="steps by which each new frame follows the one before; 0: all at once")
    parser.add_argument("--strategy", help=f"how a video longer than a window goes on: {', '.join(STRATEGIES)}")
    parser.add_argument("--sampler", help="such as ddpm, ddim, euler, heun or dpmpp_2m")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same clips")
    parser.add_argument("--fps", type=float, help="frames per second; by default those of the training clips")
    parser.add_argument("--out", default="clip.mp4", help=".mp4, .webm, .gif, or a folder of .png, ending in /")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    options = parser.parse_args(arguments)
    try:
        run = options.run or latest_run()
        pipeline = Pipeline.from_pretrained(run, options.device)
        count = len(options.label or [1]) if options.count is None else options.count
        labels = options.label or random.Random(options.seed).sample(pipeline.labels, len(pipeline.labels))
        labels = [labels[i % len(labels)] for i in range(count)] if labels else None
        keys = ("guidance", "history", "steps", "lag", "strategy", "sampler", "seed")
        settings = {key: getattr(options, key) for key in keys}
        stream = pipeline.stream(options.frames, labels, count, progress=True, **settings)
        metadata = {"run": str(run), "labels": labels, **pipeline.settings(**settings)}
        with VideoWriter(options.out, pipeline.fps if options.fps is None else options.fps, metadata) as writer:
            for part in stream:
                writer.write(grid(part.cpu()) if count > 1 else part[0].cpu())
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.out}: {writer.frames} frames, {count} clip{'s' * (count > 1)}, from {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
