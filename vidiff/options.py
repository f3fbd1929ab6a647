"""The options that commands share: which run, where the result goes, and how clips are drawn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vidiff.pipeline import Pipeline
from vidiff.run import latest_run

DRAWING: dict[str, dict[str, Any]] = {  # keyword of Pipeline's methods -> its flag, as add_argument takes it
    "guidance": {"type": float, "help": "scale of classifier-free guidance; 1 is the plain model"},
    "history": {"type": float, "help": "where frames are known: scale on them and the label, in place of --guidance"},
    "steps": {"type": int, "help": "of the sampler"},
    "sampler": {"help": "such as ddpm, ddim, euler, heun or dpmpp_2m"},
    "lag": {"type": int, "help": "steps by which each new frame follows the one before; 0: all at once"},
    "context": {"type": int, "help": "frames on which each further window looks back"},
    "seed": {"type": int, "default": 0, "help": "same seed, same frames"},
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of an option, where it has one of its own and not the run's."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Which run draws, and on what."""
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")


def add_output(parser: argparse.ArgumentParser, out: str, fps: str) -> None:
    """Where the result goes, by default to `out`, and how fast it plays, by default as `fps` says in words."""
    parser.add_argument("--out", default=out, help=".mp4, .webm, .gif, or a folder of .png, ending in /")
    parser.add_argument("--fps", type=float, help=f"frames per second; by default {fps}")


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """How clips are drawn: all that is in `DRAWING`."""
    group = parser.add_argument_group("how clips are drawn, by default as the run's config says")
    for name, look in DRAWING.items():
        group.add_argument(f"--{name.replace('_', '-')}", **look)


def drawing(asked: argparse.Namespace) -> dict[str, Any]:
    """What `add_drawing` read, as Pipeline's methods take it; None for what was not asked for."""
    return {name: getattr(asked, name) for name in DRAWING}


def load_run(asked: argparse.Namespace, enlarges: bool = False) -> tuple[Path, Pipeline]:
    """The run that `add_run` named, or the latest that makes clips or, where asked, that enlarges them.

    Raises ValueError as `latest_run` and `Pipeline.from_pretrained`.
    """
    run = asked.run or latest_run(enlarges=enlarges)
    return run, Pipeline.from_pretrained(run, asked.device)
