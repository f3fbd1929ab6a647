"""The options that commands share: which run, where the result goes, and how clips are drawn.

Help is there at once: neither this file nor that of a command imports at its top what loads torch, av or omegaconf. The
functions that do a command's work import what they need.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from vidiff.pipeline.pipeline import Pipeline


def tilde(text: str) -> Path:
    """A path, from the home folder on where it begins with ~, which no shell sees to in --out=~/clip.mp4."""
    return Path(os.path.expanduser(text))


def number(text: str) -> float:
    """A number that is finite. Raises ValueError for anything else, of which argparse tells."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


SLOWEST, FASTEST = 0.002, 100_000.0  # frames per second, as vidiff.video.writer has them
MOST = 2**31 - 1  # of whole numbers that have no bound of their own: what sizes, counts and files hold
MOST_SIDE = 16384  # pixels of a side, of H.264
MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Whole:
    """The type of an option that is a whole number from `least` to `most`."""

    least: int = 1
    most: int = MOST
    __name__ = "int"  # as argparse calls what it is no number for

    def __call__(self, text: str) -> int:
        """Raises ValueError for no whole number, and argparse's own error for one out of range."""
        value = int(text)
        if not self.least <= value <= self.most:
            given = text if len(text) <= 40 else f"{text[:37]}..."
            raise argparse.ArgumentTypeError(f"{given} is out of range; give {self.least} to {self.most}")
        return value


@dataclass(frozen=True)
class Amount:
    """The type of an option that is a number above 0, up to `most`."""

    most: float
    __name__ = "number"

    def __call__(self, text: str) -> float:
        """Raises ValueError for no number, and argparse's own error for one out of range."""
        value = number(text)
        if not 0 < value <= self.most:
            raise argparse.ArgumentTypeError(f"{text} is out of range; give a number above 0, up to {self.most:.0f}")
        return value


seed = Whole(0, 2**63 - 1)  # half of what torch takes, so that it takes the seeds that batches count on from it
steps = Whole(1, 100_000)
port = Whole(0, 65_535)
side = Whole(1, MOST_SIDE)
processes = Whole(1, MOST_PROCESSES)


def rate(text: str) -> float:
    """Frames per second. Raises argparse's own error for those that no file says; a .gif or .mkv says fewer."""
    try:
        value = number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid number value: {text!r}") from None
    if not SLOWEST <= value <= FASTEST:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give {SLOWEST:g} to {FASTEST:.0f} frames per second")
    return value


