"""Edit clips with a trained run: every task gives some content and has the rest made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.data.video import VideoReader, VideoWriter, read_image
from vidiff.diffusion.known import box
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TASKS = {
    "animate": "a picture, or the first frame of a video, starts to move",
    "rewind": "new frames come before a clip",
    "interpolate": "new frames lead from one clip or picture to another",
    "loop": "new frames lead from the end of a clip to its beginning",
    "inpaint": "new content within a box or a mask",
    "outpaint": "new content around a box",
    "restyle": "a clip is noised and drawn anew, as --label or --text says",
    "double": "a new frame between every two",
}


def make(pipe: Pipeline, clip: Tensor, asked: argparse.Namespace, rest: dict[str, Any]) -> Tensor:
    """The result of a task on `clip`, `(1, 3, f, h, w)` both."""
    match asked.task:
        case "animate":
            return pipe.animate(clip[:, :, 0], asked.frames, **rest)
        case "rewind":
            return pipe.extend(clip, asked.frames, backwards=True, **rest)
        case "interpolate":
            return pipe.interpolate(clip, read(asked.last, pipe.size)[0], asked.between, **rest)
        case "loop":
            return pipe.loop(clip, asked.between, **rest)
        case "inpaint":
            return pipe.inpaint(clip, wanted(asked, pipe.size), **rest)
        case "outpaint":
            return pipe.outpaint(clip, corners(asked.box), **rest)
        case "restyle":
            return pipe.edit(clip, asked.strength, **rest)
        case _:
            return pipe.double(clip, **rest)


def read(path: Path, side: int) -> tuple[Tensor, float | None]:
    """A video or a picture as `(1, 3, f, side, side)` in [-1, 1], and a video's frames a second.

    The shorter side is resized and the square in the middle taken, as of the model's training clips.
    """
    with VideoReader(path) as reader:
        image = read_image(path) if path.suffix.lower() in PICTURES else None
        whole = reader.size if image is None else tuple(image.shape[1:])
        size = tuple(max(side, round(n * side / min(whole))) for n in whole)
        if image is None:
            video, fps = reader.read(size=None if size == whole else size), reader.fps
        else:
            video, fps = interpolate(image[None], size, mode="bilinear", antialias=True).movedim(0, 1), None
    top, left = (video.shape[2] - side) // 2, (video.shape[3] - side) // 2
    return video[None, :, :, top : top + side, left : left + side], fps


def corners(text: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of "top,left,bottom,right". Raises ValueError for anything else."""
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box is {text}; give top,left,bottom,right in pixels, such as 16,16,48,48") from None
    return top, left, bottom, right


def wanted(options: argparse.Namespace, side: int) -> Tensor:
    """The mask of `inpaint`, `(1, 1, f, side, side)`, true where new content is wanted."""
    if options.mask is None:
        top, left, bottom, right = corners(options.box)
        return box(side, side, top=top, left=left, bottom=bottom, right=right)
    mask = read(options.mask, side)[0].mean(1, keepdim=True) > 0
    if not mask.any():
        raise ValueError(f"{options.mask} is white nowhere, so there is nothing to make: paint what is to be new white")
    return mask


def parse(arguments: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("input", type=Path, help="a video file, or a picture")
    common.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    common.add_argument("--context", type=int, help="frames on which each window looks back")
    common.add_argument("--label", help="what the result shows, where the model has labels")
    common.add_argument("--text", help="what the result shows, in words, where the model has text")
    common.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1 is the plain model")
    common.add_argument("--steps", type=int, help="of the sampler")
    common.add_argument("--history", type=float, help="scale of guidance on what is given, label and text")
    common.add_argument("--sampler", help="such as ddpm, ddim, euler, heun or dpmpp_2m")
    common.add_argument("--seed", type=int, default=0, help="same seed, same frames")
    common.add_argument("--fps", type=float, help="frames per second; by default the input's, doubled by double")
    common.add_argument("--out", default="edited.mp4", help=".mp4, .webm, .gif, or a folder of .png, ending in /")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    look: dict[str, Any] = {"parents": [common], "formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    of = {name: tasks.add_parser(name, help=does, description=does, **look) for name, does in TASKS.items()}
    of["animate"].add_argument("--frames", type=int, help="of the result; by default as many as the model sees at once")
    of["rewind"].add_argument("--frames", type=int, required=True, help="of the result, the given ones included")
    of["interpolate"].add_argument("last", type=Path, help="where the new frames lead: a video file, or a picture")
    of["interpolate"].add_argument("--between", type=int, required=True, help="number of new frames")
    of["loop"].add_argument("--between", type=int, help="number of new frames; by default half of what the model sees")
    where = of["inpaint"].add_mutually_exclusive_group(required=True)
    where.add_argument("--box", help="top,left,bottom,right in pixels of the result: what is to be new")
    where.add_argument("--mask", type=Path, help="a picture or video, white where content is to be new")
    of["outpaint"].add_argument("--box", required=True, help="top,left,bottom,right in pixels: what is to stay")
    of["restyle"].add_argument("--strength", type=float, required=True, help="0 keeps the clip, 1 nothing of it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        run = options.run or latest_run()
        pipeline = Pipeline.from_pretrained(run, options.device)
        settings = {
            key: getattr(options, key) for key in ("guidance", "history", "steps", "sampler", "seed", "context")
        }
        clip, fps = read(options.input, pipeline.size)
        fps = options.fps if options.fps is not None else (fps or pipeline.fps) * (1 + (options.task == "double"))
        given = {key: str(value) for key, value in vars(options).items() if key not in settings and value is not None}
        with VideoWriter(options.out, fps, {**given, "run": str(run), **pipeline.settings(**settings)}) as writer:
            rest = {"label": options.label, "text": options.text, "progress": True, **settings}
            writer.write(make(pipeline, clip, options, rest)[0].cpu())
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.out}: {writer.frames} frames, from {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
