"""Extend a clip with a trained run: its frames come first, new ones follow."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from vidiff.cli.command import exit_code
from vidiff.cli.options import (
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
    tilde,
)

if TYPE_CHECKING:
    import numpy as np


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=Help, epilog="example: vidiff extend clip.mp4 --frames 64 --out longer.mp4"
    )
    parser.add_argument("clip", type=tilde, help="a video file")
    parser.add_argument("--frames", type=Whole(), required=True, help="of the result, the given ones included")
    add_run(parser)
    parser.add_argument("--given", type=Whole(), help="use the first frames of the clip alone; by default all")
    parser.add_argument("--label", help="what the clip shows, where the model has labels")
    parser.add_argument("--text", help="what the clip shows, in words, where the model has text")
    parser.add_argument("--strategy", help=f"how a video longer than a window goes on: {', '.join(STRATEGIES)}")
    add_actions(parser, "each new frame, or for each of the result")
    add_control(parser, "each frame of the result, the given ones included,")
    add_output(parser, "extended.mp4", "as the model sees the clip, as a rule at its own")
    add_drawing(parser)
    return parser.parse_args(arguments)


def extend(options: argparse.Namespace) -> None:
    from vidiff.pipeline.given import GivenClip
    from vidiff.video.writer import VideoWriter

    run, pipeline = load_run(options)
    settings = {**drawing(options), "strategy": options.strategy}
    with GivenClip(options.clip, pipeline.facts) as clip:
        if clip.note:
            print(clip.note)
        given = clip.frames if options.given is None else options.given
        if not 1 <= given <= clip.frames:
            raise ValueError(f"--given is {given}; {options.clip} has 1 to {clip.frames}")
        if options.frames <= given:
            raise ValueError(f"--frames is {options.frames}, but {given} are given already: ask for more, all told")
        reach = min(given, pipeline.reach(options.strategy, options.context, clip.size))
        last = clip.read(range(given - reach, given))
        actions = None if options.actions is None else pipeline.read_actions(options.actions)
        if actions is not None:
            actions = rows_shown(actions, options.frames, given, reach, options.actions)
        control = options.control
        if control is not None:
            control = pipeline.read_control(control, options.frames, clip.size)[:, given - reach :]
        new = pipeline.stream(
            options.frames - given + reach,
            options.label,
            text=options.text,
            actions=actions,
            control=control,
            clip=last[None],
            progress=True,
            **settings,
        )
        metadata = {
            **{name: str(path) for name in ("actions", "control") if (path := getattr(options, name)) is not None},
            "run": str(run),
            "clip": str(options.clip),
            "given": given,
            "text": options.text,
            **pipeline.settings(**settings),
        }
        fps = (clip.fps or pipeline.fps) if options.fps is None else options.fps
        with VideoWriter(options.out, fps, metadata) as writer:
            for part in chain(clip.pieces(given), new):
                writer.write(part[0].cpu())
    print(f"{options.out}: {given} given frames and {writer.frames - given} new ones, from {run}")


def rows_shown(actions: np.ndarray, frames: int, given: int, reach: int, file: Path) -> np.ndarray:
    """The rows of a file of actions, `(n, a)`, for the frames that the model sees: all new ones and, of a file that has
    them, the last `reach` given ones. Raises ValueError for another number of rows."""
    new = frames - given
    if len(actions) not in (new, frames):
        raise ValueError(
            f"{file} has {len(actions)} rows, but of the {frames} frames of the result {given} are given and {new} are "
            f"new: give {new} rows, one for each new frame, or {frames}, one for each of the result"
        )
    return actions[-(reach + new) :]


def main(arguments: list[str] | None = None) -> int:
    return exit_code(extend, parse(arguments))
