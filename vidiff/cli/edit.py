"""Edit clips with a trained run: every task gives some content and has the rest made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.cli.command import exit_code
from vidiff.cli.options import Help, add_drawing, add_output, add_run, drawing, load_run
from vidiff.diffusion.known import box
from vidiff.pipeline.pipeline import Pipeline
from vidiff.video.fit import read_fitted, size_of, stream_fitted
from vidiff.video.writer import VideoWriter

TASKS = {
    "animate": "a picture, or the first frame of a video, starts to move",
    "rewind": "new frames come before a clip",
    "interpolate": "new frames lead from one clip or picture to another",
    "loop": "new frames lead from the end of a clip to its beginning",
    "inpaint": "new content within a box or a mask",
    "outpaint": "new content around a box",
    "restyle": "a clip is noised and drawn anew, as --label or --text says",
    "double": "a new frame between every two",
    "upscale": "a clip is enlarged, with a super-resolution run",
}


def make(pipe: Pipeline, clip: Tensor, asked: argparse.Namespace, rest: dict[str, Any]) -> Tensor:
    """The result of a task on `clip`, `(1, 3, f, h, w)` both."""
    size = clip.shape[3], clip.shape[4]
    match asked.task:
        case "animate":
            return pipe.animate(clip[:, :, 0], asked.frames, **rest)
        case "rewind":
            return pipe.extend(clip, asked.frames, backwards=True, **rest)
        case "interpolate":
            return pipe.interpolate(clip, read_fitted(asked.last, size)[0], asked.between, **rest)
        case "loop":
            return pipe.loop(clip, asked.between, **rest)
        case "inpaint":
            return pipe.inpaint(clip, wanted(asked, size), **rest)
        case "outpaint":
            return pipe.outpaint(clip, corners(asked.box), **rest)
        case "restyle":
            return pipe.edit(clip, asked.strength, **rest)
        case _:
            return pipe.double(clip, **rest)


def corners(text: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of "top,left,bottom,right". Raises ValueError for anything else."""
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box is {text}; give top,left,bottom,right in pixels, such as 16,16,48,48") from None
    return top, left, bottom, right


def wanted(options: argparse.Namespace, size: tuple[int, int]) -> Tensor:
    """The mask of `inpaint`, `(1, 1, f, h, w)`, true where new content is wanted."""
    if options.mask is None:
        top, left, bottom, right = corners(options.box)
        return box(*size, top=top, left=left, bottom=bottom, right=right)
    mask = read_fitted(options.mask, size)[0].mean(1, keepdim=True) > 0
    if not mask.any():
        raise ValueError(f"{options.mask} is white nowhere, so there is nothing to make: paint what is to be new white")
    return mask


def parse(arguments: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("input", type=Path, help="a video file, or a picture")
    add_run(common)
    common.add_argument("--label", help="what the result shows, where the model has labels")
    common.add_argument("--text", help="what the result shows, in words, where the model has text")
    add_output(common, "edited.mp4", "the input's, doubled by double")
    add_drawing(common)
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    look: dict[str, Any] = {"parents": [common], "formatter_class": Help}
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
    help = "time to which the given clip is noised, which hides its flaws; by default the run's own"
    of["upscale"].add_argument("--level", type=float, help=help)
    return parser.parse_args(arguments)


def edit(options: argparse.Namespace) -> None:
    upscales = options.task == "upscale"
    run, pipeline = load_run(options, enlarges=upscales)
    settings = drawing(options) | ({"level": options.level} if upscales else {})
    size = pipeline.facts.nearest(*size_of(options.input), (pipeline.facts.enlarges or 1) if upscales else 1)
    clip, fps = stream_fitted(options.input, size)
    fps = options.fps if options.fps is not None else (fps or pipeline.fps) * (1 + (options.task == "double"))
    given = {key: str(value) for key, value in vars(options).items() if key not in settings and value is not None}
    with VideoWriter(options.out, fps, {**given, "run": str(run), **pipeline.settings(**settings)}) as writer:
        rest = {"label": options.label, "text": options.text, "progress": True, **settings}
        if upscales:
            parts = pipeline.upscale_stream(clip, **rest)
        else:
            parts = iter([make(pipeline, torch.cat(list(clip), dim=2), options, rest)])
        for part in parts:
            writer.write(part[0].cpu())
    print(f"{options.out}: {writer.frames} frames, from {run}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(edit, parse(arguments))
