"""Minutes of training to a peer's final error: both learn to denoise the same latents, by turns, from the same seeds.

The peer is video-diffusion-pytorch with its own schedule and average of weights. Its learning rate and its batch are
chosen by trials on the same data, and its loss is the square error, which is what is measured: that of the noise in
held-out clips, each at a time of its own, evenly over the peer's schedule. vidiff's side has its recipe with `CHANGES`.

A minute is one of processor time for each thread, so that what else runs on the machine takes none of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d
from tqdm import tqdm

from vidiff.data.shapes import ShapesSpec, make_clip
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import eps_from
from vidiff.diffusion.schedule import Cosine
from vidiff.engine.ema import EMA
from vidiff.engine.optim import build_optimizer, clip_gradients, learning_rate
from vidiff.engine.precision import autocast, automatic
from vidiff.evaluate.codec import open_codec
from vidiff.metrics.objects import LABELS
from vidiff.plan.sketch import sketch
from vidiff.recipe.build import build_objective
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load

from .networks import parameters
from .peers import of_video_diffusion, video_diffusion
from .timing import figures_of, worked

RATES = (3e-4, 1e-3, 3e-3)  # that are tried for the peer, whose own is 1e-4: too small for so few minutes
# What vidiff's recipe is told. The peer's loss is what is measured, so vidiff learns that too: the error of the noise,
# evenly over the times of the same schedule; generating alone; at a constant rate, for neither knows when it ends; and
# with the warm-up that `vidiff new` gives to a run of some hundred steps.
CHANGES = (
    "loss.tasks={generate: 1, first: 0, random: 0, rising: 0}",
    "loss.weighting=score_matching",
    "schedule.shift=1",
    "train.optim.decay=constant",
    "train.optim.warmup=10",
)
FRAMES, SIZE, SHRUNK, TIMES = 16, 64, 8, 1000
CPU = torch.device("cpu")
Step = Callable[[Tensor], None]
Guess = Callable[[Tensor, Tensor], Tensor]  # x_t, times (b,) of TIMES -> the noise in it


class Side:
    """What learns: it takes steps for some seconds, and tells the error of its averaged weights."""

    def __init__(self, network: nn.Module, step: Step, guess: Guess, ema: EMA, batch: int, seed: int) -> None:
        self.network, self.step, self.guess, self.ema, self.batch = network, step, guess, ema, batch
        self.generator, self.random = torch.Generator().manual_seed(seed), torch.get_rng_state()
        self.seconds, self.steps, self.seen = 0.0, 0, 0
        self.curve: list[tuple[float, float]] = []  # minutes of training, error

    def learn(self, clips: Tensor, until: float) -> None:
        """Takes steps until it has trained for so many seconds."""
        torch.set_rng_state(self.random)  # as if it were alone
        while self.seconds < until:
            begun = worked()
            which = torch.randint(len(clips), (self.batch,), generator=self.generator)
            self.step(clips[which])
            self.ema.update()
            self.seconds += worked() - begun
            self.steps += 1
        self.random = torch.get_rng_state()

    @torch.no_grad()
    def look(self, held_out: Tensor) -> float:
        """The error now, which the curve keeps."""
        generator = torch.Generator().manual_seed(1)
        times = ((torch.arange(len(held_out)) + 0.5) * TIMES / len(held_out)).long()
        noise = torch.randn(held_out.shape, generator=generator)
        alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in Cosine()((times + 1) / TIMES))
        errors = []
        self.network.eval()
        with self.ema.swapped():
            for part in torch.arange(len(held_out)).split(16):
                x_t = alpha[part] * held_out[part] + sigma[part] * noise[part]
                errors.append((self.guess(x_t, times[part]) - noise[part]).square().mean(dim=(1, 2, 3, 4)))
        self.network.train()
        self.seen = self.steps
        self.curve.append((self.seconds / 60, float(torch.cat(errors).mean())))
        return self.curve[-1][1]


def ours(args: argparse.Namespace, clips: Tensor, seed: int) -> Side:
    """vidiff's recipe with `CHANGES`, and without labels, as the peer is."""
    codec = ["codec.name=identity"] if args.codec is None else []
    recipe = load(args.config, [*codec, *CHANGES, *args.set])
    config = sketch(recipe, args.config.parent, look=False).config
    assert isinstance(config, DiffusionRun)
    config.unet.labels, config.unet.channels = 0, clips.shape[1]
    torch.manual_seed(seed)
    objective = build_objective(config)
    options = config.train.optim
    optimizer, weights = build_optimizer(options, objective), [*objective.parameters()]
    ema, denoiser, taken = EMA(objective, config.train.ema), objective.denoiser, count()
    precision = automatic(objective, batch_of(clips[: args.batch]), CPU)

    def step(x: Tensor) -> None:
        rate = learning_rate(options, next(taken), config.train.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(CPU, precision):
            loss = objective(batch_of(x))["loss"]
        loss.backward()
        clip_gradients(weights, options.clip)
        with autocast(CPU, precision):  # as `vidiff.engine.loop` has it
            optimizer.step()
        optimizer.zero_grad()

    def guess(x_t: Tensor, times: Tensor) -> Tensor:
        t = denoiser.schedule.time_of(Cosine().log_snr((times + 1) / TIMES))
        return eps_from(denoiser.schedule, denoiser(x_t, t, Condition()).x0, x_t, t)

    return Side(objective, step, guess, ema, args.batch, seed)


def theirs(args: argparse.Namespace, clips: Tensor, seed: int, rate: float, batch: int) -> Side:
    """video-diffusion-pytorch as its trainer has it: Adam at a constant rate, and an average of weights."""
    torch.manual_seed(seed)
    network = of_video_diffusion(args.dim, tuple(args.multipliers), clips.shape[1]).network
    loss = video_diffusion().GaussianDiffusion(
        network, image_size=clips.shape[-1], num_frames=FRAMES, channels=clips.shape[1], timesteps=TIMES, loss_type="l2"
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)

    def step(x: Tensor) -> None:
        loss.p_losses(x, torch.randint(TIMES, (len(x),))).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Side(network, step, network, EMA(network, 0.995), batch, seed)


def batch_of(x: Tensor) -> dict[str, Tensor]:
    return {"mean": x, "std": torch.zeros_like(x)}


def data(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Clips to learn from and held-out ones, `(n, c, f, h, w)`, of unit variance per channel: latents of `--codec`, or
    without it frames of an eighth of the size."""
    codec = None if args.codec is None else open_codec(args.codec)

    def read(split: str, each: int) -> Tensor:
        spec = ShapesSpec(size=SIZE, frames=FRAMES, train=each, test=each, seed=0)
        found = []
        for label in LABELS:
            for number in range(each):
                video = make_clip(spec, split, label, number).video(FRAMES)[None]
                found.append(avg_pool3d(video, (1, SHRUNK, SHRUNK)) if codec is None else codec.encode(video).mean)
        return torch.cat(found)

    train, test = read("train", args.clips), read("test", max(1, args.clips // 16))
    mean = train.mean(dim=(0, 2, 3, 4), keepdim=True)
    std = train.std(dim=(0, 2, 3, 4), keepdim=True)
    return (train - mean) / std, (test - mean) / std


def reached(curve: list[tuple[float, float]], error: float) -> float | None:
    """Minutes at which a curve first comes down to an error, on straight lines between its points; None if never."""
    for (before, high), (after, low) in zip([curve[0], *curve], curve, strict=False):
        if low <= error:
            return after if high <= low or high <= error else before + (after - before) * (high - error) / (high - low)
    return None


def tuned(args: argparse.Namespace, clips: Tensor, held_out: Tensor) -> tuple[dict[str, Any], Side]:
    """What is found of the peer by trials of a tenth of the time: first of rates, then of batches. And the side of the
    best one, which has learned for as long."""
    best: tuple[float, float, int, Side] | None = None
    trials = []
    for batch in args.batches:
        for rate in RATES if best is None or batch == args.batches[0] else [best[1]]:
            side = theirs(args, clips, args.seed, rate, batch)
            side.learn(clips, 60 * args.minutes / 10)
            error = side.look(held_out)
            trials.append({"rate": rate, "batch": batch, "error": error, "steps": side.steps})
            print(f"the peer at {rate:g}, batches of {batch}: {error:.4f} after {side.steps} steps", flush=True)
            if best is None or error < best[0]:
                best = error, rate, batch, side
    assert best is not None
    return {"trials": trials, "rate": best[1], "batch": best[2]}, best[3]


def train(args: argparse.Namespace, sides: dict[str, Side], goal: float | None, data: tuple[Tensor, Tensor]) -> None:
    """Both sides learn by turns, until each has had its time. An interrupt ends it earlier.

    Args:
        goal: the peer's error at its end, where that is known already.
    """
    clips, held_out = data
    whole, part, going = 60 * args.minutes, 60 * args.minutes / args.slices, True
    for side in sides.values():
        if not side.curve:
            side.look(held_out)  # before an interrupt may come: what is kept has a curve of each
    try:
        with tqdm(total=len(sides) * args.slices, leave=False, disable=None) as bar:
            while going:
                going = False
                for name, side in sides.items():
                    waits = args.stop and name == "ours" and ahead(side, sides.get("theirs"), goal)
                    if waits or side.seconds >= whole:
                        continue
                    side.learn(clips, min(whole, part * (side.seconds // part + 1)))
                    side.look(held_out)
                    bar.update()
                    going = True
    except KeyboardInterrupt:
        print("interrupted: what was measured so far counts")


def ahead(side: Side, peer: Side | None, goal: float | None) -> bool:
    """Whether a side has come to the peer's error at its end, or where that is not known to the latest."""
    if goal is None and peer is not None:
        goal = peer.curve[-1][1]
    return goal is not None and bool(side.curve) and side.curve[-1][1] <= goal


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tunes the peer, trains both from every seed, and tells when vidiff got to where the peer ended."""
    torch.set_num_threads(args.threads)
    clips, held_out = data(args)
    given = {name: vars(args)[name] for name in ("minutes", "clips", "slices", "seed", "seeds", "threads", "dim")}
    given["codec"] = args.codec is not None
    print(f"{len(clips)} clips of {list(clips.shape[1:])}, {args.threads} threads", flush=True)
    known = peer_of(args.json, given) if args.sides == "ours" else None
    if args.sides != "ours":
        peer, first = tuned(args, clips, held_out)
    found: list[dict[str, Any]] = []
    for number, seed in enumerate(range(args.seed, args.seed + args.seeds)):
        sides: dict[str, Side] = {}
        if args.sides != "ours":
            sides["theirs"] = theirs(args, clips, seed, peer["rate"], peer["batch"]) if number else first
        if args.sides != "theirs":
            sides["ours"] = ours(args, clips, seed)
        goal = None if known is None else known["runs"][number]["theirs"]["curve"][-1][1]
        train(args, sides, goal, (clips, held_out))
        found.append({})
        for name, side in sides.items():
            found[-1][name] = {"curve": side.curve, "steps": side.seen, "parameters": parameters(side.network)}
    if args.sides == "ours":
        while (known := peer_of(args.json, given)) is None:  # the other process has it soon
            time.sleep(5)
        peer, found = known["peer"], [before | now for before, now in zip(known["runs"], found, strict=True)]
    runs = [{"seed": args.seed + number, **sides, **outcome(sides)} for number, sides in enumerate(found)]
    changes = [*CHANGES, *args.set]
    return {**given, "config": str(args.config), "changes": changes, "batch": args.batch, "peer": peer, "runs": runs}


def peer_of(path: Path | None, given: dict[str, Any]) -> dict[str, Any] | None:
    """The peer's figures in a file; None where there are none yet. Raises ValueError for those of something else."""
    if path is None:
        raise ValueError("--sides ours needs --json, with the figures of --sides theirs")
    known = figures_of(path).get("quality")
    odd = [name for name, value in given.items() if known is not None and known.get(name) != value]
    if odd:
        raise ValueError(f"--sides ours: the peer in {path} had another {', '.join(odd)}; run --sides theirs anew")
    return known


def outcome(sides: dict[str, Any]) -> dict[str, float | None]:
    """When vidiff got to where the peer ended, in minutes and as a share of the peer's; None if it did not."""
    whole, final = sides["theirs"]["curve"][-1]
    minutes = reached(sides["ours"]["curve"], final) if "ours" in sides else None
    after = "never" if minutes is None else f"after {minutes:.2f} minutes"
    own = f"; vidiff's {after}" if "ours" in sides else ""
    print(f"the peer's error is {final:.4f} after {whole:.2f} minutes{own}", flush=True)
    return {"minutes": minutes, "share": None if minutes is None or not whole else minutes / whole}


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--minutes", type=float, default=10.0, help="of training, of each side and seed")
    command.add_argument("--seeds", type=int, default=2)
    command.add_argument("--codec", type=Path, help="run of a trained autoencoder; by default frames are made small")
    command.add_argument("--config", type=Path, default=Path("configs/shapes.yaml"), help="recipe of vidiff's side")
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further changes to the recipe")
    command.add_argument("--dim", type=int, default=48, help="width of the peer: as many parameters as the recipe's")
    command.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 4], help="of the peer, one a level")
    command.add_argument("--batch", type=int, default=4, help="clips of a step of vidiff's")
    command.add_argument("--batches", type=int, nargs="+", default=[4, 16], help="that are tried for the peer")
    command.add_argument("--clips", type=int, default=64, help="of each label to learn from; a sixteenth is held out")
    command.add_argument("--slices", type=int, default=40, help="turns, after each of which both errors are measured")
    command.add_argument("--stop", action="store_true", help="vidiff waits while its error is below the peer's")
    alone = "one alone; ours waits for the peer's figures in --json"
    command.add_argument("--sides", choices=["both", "theirs", "ours"], default="both", help=alone)
