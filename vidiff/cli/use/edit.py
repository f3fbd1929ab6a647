"""Edit clips with a trained run: every task gives some content and has the rest made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vidiff.cli.command import exit_code
from vidiff.cli.options import (
    Help,
    Parser,
    Whole,
    add_control,
    add_drawing,
    add_output,
    add_run,
    drawing,
    load_run,
    number,
    steps,
    tilde,
)

if TYPE_CHECKING:
    from torch import Tensor

    from vidiff.pipeline.cascade import Cascade
    from vidiff.pipeline.given import GivenClip
    from vidiff.pipeline.pipeline import Pipeline

TASKS = {
    "animate": "a picture, or the first frame of a video, starts to move",
    "rewind": "new frames come before a clip",
    "interpolate": "new frames lead from one clip or picture to another",
    "loop": "new frames lead from the end of a clip to its beginning",
    "inpaint": "new content within a box or a mask",
    "outpaint": "new content around a box",
    "restyle": "a clip is noised and drawn anew, as --label or --text says",
    "invert": "a clip is drawn again from the noise that the model finds for it",
    "double": "a new frame between every two",
    "upscale": "a clip is enlarged, with a super-resolution run",
}

CONTROLLED = ("animate", "inpaint", "outpaint", "restyle", "invert", "double")  # tasks that take another video


def make(pipe: Pipeline, clip: GivenClip, asked: argparse.Namespace, rest: dict[str, Any]) -> Iterator[Tensor]:
    """The result of a task on a clip, piece by piece: `(1, 3, n, h, w)`. What a task does not look at is not read."""
    from vidiff.pipeline.given import GivenClip

    match asked.task:
        case "animate":
            yield pipe.animate(clip.read(range(1))[:, 0], asked.frames, **rest)
        case "rewind":
            given = clip.frames
            new = asked.frames - given
            if new < 1:
                raise ValueError(f"frames is {asked.frames}, the clip has {given} already: ask for more, all told")
            head = clip.read(range(pipe.reach(context=rest["context"], size=clip.size)))
            yield pipe.extend(head, new + head.shape[1], backwards=True, **rest)[:, :, :new]
            yield from clip.pieces()
        case "interpolate":
            with GivenClip(asked.last, pipe.facts, clip.size) as last:
                tell(last)
                yield from joined(pipe, clip, last, asked.between, rest)
                yield from last.pieces()
        case "loop":
            between = pipe.facts.window(clip.size) // 2 if asked.between is None else asked.between
            yield from joined(pipe, clip, clip, between, rest)
        case "inpaint":
            yield pipe.inpaint(clip.read(), wanted(pipe, asked, clip.size), **rest)
        case "outpaint":
            yield pipe.outpaint(clip.read(), corners(asked.box), **rest)
        case "restyle":
            told = {"source_label": asked.source_label, "source_text": asked.source_text}
            yield pipe.edit(clip.read(), asked.strength, inversion=asked.inversion, **told, **rest)
        case "invert":
            whole = clip.read()[None]
            made = pipe.invert(whole, inversion=asked.inversion, **rest)
            off = (made - pipe.reconstruct(whole)).square().mean().sqrt()
            print(f"{off:.3g} RMS, of pixels in [-1, 1], from what the codec alone returns")
            yield made
        case "double":
            yield pipe.double(clip.read(), **rest)
        case _:
            yield from cascade_of(pipe, asked).upscale_stream(clip.pieces(), **rest)


def cascade_of(pipe: Pipeline, asked: argparse.Namespace) -> Cascade:
    """The run, and those that go on from it."""
    from vidiff.pipeline.cascade import Cascade
    from vidiff.pipeline.pipeline import Pipeline

    further = [Pipeline.from_pretrained(path, asked.device) for path in asked.upscale]
    return Cascade([pipe, *further], ["the run", *map(str, asked.upscale)])


def joined(pipe: Pipeline, clip: GivenClip, other: GivenClip, between: int, rest: dict[str, Any]) -> Iterator[Tensor]:
    """A clip, and new frames that lead from its end to the beginning of another."""
    window = pipe.facts.window(clip.size)  # frames that the model sees at once
    tail = clip.read(range(max(0, clip.frames - window), clip.frames))
    made = pipe.interpolate(tail, other.read(range(window)), between, **rest)
    yield from clip.pieces()
    yield made[:, :, tail.shape[1] : tail.shape[1] + between]


def tell(clip: GivenClip) -> None:
    """Say where a clip is not seen as it is."""
    if clip.note:
        print(clip.note)


def corners(text: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of "top,left,bottom,right". Raises ValueError for anything else."""
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box is {text}; give top,left,bottom,right in pixels, such as 16,16,48,48") from None
    return top, left, bottom, right