def pairs(text: str) -> dict[str, float]:
    """Finite numbers by name, as of "eta=0,radius=10". Raises argparse's own error for anything else."""
    try:
        return {name: number(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number,name=number, all finite") from None


def size(text: str) -> tuple[int, int]:
    """Height and width, of "48x80". Raises argparse's own error for anything else."""
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, such as 48x80") from None
    if not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise argparse.ArgumentTypeError(f"{text} is out of range; give sides of 1 to {MOST_SIDE} pixels")
    return height, width


SAMPLERS = (  # the keys of vidiff.sample.SAMPLERS, named here so that help need not wait for torch; so are these:
    *("ddpm", "ddim", "euler", "heun", "rk45", "euler_maruyama", "stochastic_heun", "dpmpp_2m", "dpmpp_2m_sde"),
    *("unipc", "deis", "langevin", "predictor_corrector", "consistency"),
)
GRIDS = ("logistic", "log_snr", "uniform", "quadratic", "karras", "linspace", "leading", "trailing")
STRATEGIES = ("clean", "noisy", "replace", "reconstruct", "keyframes", "rolling", "stream")
DRAWING: dict[str, dict[str, Any]] = {  # keyword of Pipeline's methods -> its flag, as add_argument takes it
    "steps": {"type": steps, "help": "times at which the sampler asks the model: evaluations, twice as many of heun"},
    "sampler": {
        "help": f"one of {', '.join(SAMPLERS)}, or one with options: '{{name: unipc, order: 2}}'",
        "metavar": "NAME",
    },
    "grid": {
        "help": f"how its times are spaced: {', '.join(GRIDS)}, or one with options: '{{kind: karras, ends: [-8, 6], "
        "rho: 5}', ends in log-SNR",
        "metavar": "KIND",
    },
    "lag": {"type": Whole(0), "help": "steps by which each new frame follows the one before; 0: all at once"},
    "context": {"type": Whole(), "help": "frames on which each further window looks back"},
    "seed": {"type": seed, "default": 0, "help": "same seed, same frames"},
}
GUIDING: dict[str, dict[str, Any]] = {  # the same, of guidance
    "guidance": {"type": number, "help": "scale of classifier-free guidance; 1 is the plain model"},
    "history": {
        "type": number,
        "help": "where frames are known: scale on them, label and text, in place of --guidance",
    },
    "convention": {"help": "of scales: cfg, where 1 is the plain model, or ho, where 0 is"},
    "interval": {
        "type": number,
        "nargs": 2,
        "help": "diffusion times, 0 to 1, in which to guide; at others the model is plain",
        "metavar": ("LOW", "HIGH"),
    },
    "rescale": {
        "type": number,
        "help": "0 to 1: how far a guided estimate gets the spread of the plain one, about 0.7",
    },
    "apg": {
        "type": pairs,
        "help": "adaptive projected guidance, against glaring colours: eta, radius, momentum",
        "metavar": "eta=0,...",
    },
    "threshold": {
        "type": pairs,
        "help": "dynamic thresholding of estimates: floor, below which nothing is clamped, and percentile, 99.5",
        "metavar": "floor=5,...",
    },
    "history_level": {
        "type": number,
        "help": "time at which --history shows known frames to its other branch; 1 forgets them",
        "metavar": "TIME",
    },
    "separate": {
        "action": "store_const",
        "const": True,
        "help": "--guidance on the label alone and --history on known frames alone, not on all at once",
    },
    "text_guidance": {
        "type": number,
        "help": "scale on the text alone, which is then separate",
        "metavar": "SCALE",
    },
    "action_guidance": {
        "type": number,
        "help": "scale on actions, which are always guided on by themselves",
        "metavar": "SCALE",
    },
    "control_guidance": {
        "type": number,
        "help": "scale on the video of --control, which is always guided on by itself",
        "metavar": "SCALE",
    },
    "classifier_scale": {
        "type": number,
        "metavar": "SCALE",
        "help": "of the gradient of --classifier; by default as its config says",
    },
}


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without a page of usage before it, and which option was meant.

    Where a shell asks what may follow, it answers that and ends the process: see `vidiff.cli.complete`.
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.answer_shell()
        return super().parse_args(args, namespace)

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.answer_shell()
        return super().parse_intermixed_args(args, namespace)

    def answer_shell(self) -> None:
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split() if "unrecognized" in message else []
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = [match for word in words if word.startswith("-") for match in get_close_matches(word, known, 1)]
        hint = f"did you mean {near[0]}? See" if near else "see"
        self.exit(2, f"error: {' '.join(message.split())}; {hint} {self.prog} --help\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of an option, where it has one of its own and not the run's."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def add_config(parser: argparse.ArgumentParser, config: str, changes: str) -> None:
    """A config's file and the changes to it, each with its part of the help."""
    parser.add_argument("config", type=tilde, help=config)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"changes to it, {changes}")


def add_latest(parser: argparse.ArgumentParser) -> None:
    """Which run is asked."""
    parser.add_argument("--run", type=tilde, help="a run's folder; by default the latest in runs/")


def add_device(parser: argparse.ArgumentParser) -> None:
    """What computes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Which run draws, and on what."""
    add_latest(parser)
    parser.add_argument(
        "--classifier",
        type=tilde,
        help="a classifier's run, whose gradient guides to the label in the model's place",
    )
    add_device(parser)
    add_weights(parser)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Which of the run's weights."""
    parser.add_argument(
        "--weights",
        type=os.path.expanduser,
        default="ema",
        help="ema, model (those of the last step), best, or a file of vidiff ema",
    )


def add_output(parser: argparse.ArgumentParser, out: str, fps: str) -> None:
    """Where the result goes, by default to `out`, and how fast it plays, by default as `fps` says in words."""
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        default=out,
        help=".mp4, .mov, .mkv, .webm, .gif, or a folder of .png, ending in /",
    )
    parser.add_argument("--fps", type=rate, help=f"frames per second; by default {fps}")


def add_actions(parser: argparse.ArgumentParser, frames: str) -> None:
    """What is done before each frame, in a file with a row for each of `frames`, in words."""
    parser.add_argument(
        "--actions",
        type=tilde,
        metavar="FILE",
        help=f".npy, .csv or .jsonl with a row for {frames}, for a model that learned actions",
    )


def add_control(parser: argparse.ArgumentParser, frames: str) -> None:
    """Another video of what is shown, of which the model sees as many frames as `frames` says in words."""
    parser.add_argument(
        "--control",
        type=tilde,
        metavar="FILE",
        help=f"a video such as depth or edges, by which {frames} goes, for a model that learned it (data.control)",
    )


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """How clips are drawn and guided: all that is in `DRAWING` and `GUIDING`."""
    parts = {"how clips are drawn, by default as the run's config says": DRAWING, "how they are guided": GUIDING}
    for title, flags in parts.items():
        group = parser.add_argument_group(title)
        for name, look in flags.items():
            group.add_argument(f"--{name.replace('_', '-')}", **look)


def drawing(asked: argparse.Namespace) -> dict[str, Any]:
    """What `add_drawing` read, as Pipeline's methods take it; None for what was not asked for."""
    return {name: getattr(asked, name) for name in (*DRAWING, *GUIDING)}


def load_run(asked: argparse.Namespace, enlarges: bool = False) -> tuple[Path, Pipeline]:
    """The run that `add_run` named, by default the latest that makes clips, or that enlarges them.

    Raises:
        ValueError: as `latest_run` and `Pipeline.from_pretrained`.
    """
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run

    run = asked.run or latest_run(enlarges=enlarges)
    return run, Pipeline.from_pretrained(run, asked.device, asked.weights, asked.classifier)
