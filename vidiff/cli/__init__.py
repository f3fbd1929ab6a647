"""The commands, a module each; `main`, which is `vidiff`, finds the one that is meant, and loads no other."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

GROUPS = {  # folder of vidiff/cli -> what its commands are for, and the commands
    "make": (
        "to make a model",
        {
            "demo": "draw clips, train on them, generate, extend and score, to see it all once",
            "new": "write a recipe for a folder of clips and for this machine",
            "record": "play games and simulators, and keep clips of them with what was done",
            "doctor": "look at each clip of a data set, and say what is wrong with it",
            "plan": "say what a training will take: memory, time, money",
            "train": "train a model, and what it depends on; the same command goes on where it stopped",
            "encode": "turn a data set into latents before a training, on one machine or many",
            "ema": "make an average of the weights, of any width, after the training",
        },
    ),
    "use": (
        "to use it",
        {
            "generate": "draw clips with a trained run",
            "extend": "go on with a clip",
            "edit": "animate, rewind, interpolate, loop, inpaint, outpaint, restyle, invert, double, upscale",
            "app": "generate, extend, inpaint and animate on a page in the browser",
            "play": "play with a run that learned actions, on a page in the browser",
            "push": "share a run on the Hugging Face hub, with a card that tells what it is",
        },
    ),
    "measure": (
        "to measure it",
        {
            "evaluate": "score a run against the clips that it has not seen",
            "compare": "compare the ways of going on with a clip",
            "selftest": "see what works on this machine, and how fast",
            "surprise": "show which frames of a clip a run did not expect",
            "codec": "say what an autoencoder keeps of clips",
            "study": "let people compare clips, on a page, without knowing whose they are",
        },
    ),
}
COMMANDS = {name: summary for _, commands in GROUPS.values() for name, summary in commands.items()}


def module_of(name: str) -> ModuleType:
    """The module of a command, which has its `parse` and its `main`."""
    return import_module(next(f"vidiff.cli.{group}.{name}" for group, (_, names) in GROUPS.items() if name in names))


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines: list[str] = []
    for title, commands in GROUPS.values():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {summary}" for name, summary in commands.items())]
    return "\n".join(
        [
            "usage: vidiff COMMAND ...",
            "",
            "Train a video diffusion model on a folder of clips, generate new ones, and extend what there is.",
            *lines,
            "",
            "vidiff COMMAND --help says what it takes; vidiff --version which version this is.",
            "example: vidiff train shapes && vidiff generate --frames 16",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit code; 2 where there is no such command."""
    words = sys.argv[1:] if arguments is None else arguments
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how its line may go on, by argcomplete's script
        words = [import_module("vidiff.cli.complete").command_typed(COMMANDS)]
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name in ("--help", "-h", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"vidiff {version('vidiff')}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}? See" if near else f"choose {', '.join(COMMANDS)}, as told by"
        said = f"no such command: {name}; {hint}" if name else f"which command? {hint.capitalize()}"
        print(f"error: {said} vidiff --help", file=sys.stderr)
        return 2
    sys.argv[0] = f"vidiff {name}"  # as usage and errors call the command
    try:
        code: int = module_of(name).main(rest)
    except KeyboardInterrupt:  # while what the command needs was loaded
        print("\nstopped; nothing was begun", file=sys.stderr)
        return 130
    return code
