"""Generate clips with a trained run."""

from __future__ import annotations

import argparse
import math
import os
import random
from typing import Any

from vidiff.cli.command import exit_code
from vidiff.cli.options import (
    MOST_SIDE,
    STRATEGIES,
    Help,
    Parser,
    Whole,
    add_actions,
    add_control,
    add_drawing,
    add_output,
    add_run,
    drawing,
    load_run,
    size,
    tilde,
)

PAGE = os.sysconf("SC_PAGE_SIZE")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=Help,
        epilog="example: vidiff generate --run runs/ucf --label Archery --guidance 2 --out archery.mp4",
    )
    add_run(parser)
    parser.add_argument(
        "--frames", type=Whole(), help="by default as many as the model was trained on; more by extension"
    )
    parser.add_argument(
        "--size", type=size, metavar="HxW", help="in pixels, one that the model was trained on; by default its first"
    )
    parser.add_argument(
        "--label", action="append", help="class to show; repeat for one each; by default all, in random order"
    )
    parser.add_argument("--text", action="append", help="what to show, in words; repeat for one each")
    parser.add_argument(
        "--count", type=Whole(), help="clips, shown as a grid where more than one; by default 1 a --label or --text"
    )
    parser.add_argument("--strategy", help=f"how a video longer than a window goes on: {', '.join(STRATEGIES)}")
    parser.add_argument(
        "--upscale",
        action="append",
        type=tilde,
        metavar="RUN",
        help="a super-resolution run that enlarges the clips; repeat to enlarge them further",
    )
    add_actions(parser, "each frame")
    add_control(parser, "each frame")
    add_output(parser, "clip.mp4", "those of the training clips")
    add_drawing(parser)
    return parser.parse_args(arguments)


def generate(options: argparse.Namespace) -> None:
    from vidiff.pipeline.cascade import Cascade
    from vidiff.pipeline.labels import class_number
    from vidiff.video.writer import VideoWriter, grid

    run, pipeline = load_run(options)
    asked = max(len(options.label or [1]), len(options.text or [1]))
    count = asked if options.count is None else options.count
    named = [pipeline.labels[class_number(label, pipeline.labels)] for label in options.label or [] if pipeline.labels]
    settings = {**drawing(options), "strategy": options.strategy, "size": options.size}
    actions = None if options.actions is None else pipeline.read_actions(options.actions)
    frames = len(actions) if options.frames is None and actions is not None else options.frames
    control = None if options.control is None else pipeline.read_control(options.control, frames, options.size)
    drawn = options.size or (pipeline.buckets[0].size if control is None else (control.shape[2], control.shape[3]))
    check_size(count, drawn, frames or pipeline.frames, pipeline.frames)
    labels = named or options.label or random.Random(options.seed).sample(pipeline.labels, len(pipeline.labels))
    labels = [labels[i % len(labels)] for i in range(count)] if labels else None
    texts = [options.text[i % len(options.text)] for i in range(count)] if options.text else None
    asked_for: dict[str, Any] = {"text": texts, "actions": actions, "control": control}
    stream = iter(pipeline.stream(frames, labels, count, progress=True, **asked_for, **settings))
    if options.upscale:
        cascade = Cascade.from_pretrained(options.upscale, device=options.device)
        cascade.enlarged(drawn)  # or says which stage does not take it
        label, text = labels if cascade.labels else None, texts if cascade.reads else None
        stream = cascade.upscale_stream(stream, label, count, text=text, seed=options.seed, progress=True)
    told = {name: str(path) for name in ("actions", "control") if (path := getattr(options, name)) is not None}
    metadata = {"run": str(run), "labels": labels, "texts": texts, **told, **pipeline.settings(**settings)}
    if options.upscale:
        metadata["upscale"] = [str(path) for path in options.upscale]
    with VideoWriter(options.out, pipeline.fps if options.fps is None else options.fps, metadata) as writer:
        for part in stream:
            writer.write(grid(part.cpu()) if count > 1 else part[0].cpu())
    print(f"{options.out}: {writer.frames} frames, {count} clip{'s' * (count > 1)}, from {run}")


def check_size(count: int, size: tuple[int, int], frames: int, window: int) -> None:
    """Refuse a grid of clips that no player shows, or a window of them that no memory holds, before any is drawn."""
    columns, most = math.ceil(math.sqrt(max(count, 1))), MOST_SIDE // max(size)
    if count > 1 and columns > most:
        raise ValueError(
            f"--count is {count}: a grid of {columns} x {columns} clips is larger than the {MOST_SIDE} pixels a "
            f"side of a video; give {most**2} at most, and run again with another --seed for more"
        )
    wanted, free = 12 * count * min(frames, window) * math.prod(size), os.sysconf("SC_PHYS_PAGES") * PAGE
    if wanted > free:
        raise ValueError(
            f"--count is {count}: the pixels of {min(frames, window)} frames take {wanted / 1e9:,.1f} GB, and this "
            f"machine has {free / 1e9:,.1f}; give fewer, and run again with another --seed for more"
        )


def main(arguments: list[str] | None = None) -> int:
    return exit_code(generate, parse(arguments))
