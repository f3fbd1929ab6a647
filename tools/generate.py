"""Generate clips with a trained run."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch

from vidiff.data.video import VideoWriter, grid
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--frames", type=int, help="by default as many as the model was trained on; more by extension")
    parser.add_argument(
        "--label", action="append", help="class to show; repeat for one each; by default all, in random order"
    )
    parser.add_argument("--text", action="append", help="what to show, in words; repeat for one each")
    parser.add_argument(
        "--count", type=int, help="clips, shown as a grid where more than one; by default 1 a --label or --text"
    )
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1 is the plain model")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--history", type=float, help="where frames are continued: scale on them, label and text")
    parser.add_argument("--lag", type=int, help="steps by which each new frame follows the one before; 0: all at once")
    parser.add_argument("--sampler", help="such as ddpm, ddim, euler, heun or dpmpp_2m")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same clips")
    parser.add_argument("--fps", type=float, help="frames per second; by default those of the training clips")
    parser.add_argument("--out", default="clip.mp4", help=".mp4, .webm, .gif, or a folder of .png, ending in /")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    options = parser.parse_args(arguments)
    try:
        run = options.run or latest_run()
        pipeline = Pipeline.from_pretrained(run, options.device)
        asked = max(len(options.label or [1]), len(options.text or [1]))
        count = asked if options.count is None else options.count
        labels = options.label or random.Random(options.seed).sample(pipeline.labels, len(pipeline.labels))
        labels = [labels[i % len(labels)] for i in range(count)] if labels else None
        texts = [options.text[i % len(options.text)] for i in range(count)] if options.text else None
        settings = {key: getattr(options, key) for key in ("guidance", "history", "steps", "lag", "sampler", "seed")}
        stream = pipeline.stream(options.frames, labels, count, text=texts, progress=True, **settings)
        metadata = {"run": str(run), "labels": labels, "texts": texts, **pipeline.settings(**settings)}
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
