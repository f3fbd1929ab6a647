"""A small feature network that sees motion, trained on the user's own clips in minutes.

It learns what clips show, where they have labels, and to tell their true order from frames that are shuffled, frozen or
in reverse (Misra et al. 2016; Wei et al. 2018). Its numbers compare models of one data set; they are not FVD.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from vidiff.metrics.degrade import DEGRADATIONS

KINDS = ("true", "shuffled", "reversed", "frozen")
SIZE = 64
"""Pixels a side of what the network sees."""


class MotionNetwork(nn.Module):
    """Clips `(b, 3, f, 64, 64)` in [-1, 1], of 2 frames or more, to features `(b, features)`.

    Over the clips that it was trained on each feature has mean 0 and variance 1: the cubic kernel of the kernel
    distance would otherwise be that of the largest few.

    Args:
        labels: number of classes, 0 for none.
        features: numbers that a clip becomes.
        width: channels of the first stage; the second and third have twice and thrice as many.
    """

    def __init__(self, labels: int = 0, features: int = 64, width: int = 32) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width)
        self.patches = nn.Conv2d(6, width, 4, 4)
        self.space = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.time = nn.ModuleList(nn.Conv2d(n, n, (3, 1), padding=(1, 0)) for n in widths)
        self.norms = nn.ModuleList(nn.GroupNorm(4, n) for n in widths)
        self.features = nn.Linear(2 * widths[-1], features)
        self.kinds = nn.Linear(features, len(KINDS))
        self.classes = nn.Linear(features, labels) if labels else None
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, video: Tensor) -> Tensor:
        return (self.plain(video) - self.get_buffer("mean")) / self.get_buffer("std")

    def plain(self, video: Tensor) -> Tensor:
        """Features as they are trained, `(b, features)`."""
        frames = video.shape[2]
        change = video.diff(dim=2, prepend=video[:, :, :1])
        x = rearrange(torch.cat([video, change], 1), "b c f h w -> (b f) c h w")
        x = self.patches(x)  # (b f) w 16 16
        for stage, (time, norm) in enumerate(zip(self.time, self.norms, strict=True)):
            if stage:
                x = self.space[stage - 1](x)  # (b f) 2w 8 8, then (b f) 3w 4 4
            height = x.shape[2]
            x = F.gelu(norm(x))
            seen = time(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames))
            x = x + rearrange(seen, "b c f (h w) -> (b f) c h w", h=height)
        x = F.gelu(rearrange(x, "(b f) c h w -> b c (f h w)", f=frames))
        return self.features(torch.cat([x.mean(-1), x.amax(-1)], 1))  # b features

    def logits(self, video: Tensor) -> Tensor:
        """`(b, labels)`. Raises ValueError for a network that was trained without labels."""
        if self.classes is None:
            raise ValueError("this network was trained on clips without labels, so it tells none")
        return self.classes(F.gelu(self.plain(video)))


def train_motion(
    clips: Tensor, labels: Tensor, seed: int = 0, steps: int = 400, batch: int = 32, progress: bool = True
) -> tuple[MotionNetwork, dict[str, float]]:
    """Train on clips: 400 steps take about two minutes on one core.

    Args:
        clips: uint8 `(n, 3, f, 64, 64)`; half of the frames of each, a random window, are seen at a time.
        labels: `(n,)` int64, -1 for none.
        seed: of the weights and of all that is drawn.

    Returns:
        the network, and `labels_right` and `kinds_right` over the last tenth of the steps.

    Raises:
        ValueError: clips of another size, fewer than 8 frames, or fewer clips than a batch.
    """
    if clips.ndim != 5 or clips.shape[3:] != (SIZE, SIZE) or clips.shape[2] < 8 or len(clips) < batch:
        raise ValueError(
            f"clips have shape {tuple(clips.shape)}; expected ({batch} or more, 3, 8 or more, {SIZE}, {SIZE})"
        )
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MotionNetwork(int(labels.max()) + 1)
    frames = clips.shape[2] // 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    right: dict[str, list[float]] = {"labels_right": [], "kinds_right": []}
    for step in tqdm(range(steps), desc="motion network", unit="step", disable=not progress):
        chosen = torch.randint(len(clips), (batch,), generator=draw)
        start = int(torch.randint(clips.shape[2] - frames + 1, (), generator=draw))
        video = clips[chosen, :, start : start + frames].float().div(127.5).sub(1)
        kind = torch.arange(batch) % len(KINDS)
        video = torch.cat([_of_kind(part, KINDS[k], draw) for k, part in _by_kind(video, kind)])
        kind, label = kind.sort(stable=True).values, labels[chosen][kind.argsort(stable=True)]
        seen = F.gelu(network.plain(video))
        loss = F.cross_entropy(kinds := network.kinds(seen), kind)
        late = step >= steps - max(1, steps // 10)
        if late:
            right["kinds_right"].append(float((kinds.argmax(1) == kind).double().mean()))
        if network.classes is not None:
            named = network.classes(seen)
            loss = loss + F.cross_entropy(named, label, ignore_index=-1)
            if late:
                right["labels_right"].append(float((named.argmax(1) == label).double().mean()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    standardise(network, clips, frames, batch)
    return network.eval(), {name: sum(values) / len(values) for name, values in right.items() if values}


@torch.no_grad()
def standardise(network: MotionNetwork, clips: Tensor, frames: int, batch: int = 32) -> None:
    """Give the network the mean and spread of its features over clips, the first and the last `frames` of each.

    Args:
        clips: uint8 `(n, 3, f, 64, 64)`.
    """
    windows = [part for video in clips.split(batch) for part in (video[:, :, :frames], video[:, :, -frames:])]
    features = torch.cat([network.plain(video.float().div(127.5).sub(1)) for video in windows]).double()
    network.get_buffer("mean").copy_(features.mean(0))
    network.get_buffer("std").copy_(features.std(0).clamp_min(1e-6))  # of a feature that tells nothing


def _by_kind(video: Tensor, kind: Tensor) -> list[tuple[int, Tensor]]:
    return [(k, video[kind == k]) for k in range(len(KINDS))]


def _of_kind(video: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Clips in one of KINDS; shuffled and frozen ones by a random amount, so that the features are graded."""
    if kind == "true":
        return video
    strength = 1.0 if kind == "reversed" else float(torch.rand((), generator=generator)) * 0.8 + 0.2
    return DEGRADATIONS[kind](video, strength, generator)


def save_motion(folder: str | Path, network: MotionNetwork, about: dict[str, Any]) -> None:
    """Write a network with its declaration, as `vidiff.metrics.features.Features.load` reads it.

    Args:
        about: anything that JSON can hold, kept as training.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "motion.safetensors")
    labels = network.classes.out_features if network.classes is not None else 0
    shape = {"labels": labels, "features": network.features.out_features, "width": network.patches.out_channels}
    declaration = {
        "name": "motion",
        "file": "motion.safetensors",
        "architecture": "motion",
        "arguments": shape,
        "size": [SIZE, SIZE],
        "resize": "bilinear",
        "range": [-1, 1],
        "layout": "bcfhw",
        "frames": [2, None],
    }
    (folder / "network.json").write_text(json.dumps(declaration, indent=1) + "\n")
    (folder / "training.json").write_text(json.dumps(about, indent=1) + "\n")