def wanted(pipe: Pipeline, options: argparse.Namespace, size: tuple[int, int]) -> Tensor:
    """The mask of `inpaint`, `(1, 1, f, h, w)`, true where new content is wanted."""
    from vidiff.diffusion.known import box
    from vidiff.pipeline.given import GivenClip

    if options.mask is None:
        top, left, bottom, right = corners(options.box)
        return box(*size, top=top, left=left, bottom=bottom, right=right)
    with GivenClip(options.mask, pipe.facts, size) as given:
        mask = given.read().mean(0, keepdim=True)[None] > 0
    if not mask.any():
        raise ValueError(f"{options.mask} is white nowhere, so there is nothing to make: paint what is to be new white")
    return mask


def parse(arguments: list[str] | None) -> argparse.Namespace:
    common = Parser(add_help=False)
    common.add_argument("input", type=tilde, help="a video file, or a picture")
    add_run(common)
    common.add_argument("--label", help="what the result shows, where the model has labels")
    common.add_argument("--text", help="what the result shows, in words, where the model has text")
    add_output(common, "edited.mp4", "as the model sees the input, as a rule at its own; twice that for double")
    add_drawing(common)
    parser = Parser(
        description=__doc__, epilog="example: vidiff edit inpaint clip.mp4 --box 16,16,48,48 --out painted.mp4"
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    look: dict[str, Any] = {"parents": [common], "formatter_class": Help}
    of = {name: tasks.add_parser(name, help=does, description=does, **look) for name, does in TASKS.items()}
    of["animate"].add_argument(
        "--frames", type=Whole(), help="of the result; by default as many as the model sees at once"
    )
    of["rewind"].add_argument("--frames", type=Whole(), required=True, help="of the result, the given ones included")
    of["interpolate"].add_argument("last", type=tilde, help="where the new frames lead: a video file, or a picture")
    of["interpolate"].add_argument("--between", type=Whole(), required=True, help="number of new frames")
    of["loop"].add_argument(
        "--between", type=Whole(), help="number of new frames; by default half of what the model sees"
    )
    where = of["inpaint"].add_mutually_exclusive_group(required=True)
    where.add_argument("--box", help="top,left,bottom,right in pixels of the result: what is to be new")
    where.add_argument("--mask", type=tilde, help="a picture or video, white where content is to be new")
    of["outpaint"].add_argument("--box", required=True, help="top,left,bottom,right in pixels: what is to stay")
    of["restyle"].add_argument("--strength", type=number, required=True, help="0 keeps the clip, 1 nothing of it")
    help = (
        "evaluations of the model, a step, by which the clip's own noise is found (DDIM inversion); 0 draws new noise"
    )
    of["restyle"].add_argument("--inversion", type=Whole(0, steps.most), default=0, help=help)
    of["restyle"].add_argument("--source-label", help="what the clip shows now, where the model has labels")
    of["restyle"].add_argument("--source-text", help="what the clip shows now, in words, where the model has text")
    of["invert"].add_argument("--inversion", type=steps, default=10, help="evaluations of the model a step")
    for name in CONTROLLED:
        add_control(of[name], "each frame of the result")
    help = "time to which the given clip is noised, which hides its flaws; by default the run's own"
    of["upscale"].add_argument("--level", type=number, help=help)
    help = "a further super-resolution run, which enlarges what --run has made; repeat to enlarge it further"
    of["upscale"].add_argument("--upscale", action="append", type=tilde, default=[], metavar="RUN", help=help)
    return parser.parse_args(arguments)


def edit(options: argparse.Namespace) -> None:
    from vidiff.pipeline.given import GivenClip
    from vidiff.video.writer import VideoWriter

    upscales = options.task == "upscale"
    run, pipeline = load_run(options, enlarges=upscales)
    settings = drawing(options) | ({"level": options.level} if upscales else {})
    factor = (pipeline.facts.enlarges or 1) if upscales else 1
    asked = {key: value for key, value in vars(options).items() if key not in settings and value not in (None, [])}
    given = {key: [*map(str, value)] if isinstance(value, list) else str(value) for key, value in asked.items()}
    with GivenClip(options.input, pipeline.facts, factor=factor) as clip:
        tell(clip)
        fps = (clip.fps or pipeline.fps) * (1 + (options.task == "double")) if options.fps is None else options.fps
        rest = {"label": options.label, "text": options.text, "progress": True, **settings}
        if getattr(options, "control", None) is not None:
            frames = {
                "animate": getattr(options, "frames", None) or pipeline.facts.window(clip.size),
                "double": 2 * clip.frames - 1,
            }.get(options.task, clip.frames)
            rest["control"] = pipeline.read_control(options.control, frames, clip.size)
        with VideoWriter(options.out, fps, {**given, "run": str(run), **pipeline.settings(**settings)}) as writer:
            for part in make(pipeline, clip, options, rest):
                writer.write(part[0].cpu())
    print(f"{options.out}: {writer.frames} frames, from {run}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(edit, parse(arguments))
