"""Minutes of training to a peer's final error: both learn to denoise the same latents, by turns, from the same seeds.

The peer is video-diffusion-pytorch with its own schedule and average of weights. Its learning rate is chosen by trials
on the same data, and its loss is the square error, which is what is measured: that of the noise in held-out clips, each
at a time of its own, evenly over the peer's schedule. vidiff's side has its recipe, at a constant rate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
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

RATES = (3e-4, 1e-3, 3e-3)  # that are tried for the peer, whose own is 1e-4: too small for so few minutes
FRAMES, SIZE, SHRUNK = 16, 64, 8
TIMES = 1000
CPU = torch.device("cpu")
Step = Callable[[Tensor], None]
Guess = Callable[[Tensor, Tensor], Tensor]  # x_t, times (b,) of TIMES -> the noise in it


class Side:
    """What learns: it takes steps for some seconds, and tells the error of its averaged weights."""

    def __init__(self, network: nn.Module, step: Step, guess: Guess, ema: EMA, seed: int) -> None:
        self.network, self.step, self.guess, self.ema = network, step, guess, ema
        self.generator, self.random = torch.Generator().manual_seed(seed), torch.get_rng_state()
        self.seconds, self.steps = 0.0, 0
        self.curve: list[tuple[float, float]] = []  # minutes of training, error

    def learn(self, clips: Tensor, batch: int, until: float) -> None:
        """Takes steps until it has trained for so many seconds."""
        torch.set_rng_state(self.random)  # as if it were alone
        while self.seconds < until:
            begun = time.perf_counter()
            which = torch.randint(len(clips), (batch,), generator=self.generator)
            self.step(clips[which])
            self.ema.update()
            self.seconds += time.perf_counter() - begun
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
        self.curve.append((self.seconds / 60, float(torch.cat(errors).mean())))
        return self.curve[-1][1]


def ours(args: argparse.Namespace, clips: Tensor, seed: int) -> Side:
    """vidiff's recipe, told to generate alone and without labels, as the peer is; it does not know when it will end."""
    codec = ["codec.name=identity"] if args.codec is None else []
    recipe = load(args.config, ["loss.tasks={generate: 1, first: 0, random: 0, rising: 0}", *codec])
    config = sketch(recipe, args.config.parent, look=False).config
    assert isinstance(config, DiffusionRun)
    config.unet.labels, config.unet.channels = 0, clips.shape[1]
    torch.manual_seed(seed)
    objective = build_objective(config)
    options = replace(config.train.optim, decay="constant")
    optimizer, weights = build_optimizer(options, objective), [*objective.parameters()]
    ema, denoiser, taken = EMA(objective, config.train.ema), objective.denoiser, count()
    precision = automatic(objective, batch_of(clips[: args.batch]), CPU)

    def step(x: Tensor) -> None:
        rate = learning_rate(options, next(taken), 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(CPU, precision):
            loss = objective(batch_of(x))["loss"]
        loss.backward()
        clip_gradients(weights, options.clip)
        optimizer.step()
        optimizer.zero_grad()

    def guess(x_t: Tensor, times: Tensor) -> Tensor:
        t = denoiser.schedule.time_of(Cosine().log_snr((times + 1) / TIMES))
        return eps_from(denoiser.schedule, denoiser(x_t, t, Condition()).x0, x_t, t)

    return Side(objective, step, guess, ema, seed)


def theirs(args: argparse.Namespace, clips: Tensor, seed: int, rate: float) -> Side:
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

    return Side(network, step, network, EMA(network, 0.995), seed)


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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tunes the peer, trains both from every seed, and tells when vidiff got to where the peer ended."""
    torch.set_num_threads(args.threads)
    clips, held_out = data(args)
    trials = {}
    for rate in RATES:
        side = theirs(args, clips, args.seed, rate)
        side.learn(clips, args.batch, 60 * args.minutes / 10)
        trials[f"{rate:g}"] = side.look(held_out)
    best = float(min(trials, key=trials.__getitem__))
    print(f"{len(clips)} clips of {list(clips.shape[1:])}, {args.threads} threads; the peer learns best at {best:g}")
    runs = []
    for seed in range(args.seed, args.seed + args.seeds):
        sides = {"ours": ours(args, clips, seed), "theirs": theirs(args, clips, seed, best)}
        for side in sides.values():
            side.look(held_out)
        for part in tqdm(range(1, args.slices + 1), f"seed {seed}", leave=False, disable=None):
            for side in sides.values():
                side.learn(clips, args.batch, 60 * args.minutes * part / args.slices)
                side.look(held_out)
        whole, final = sides["theirs"].curve[-1]
        minutes = reached(sides["ours"].curve, final)
        run = {name: {"curve": side.curve, "steps": side.steps} for name, side in sides.items()}
        runs.append({"seed": seed, **run, "minutes": minutes, "share": None if minutes is None else minutes / whole})
        after = "never" if minutes is None else f"after {minutes:.2f} minutes"
        print(f"seed {seed}: the peer's error is {final:.4f} after {whole:.2f} minutes; vidiff's {after}", flush=True)
    sizes = {name: parameters(side.network) for name, side in sides.items()}
    given = {"minutes": args.minutes, "batch": args.batch, "codec": args.codec is not None}
    return {**given, "config": str(args.config), "trials": trials, "rate": best, "parameters": sizes, "runs": runs}


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--minutes", type=float, default=10.0, help="of training, of each side and seed")
    command.add_argument("--seeds", type=int, default=2)
    command.add_argument("--codec", type=Path, help="run of a trained autoencoder; by default frames are made small")
    command.add_argument("--config", type=Path, default=Path("configs/shapes.yaml"), help="recipe of vidiff's side")
    command.add_argument("--dim", type=int, default=48, help="width of the peer: as many parameters as the recipe's")
    command.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 4], help="of the peer, one a level")
    command.add_argument("--batch", type=int, default=16, help="clips of a step")
    command.add_argument("--clips", type=int, default=64, help="of each label to learn from; a sixteenth is held out")
    command.add_argument("--slices", type=int, default=40, help="turns, after each of which both errors are measured")
