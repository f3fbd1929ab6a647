"""Drawing clips: the share of the time that the network has, what guidance costs, and memory as a clip goes on."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.codec.codec import VAECodec
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import first_frames
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.edit import extend as extended
from vidiff.draw.guide import Guide
from vidiff.draw.window import Draw
from vidiff.recipe.load import load_codec_config
from vidiff.recipe.slots import build_sampler
from vidiff.video.writer import VideoWriter

from .fresh import forget_peak, held, peak, run_fresh
from .networks import config, ours
from .peers import video_diffusion
from .timing import in_turns, ratio, spread
from .untrained import draws, untrained

SAMPLERS = ("dpmpp_2m", "unipc", "deis", "ddim", "heun", "ddpm")


@dataclass
class Watch:
    """Seconds that a network has taken, and clips that it has looked at."""

    seconds: float = 0.0
    clips: int = 0

    @contextmanager
    def over(self, network: nn.Module) -> Iterator[None]:
        begun: list[float] = []

        def before(module: nn.Module, given: Any) -> None:
            begun.append(time.perf_counter())

        def after(module: nn.Module, given: Any, output: Tensor) -> None:
            self.seconds += time.perf_counter() - begun.pop()
            self.clips += len(output)

        hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def once(draw: Draw, past: Tensor, known: int, condition: Condition) -> Tensor:
    """One window, of which the first frames are known."""
    return draw(past, first_frames(past.shape[2], known), condition)


def sample(args: argparse.Namespace) -> dict[str, Any]:
    """How much of the time of a draw the network has, by sampler."""
    torch.set_num_threads(args.threads)
    recipe, draw, past, condition = draws(args)
    rows = []
    print(f"{args.config}, one window with guidance {args.guidance:g}, {args.steps} steps, {args.threads} threads")
    for name in SAMPLERS:
        chosen, context = replace(draw, sampler=build_sampler({"name": name})), recipe.sampling.context
        once(chosen, past, context, condition)
        shares, seconds = [], []
        for _ in range(args.rounds):
            watch, begun = Watch(), time.perf_counter()
            with watch.over(draw.denoiser.network):  # type: ignore[attr-defined]
                once(chosen, past, context, condition)
            seconds.append(time.perf_counter() - begun)
            shares.append(watch.seconds / seconds[-1])
        share = {"median": statistics.median(shares), "min": min(shares), "max": max(shares)}
        rows.append({"sampler": name, "seconds": statistics.median(seconds), "share": share})
        print(f"{name:<12}{rows[-1]['seconds']:>8.2f} s, in the network " + "{median:.1%}".format(**share), flush=True)
    return {"config": str(args.config), "steps": args.steps, "rows": rows}


def guidance(args: argparse.Namespace) -> dict[str, Any]:
    """What each kind of guidance takes, over a plain draw; and a guided pass of each side over a plain one."""
    torch.set_num_threads(args.threads)
    recipe, draw, past, condition = draws(args)
    context = recipe.sampling.context
    plain = replace(draw, guidance=1.0, history=None)
    apg = {"eta": 0.0, "radius": 15.0, "momentum": -0.5}
    ways = {
        "none": plain,
        "label": replace(draw, history=None),
        "label and history at once": draw,
        "each by itself": replace(draw, history=1.0 + args.guidance, guide=Guide(separate=True)),  # equal scales share
        "projected (APG)": replace(draw, guide=Guide(apg=apg)),
        "in the interval 0.2 to 0.8": replace(draw, guide=Guide(interval=[0.2, 0.8])),
    }
    works = {name: partial(once, way, past, context, condition) for name, way in ways.items()}
    clips = {}
    for name, work in works.items():
        watch = Watch()
        with watch.over(draw.denoiser.network):  # type: ignore[attr-defined]
            work()
        clips[name] = watch.clips
    seconds = in_turns(works, args.rounds)
    rows = [
        {
            "name": name,
            "seconds": statistics.median(column),
            "clips": clips[name] / clips["none"],
            "ratio": ratio(column, seconds["none"]),
        }
        for name, column in seconds.items()
    ]
    print(
        f"{args.config}, one window, {args.steps} steps, {args.threads} threads: time, and clips that the network sees"
    )
    for row in rows:
        print(f"{row['name']:<28}{spread(row['ratio']):>22} times the time, {row['clips']:.2f} times the clips")
    sides = passes(args)
    print("a guided pass over a plain one: " + ", ".join(f"{name} {spread(each)}" for name, each in sides.items()))
    return {"config": str(args.config), "steps": args.steps, "rows": rows, "passes": sides}


def passes(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One pass with a label's guidance over one without, of vidiff's and of video-diffusion-pytorch's network."""
    x = torch.randn(4, 4, 16, 16, 16)
    plan = replace(config(64, (1, 2, 4), (2, 2, 2)), labels=8)
    network, label = ours(plan).network.eval(), Condition(torch.zeros(4, dtype=torch.long))
    denoiser = Denoiser(network, Cosine(), "v")
    theirs = video_diffusion().Unet3D(dim=64, dim_mults=(1, 2, 4), channels=4, cond_dim=16).eval()
    given, t = torch.randn(4, 16), torch.arange(4) * 250
    guided = ClassifierFree(denoiser, {"label": 2.0})
    works: dict[str, Callable[[], object]] = {
        "vidiff": lambda: denoiser(x, 0.5, label),
        "vidiff guided": lambda: guided(x, 0.5, label),
        "theirs": lambda: theirs(x, t, cond=given),
        "theirs guided": lambda: theirs.forward_with_cond_scale(x, t, cond=given, cond_scale=2.0),
    }
    with torch.no_grad():
        seconds = in_turns(works, args.rounds)
    return {
        "vidiff": ratio(seconds["vidiff guided"], seconds["vidiff"]),
        "video-diffusion-pytorch": ratio(seconds["theirs guided"], seconds["theirs"]),
    }


