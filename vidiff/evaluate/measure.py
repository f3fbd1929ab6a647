"""From features of real and of made clips to named scores; what cannot be told is left out with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, checked, extrapolated, frechet_distance, frechet_interval
from vidiff.metrics.motion import NO_FLOW, has_flow, motion_measures, warping_error
from vidiff.metrics.prediction import MOVING, MOVING_OF_LAST
from vidiff.metrics.sensitivity import BLIND
from vidiff.metrics.sets import copied, inception_score, kernel_distance, precision_recall

Views = Mapping[str, Tensor]
"""What `read_features` returns for all clips of a set."""


@dataclass
class Scores:
    """Scores by name, why others are not there, and what to mind."""

    values: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    def add(self, name: str, compute: Callable[[], Any]) -> None:
        """Adds what `compute` returns, or the reason of its ValueError."""
        try:
            self.values[name] = compute()
        except ValueError as error:
            self.left_out[name] = str(error)


def read_features(network: Features, video: Tensor) -> dict[str, Tensor]:
    """What the network says of clips `(b, 3, f, h, w)`: features, and class logits where there are any."""
    logits = network.logits(video)
    return {"features": network(video)} | ({} if logits is None else {"logits": logits})


def look_at_motion(video: Tensor) -> dict[str, Tensor]:
    """How clips `(b, 3, f, h, w)` move, without a network, as "motion ..."; the flow only where it can be had."""
    if video.shape[2] < 3:
        return {}
    measures = motion_measures(video) | (warping_error(video) if has_flow() else {})
    return {f"motion {name.replace('_', ' ')}": value for name, value in measures.items()}


def measure(
    network: Features,
    real: Views,
    made: Views,
    training: Views | None = None,
    decoded: Views | None = None,
    seed: int = 0,
    in_all: int | None = None,
) -> Scores:
    """Score made clips against real ones.

    Args:
        real, made: of held-out and of made clips.
        training: of training clips: as many as the real ones, which are the floor, and then any others; from all of
            them memorisation is told.
        decoded: of the held-out clips after the codec: the ceiling.
        seed: of all resampling.
        in_all: how many training clips there are, those that are not in `training` too; None where that is not known.

    Returns:
        scores, each named after the network; the floor's and the ceiling's begin with "floor" and "ceiling".

    Raises:
        ValueError: fewer than two clips of a set, or features that are not finite: then no score means anything.
    """
    scores, called = Scores(), network.called
    x, y = real["features"], made["features"]
    for title, features in (("real", x), ("made", y)):
        checked(features, f"network {network.name} on {title} clips: features")
    if min(len(x), len(y)) <= x.shape[1]:
        scores.cautions.append(
            f"{min(len(x), len(y))} clips for {x.shape[1]} features: Fréchet distances of so few are far above those "
            "of many, and compare only at this number of clips"
        )

    def draw() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def frechet(a: Tensor, b: Tensor) -> float:
        return frechet_distance(Statistics.of(a, "real"), Statistics.of(b, "made"))

    def kernel(a: Tensor, b: Tensor) -> list[float]:
        return list(kernel_distance(a, b))

    name = called("frechet")
    scores.values[name] = frechet(x, y)
    scores.add(f"{name} interval of 95 %", lambda: list(frechet_interval(x, y, draw())))
    scores.add(f"{name} for infinitely many clips", lambda: extrapolation(x, y, draw()))
    scores.add(f"{called('kernel')} and standard error", partial(kernel, x, y))
    scores.add(f"{called('precision, recall')}", lambda: list(precision_recall(x, y)))
    if "logits" in made:
        splits = max(1, min(10, len(y) // 50))
        name = f"inception score[{network.name}] in {splits} parts and standard deviation"
        scores.add(name, lambda: list(inception_score(shuffled_rows(made["logits"], seed), splits)))
    else:
        scores.left_out["inception score"] = f"network {network.name} tells no classes"
    for part, other, reason in (
        ("floor", training, "the data has no training split beside the held-out one"),
        ("ceiling", decoded, "clips from a folder have no codec"),
    ):
        if other is None:
            scores.left_out[part] = reason
            continue
        against = other["features"][: len(x)]
        scores.add(f"{part} {called('frechet')}", partial(frechet, x, against))
        scores.add(f"{part} {called('kernel')} and standard error", partial(kernel, x, against))
    if training is not None:
        known = training["features"]
        searched = f"{len(known)} {'' if in_all is None else f'of {in_all} '}training clips searched"
        name = f"share of clips nearer to training than 95 % of held-out clips, {searched}"
        scores.add(name, lambda: copied(y, known, x))
    if not has_flow():
        scores.left_out["motion warping error"] = NO_FLOW
    if "worse frozen" in real:
        add_sight(scores, network, real)
    for key in (key for key in made if key.startswith("motion ") or key == "CLIP score"):
        scores.values[key] = float(made[key].mean())
        scores.values[f"real {key}"] = float(real[key].mean())
    return scores


def add_sight(scores: Scores, network: Features, real: Views) -> None:
    """Adds how far damaged real clips lie from others, as a multiple of what undamaged ones do, and what is not seen.

    Args:
        real: with "worse ..." of `sensitivity.damaged`; every second clip is compared with the others.
    """
    kinds = [key for key in real if key.startswith("worse ")]
    name = f"times the floor of {network.called('frechet')}"

    def distance(damaged: Tensor) -> float:
        truth = Statistics.of(real["features"][::2], "real clips: features")
        return frechet_distance(truth, Statistics.of(damaged[1::2], "damaged clips: features"))

    try:
        floor = distance(real["features"])
        seen = {key.removeprefix("worse "): distance(real[key]) / floor for key in kinds} if floor > 0 else {}
    except ValueError as error:
        scores.left_out["sensitivity to motion"] = str(error)
        return
    if not seen:
        scores.left_out["sensitivity to motion"] = "half of the real clips equal the other half: there is no floor"
    for kind, times in seen.items():
        scores.values[f"sensitivity to {kind} clips, {name}"] = times
    blind = [kind for kind, times in seen.items() if times < BLIND]
    if blind:
        scores.cautions.append(
            f"network {network.name} hardly sees clips that are {', '.join(blind)} (less than {BLIND:g} times the "
            "floor): its scores tell nothing of that"
        )


def add_prediction(scores: Scores, future: Views, given: int, tries: int) -> None:
    """Adds what `predicted` found: the mean over clips and frames, and that of the first and of the last frame.

    Of the error over what moves it is its share of that which the last frame has, repeated: only below 1 is the
    prediction of use.
    """
    moving, of_last = future[MOVING].sum(0), future[MOVING_OF_LAST].sum(0)
    if of_last.min() > 0:
        title = f"error over what moves after {given} given frames, in that of the last one repeated, best of {tries}"
        scores.values[title] = float(moving.sum() / of_last.sum())
        scores.values[f"{title}: first and last frame"] = (moving / of_last)[[0, -1]].tolist()
    else:
        scores.left_out["error over what moves"] = "nothing moves in the frames that follow"
    shown = {name: values for name, values in future.items() if name not in (MOVING, MOVING_OF_LAST)}
    for name, values in shown.items():
        title = f"{name} after {given} given frames, best of {tries}"
        scores.values[title] = float(values.mean())
        scores.values[f"{title}: first and last frame"] = values.mean(0)[[0, -1]].tolist()
    if set(shown) <= {"psnr", "ssim", "psnr of the last frame repeated"}:
        scores.left_out["lpips"] = "name a network of two pictures with --lpips: efficientnet, or the folder of one"


def extrapolation(real: Tensor, made: Tensor, generator: torch.Generator) -> list[float]:
    """As `extrapolated`. Raises ValueError where clips are too few for the line to mean anything."""
    few, width = min(len(real), len(made)), real.shape[1]
    if few < 4 * width:
        raise ValueError(f"{few} clips with {width} features: the line needs {4 * width} clips of each")
    return list(extrapolated(real, made, generator))


def shuffled_rows(values: Tensor, seed: int) -> Tensor:
    """In random order: clips stand class by class, and each part of them should hold all classes."""
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
