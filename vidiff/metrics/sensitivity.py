"""What a feature network can see: how far clips move away from real ones as they are made worse by known amounts.

A network whose distance does not grow as frames are shuffled or frozen judges pictures, not motion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.metrics.degrade import DEGRADATIONS
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.3, 0.4, 0.6),
    "blur": (0.1, 0.2, 0.4, 0.7, 1.0),
    "shuffled": (0.125, 0.25, 0.4, 0.6, 0.8),  # more is hardly more out of order
    "frozen": (0.2, 0.4, 0.6, 0.8, 1.0),
    "reversed": (0.2, 0.4, 0.6, 0.8, 1.0),
    "missing classes": (0.2, 0.4, 0.6, 0.8, 0.9),
}
"""Of the functions in `degrade`; of missing classes, the share of classes of which no clip is left."""


MOTION = ("shuffled", "reversed", "frozen")
"""Those of them that leave every frame as it is."""


def sensitivity(
    features: Callable[[Tensor], Tensor],
    real: Tensor,
    clips: Tensor,
    labels: Tensor,
    strengths: Mapping[str, tuple[float, ...]] = STRENGTHS,
    seed: int = 0,
    batch: int = 8,
    progress: bool = True,
) -> dict[str, list[float]]:
    """The Fréchet distance of worsened clips to real ones.

    Args:
        features: a network, clips `(b, 3, f, h, w)` -> `(b, d)`.
        real: clips `(n, 3, f, h, w)`.
        clips: other real ones `(m, 3, f, h, w)`, which are made worse.
        labels: `(m,)`, of `clips`; without two classes or more, none can be missing, and that row is left out.
        strengths: for each kind, rising.

    Returns:
        for each kind the distances, first that of the clips as they are: the floor.

    Raises:
        ValueError: an unknown kind; as `frechet_distance`.
    """
    unknown = [kind for kind in strengths if kind not in STRENGTHS]
    if unknown:
        raise ValueError(f"no such way to make clips worse: {', '.join(unknown)}; choose {', '.join(STRENGTHS)}")
    classes = labels[labels >= 0].unique()
    shown = {kind: levels for kind, levels in strengths.items() if kind in DEGRADATIONS}
    with tqdm(total=2 + sum(map(len, shown.values())), desc="sensitivity", disable=not progress) as bar:

        def seen(video: Tensor) -> Tensor:
            values = torch.cat([features(part) for part in video.split(batch)])
            bar.update()
            return values

        truth, plain = Statistics.of(seen(real)), seen(clips)
        floor = frechet_distance(truth, Statistics.of(plain))
        rows = {}
        for kind, levels in strengths.items():
            if kind in shown:
                draw = torch.Generator().manual_seed(seed)
                worse = [seen(DEGRADATIONS[kind](clips, level, draw)) for level in levels]
            elif len(classes) > 1:
                kept = [classes[: max(1, len(classes) - round(level * len(classes)))] for level in levels]
                worse = [plain[torch.isin(labels, some)] for some in kept]
            else:
                continue
            rows[kind] = [floor, *(frechet_distance(truth, Statistics.of(values)) for values in worse)]
    return rows


def damaged(features: Callable[[Tensor], Tensor], video: Tensor, seed: int) -> dict[str, Tensor]:
    """Features of clips whose motion is spoiled as far as `STRENGTHS` goes: "worse shuffled", reversed and frozen."""
    draw = torch.Generator().manual_seed(seed)
    return {f"worse {k}": features(DEGRADATIONS[k](video, STRENGTHS[k][-1], draw)) for k in MOTION}


def sensitivity_table(rows: Mapping[str, list[float]], strengths: Mapping[str, tuple[float, ...]] = STRENGTHS) -> str:
    """The distances as Markdown, with the last as a multiple of the floor, and whether they grow at each strength."""
    lines = ["| | as they are | 1 | 2 | 3 | 4 | 5 | 5 to floor | grows |", "|---|" + "---:|" * 7 + "---|"]
    for kind, values in rows.items():
        grows = all(a < b for a, b in itertools.pairwise(values))
        numbers = " | ".join(f"{value:.4g}" for value in values)
        levels = ", ".join(f"{level:g}" for level in strengths[kind])
        lines.append(f"| {kind} ({levels}) | {numbers} | {values[-1] / values[0]:.3g} | {'yes' if grows else 'no'} |")
    return "\n".join(lines)


def sensitivity_page(
    parts: Sequence[tuple[Features, int, Mapping[str, list[float]]]], about: str, revision: str
) -> str:
    """The tables of (network, clips of each set, distances) as a Markdown page, with how to read them."""
    lines = [PAGE.format(about=about, revision=revision)]
    for network, clips, rows in parts:
        lines.append(f"## {network.name}\n")
        lines.append(f"`{network.called('frechet')}`, {clips} clips against {clips}; SHA-256 `{network.sha256}`.\n")
        lines.append(sensitivity_table(rows) + "\n")
        blind = [kind for kind, values in rows.items() if max(values[1:]) < BLIND * values[0]]
        if blind:
            lines.append(f"It hardly sees clips that are {', '.join(blind)}: less than {BLIND:g} times the floor.\n")
    return "\n".join(lines)


BLIND = 2.0
"""Multiple of the floor below which a network counts as blind to a kind of damage."""

PAGE = """# What the metrics see

Written by `tools/sensitivity.py` at revision `{revision}`, on {about}.

Each row makes held-out clips worse in one way, at five rising strengths (in brackets; `vidiff/metrics/degrade.py` has
the units), and gives the Fréchet distance of their features to other held-out clips. The strengths were chosen with a
first result in view, so that they span what can be told apart on these clips; they are no blind test. A network that is
to judge motion must move away as frames are shuffled or frozen. Where motion looks alike in both directions, as that of
bouncing objects does, no network can tell clips that are reversed.

Numbers of different networks do not compare, nor do numbers of one network at different numbers of clips. FVD is
the name for I3D's features alone.
"""