def extend(args: argparse.Namespace) -> dict[str, Any]:
    """Memory and time of a clip that goes on by ten windows, against one."""
    given = {"config": str(args.config), "steps": args.steps, "guidance": args.guidance}
    more = {"windows": args.windows, "threads": args.threads, "seed": args.seed}
    found = run_fresh("benchmarks.drawing:extension", **given, **more)
    ratios = {name: found[name][-1] / found[name][0] for name in ("peak", "grown")}
    later = statistics.median(found["seconds"][1:]) / found["seconds"][0]
    print(
        f"{args.config}, {args.windows} windows, written as they come; a process of its own, {args.threads} threads\n"
        f"peak after the first {found['peak'][0] / 2**20:.0f} MiB, after all {found['peak'][-1] / 2**20:.0f} MiB: "
        f"{ratios['peak']:.3f} times\nwithout what the process held before, {ratios['grown']:.3f} times\n"
        f"a window takes {statistics.median(found['seconds']):.2f} s, a later one {later:.2f} times the first"
    )
    return found | {**given, "windows": args.windows, "ratio": ratios, "later": later}


def extension(
    config: str, steps: int, guidance: float, windows: int, threads: int, seed: int
) -> dict[str, list[float]]:
    """After each window: the peak so far, what that is beyond what was held before, and the seconds of the window."""
    torch.set_num_threads(threads)
    args = argparse.Namespace(config=Path(config), steps=steps, guidance=guidance, seed=seed)
    recipe, draw, _, condition = draws(args)
    codec = VAECodec(load_codec_config(recipe, args.config.parent).vae).eval().requires_grad_(False)
    context, size = recipe.sampling.context, recipe.data.size
    assert isinstance(size, int)
    clip = torch.rand(1, 3, context, size, size) * 2 - 1
    found: dict[str, list[float]] = {"peak": [], "grown": [], "seconds": []}
    forget_peak()
    before, begun = held(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), VideoWriter(Path(folder) / "clip.mp4") as writer:
        writer.write(clip[0])
        frames = windows * (draw.window - context)
        for piece in extended(draw, codec, clip, frames, context, condition):
            writer.write(piece[0])
            now = time.perf_counter()
            found["seconds"].append(now - begun)
            found["peak"].append(max([peak(), *found["peak"][-1:]]))  # counted by threads: a later one may read less
            found["grown"].append(peak() - before)
            begun = now
    return found


def sample_options(command: argparse.ArgumentParser) -> None:
    untrained(command)
    command.set_defaults(steps=20)


def extend_options(command: argparse.ArgumentParser) -> None:
    untrained(command)
    command.add_argument("--windows", type=int, default=10, help="of the whole extension")
