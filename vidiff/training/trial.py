"""Autoencoders on trial: each learns a folder's own clips for a while, and what it keeps of held-out ones decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from vidiff.codec.codec import VAECodec
from vidiff.data.index import Index
from vidiff.engine.optim import build_optimizer, clip_gradients
from vidiff.engine.parallel import processes
from vidiff.plan.codecs import CodecChoice, candidates
from vidiff.plan.draft import codec_config
from vidiff.plan.footage import Footage
from vidiff.plan.shape import Machine, Shape, choose_shape
from vidiff.recipe.build import build_vae_objective
from vidiff.recipe.kinds import VAERun
from vidiff.training.datasets import batches, clip_dataset
from vidiff.training.indexes import make_indexes
from vidiff.training.kept import Kept, measure

WARMUP, LEAST = 10, 3  # steps in which the rate rises, and that are taken whatever the time
NEAR_SHARE, NEAR_PSNR = 0.05, 0.5  # of what moves, and dB, by which the best is not worth larger latents
TOLD = 0.2  # share of what moves that one must keep, or all have learned too little to be told apart


@dataclass(frozen=True)
class Trial:
    """An autoencoder that was tried.

    Attributes:
        steps: that it took in the time.
        kept: of held-out clips.
    """

    codec: CodecChoice
    steps: int
    kept: Kept

    def __str__(self) -> str:
        return f"{self.codec}, {self.steps} steps: {self.kept}"


def try_codecs(name: str, footage: Footage, machine: Machine, size: int, seconds: float) -> CodecChoice:
    """The autoencoder that suits clips best, of those that their size makes likely, each trained for so many seconds.

    They are trained on what is here, whatever the machine that the recipe is for.

    Args:
        name: of the run, for what is shown.
        size: of the frames, in pixels.

    Returns:
        the choice, with what was found in `tried`.

    Raises:
        ValueError: frames of this size have no autoencoder; one diverged.
    """
    shapes = [choose_shape(footage, machine, size, codec) for codec in candidates(size)]
    if not shapes:
        raise ValueError(
            f"frames of {size} px are learned as they are, so no autoencoder is to be tried: leave --trial out"
        )
    trials = [tried(codec_config(name, footage, machine, shape), shape, seconds) for shape in shapes]
    best = choose(trials)
    found = [f"{trial}{' (taken)' * (trial is best)}" for trial in trials]
    took = f"by a trial of {seconds:g} s each on these clips"
    if not told_apart(trials):
        took = f"by the table for this size, since a trial of {seconds:g} s each on these clips was too short to tell"
    why = f"{best.codec}: {took}; of {best.kept.clips} held-out windows were kept"
    return replace(best.codec, why=why, tried=tuple(found))


def tried(config: VAERun, shape: Shape, seconds: float) -> Trial:
    """Train an autoencoder for a while, and send held-out clips through it as a model will see them."""
    index, held_out = make_indexes(config)
    with processes(config.device) as group:
        codec, steps = learn(config, index, seconds, group.device, f"{shape.codec}")
        data = replace(config.data, frames=shape.frames, stride=[1, 1], flip=False)
        kept, _ = measure(replace(config, data=data), codec, held_out, group.device)
    trial = Trial(shape.codec, steps, kept)
    tqdm.write(f"tried {trial}")
    return trial


def learn(config: VAERun, index: Index, seconds: float, device: torch.device, title: str) -> tuple[VAECodec, int]:
    """A training that is bounded by time instead of steps, with nothing kept, averaged or resumed.

    The rate falls to 0 as the time runs out, which begins with the first batch, so that autoencoders of any speed are
    compared at the end of a schedule.

    Returns:
        the autoencoder, and how many steps it took.

    Raises:
        ValueError: its loss is not finite.
    """
    torch.manual_seed(config.train.seed)
    objective = build_vae_objective(config).to(device)
    rate, steps, began = config.train.optim.lr, 0, 0.0
    optimizer = build_optimizer(config.train.optim, objective)
    feed = batches(config, clip_dataset(config, index, changed=True))(0)
    with tqdm(total=seconds, desc=title, bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}", leave=False) as bar:
        for batch in feed:
            began = began or time.perf_counter()
            bar.n = min(seconds, time.perf_counter() - began)
            if steps >= LEAST and bar.n >= seconds:
                break
            for settings in optimizer.param_groups:
                settings["lr"] = rate * min((steps + 1) / WARMUP, max(1 - bar.n / seconds, 0.1))
            found = objective({"video": batch["video"].to(device)})
            if not found["loss"].isfinite():
                raise ValueError(f"{title}: the loss is not finite after {steps} steps; take --trial out")
            found["loss"].backward()
            clip_gradients(list(objective.parameters()), config.train.optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            bar.set_postfix_str(f"step {steps}, PSNR {float(found['psnr']):.1f} dB")
    codec = VAECodec(config.vae)
    codec.network.load_state_dict(objective.network.state_dict())
    return codec.to(device).eval().requires_grad_(False), steps


def choose(trials: Sequence[Trial]) -> Trial:
    """The trial with the smallest latents, first by place and then by channels, of those that are nearly the best: by
    what is kept of what moves, or by PSNR where nothing does. The first, which is the table's, where all have learned
    too little.
    """
    moving = [trial.kept.moving for trial in trials if trial.kept.moving is not None]
    if not told_apart(trials):
        return trials[0]
    scores, near = (moving, NEAR_SHARE) if moving else ([trial.kept.psnr for trial in trials], NEAR_PSNR)
    good = [trial for trial, score in zip(trials, scores, strict=True) if score >= max(scores) - near]
    return min(good, key=lambda trial: (-trial.codec.factor, trial.codec.channels))


def told_apart(trials: Sequence[Trial]) -> bool:
    """Whether some autoencoder keeps enough of what moves for a choice; where nothing moves, any keeps enough."""
    return any(trial.kept.moving is None or trial.kept.moving >= TOLD for trial in trials)
