"""Inverse dynamics: which action led from a frame to the next, read by a small network that real clips teach.

Where what was done can be read from the frames of real clips, it should be as readable in those that a model made when
it was told to do it (Baker et al. 2022, section 3, for the network; Yang et al. 2024, section 4, for the use).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from vidiff.pixels import check_video

STEPS, BATCH, RATE = 400, 64, 2e-3
LARGEST = 64  # frames that are larger are brought to this height
WIDTHS = (24, 48, 64, 64)
AROUND = 1  # frames looked at on each side


class InverseDynamics(nn.Module):
    """From a frame, the one before and the one after to what led to it, for each dimension of an action.

    The frame after is looked at since an action may show only then.

    Args:
        counts: of the values of each dimension.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__()
        self.counts = tuple(counts)
        layers, channels = list[nn.Module](), 9
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 5 if channels == 9 else 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, sum(counts))

    def forward(self, before: Tensor, frames: Tensor, after: Tensor) -> list[Tensor]:
        """Frames `(n, 3, h, w)` in [-1, 1] -> logits `(n, count)` of each dimension."""
        seen = torch.cat([frames, 2 * (frames - before), 2 * (after - frames)], 1)
        features = self.body(seen)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return list(self.head(pooled).split(self.counts, 1))

    @torch.no_grad()
    def read(self, video: Tensor) -> Tensor:
        """What led to each frame of `(b, 3, f, h, w)` but the first and the last: `(b, f - 2, dimensions)`.

        Raises:
            ValueError: fewer than three frames.
        """
        clips = _small(video)
        if video.shape[2] < 3:
            raise ValueError(f"clips have shape {tuple(video.shape)}; an action is read from 3 frames or more")
        found = []
        for clip in clips:
            x = clip.transpose(0, 1)  # f 3 h w
            found.append(torch.stack([part.argmax(1) for part in self(x[:-2], x[1:-1], x[2:])], -1))
        return torch.stack(found)


def learn(video: Tensor, actions: Tensor, counts: Sequence[int], steps: int = STEPS, seed: int = 0) -> InverseDynamics:
    """A network taught by real clips.

    Args:
        video: `(n, 3, f, h, w)` in [-1, 1].
        actions: `(n, f, dimensions)` int64, what led to each frame; below 0 where that is not known.
        counts: of the values of each dimension.
        steps: of Adam, at BATCH frames each.

    Raises:
        ValueError: no frame between two others whose action is known.
    """
    clips = _small(video)
    clip, frame = (actions[:, 1:-1] >= 0).any(-1).nonzero(as_tuple=True)
    if not len(clip):
        raise ValueError("no frame between two others has a known action: inverse dynamics has nothing to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InverseDynamics(counts)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        which = torch.randint(len(clip), (BATCH,), generator=generator)
        n, f = clip[which], frame[which] + 1
        logits = network(*(clips[n, :, f + shift] for shift in (-AROUND, 0, AROUND)))
        known = actions[n, f]  # batch dimensions
        loss = sum(
            cross_entropy(part, column, ignore_index=-1, reduction="sum") / BATCH
            for part, column in zip(logits, known.unbind(-1), strict=True)
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    return network.eval()


def accuracy(found: Tensor, told: Tensor) -> dict[str, float]:
    """How often actions are read right, means over the dimensions.

    Args:
        found: `(..., dimensions)`.
        told: the like, what was done; below 0 where that is not known, which does not count.

    Returns:
        `accuracy`; `balanced`, the mean over the actions that were done of how often each is read right, since not all
        are as frequent; and `commonest`, the accuracy of always naming the most frequent one. NaN where none is known.
    """
    rows = []
    for read, done in zip(found.flatten(0, -2).unbind(-1), told.flatten(0, -2).unbind(-1), strict=True):
        known = done >= 0
        read, done = read[known], done[known]
        right = (read == done).double()
        kinds = done.unique()
        each = torch.stack([right[done == kind].mean() for kind in kinds]) if len(kinds) else right
        most = torch.stack([(done == kind).double().mean() for kind in kinds]).max() if len(kinds) else right.mean()
        rows.append(torch.stack([right.mean(), each.mean(), most]))
    return dict(zip(("accuracy", "balanced", "commonest"), torch.stack(rows).nanmean(0).tolist(), strict=True))


def _small(video: Tensor) -> Tensor:
    check_video(video, "video", one=False)
    side = min(video.shape[-2:])
    if side <= LARGEST:
        return video.float()
    size = [round(x * LARGEST / side) for x in video.shape[-2:]]
    return torch.stack([interpolate(clip.float(), size, mode="area") for clip in video])
