"""The protocol card: what a score was measured with, kept beside the score, so that like is compared with like only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidiff.metrics.features import Features
from vidiff.report.log import git_revision, versions
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json
from vidiff.training.windows import Windows

FILE = "card.json"  # a card, as a folder of scores has it

BESIDE = (
    "given",  # frames that are known of clips that are continued
    "tries",  # of each prediction
    "lpips_network",  # of two pictures, for predictions: its name
    "lpips_sha256",
    "lpips_preprocessing",
    "clip_sha256",  # of the CLIP model's files
    "clip_words",  # what it compares clips with: captions or labels
)
"""What some scores depend on besides, None where there are no such scores."""

PROTOCOL = (
    "network",  # its name
    "network_sha256",  # of the file that holds its weights
    "preprocessing",  # as the network's declaration has it
    "data",  # the folder of real clips, by its last name
    "data_sha256",  # of which real clips these are
    "split",
    "real_clips",
    "clips",
    "frames",  # of each clip
    "stride",  # source frames per clip frame
    "size",  # of the frames, in pixels
    "seed",  # of resampling
    *BESIDE,
)
"""What two cards must share before their scores may be compared; of BESIDE, what both have."""

MADE = (
    "source",  # the run, or the folder of clips
    "checkpoint",  # its step
    "weights",  # which of its weights: ema, model, best, or a file
    "ema",  # how wide an average they are
    "weights_sha256",  # of their file
    "sampler",
    "steps",
    "guidance",
    "seed",
)
"""How the clips were made, None where it is not known: it may differ, and is told."""

MEASURED = ("git", "versions", "device", "processes")
"""By which code, and on what."""

_OF_NO_MATTER = {"data"}  # a folder may move; what is in it has a hash


@dataclass(frozen=True)
class Card:
    """One set of scores with its circumstances.

    Attributes:
        protocol: a value for each of PROTOCOL.
        made: for each of MADE.
        measured: for each of MEASURED.
        scores: numbers by name, among them those of the floor (real against real) and of the codec's ceiling; None with
            a reason in `left_out` where there is none.
        left_out: why a score is not there, by name.
        cautions: what to mind when reading the scores, such as that clips are few.
        doubts: why the card cannot be trusted; empty if it can.
    """

    protocol: Mapping[str, Any]
    made: Mapping[str, Any]
    measured: Mapping[str, Any]
    scores: Mapping[str, Any]
    left_out: Mapping[str, str]
    cautions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two cards side by side.

    Attributes:
        reasons: why the scores may not be compared; empty where they may.
        differences: what else differs, as `name: this against that`.
        scores: (this, that) by name, for scores that both have; empty where they may not be compared.
    """

    reasons: tuple[str, ...]
    differences: tuple[str, ...]
    scores: Mapping[str, tuple[Any, Any]]


def protocol_of(
    network: Features, real: Windows, data: str, split: str, seed: int, lpips: Features | None = None, **beside: Any
) -> dict[str, Any]:
    """The protocol of scores by a network on as many made clips as real ones.

    Args:
        data: the data set's name.
        seed: of resampling.
        lpips: a network of two pictures, where predictions are scored by one.
        beside: others of BESIDE, where they are used.
    """
    if lpips is not None:
        beside["lpips_network"], beside["lpips_sha256"] = lpips.name, lpips.sha256
        beside["lpips_preprocessing"] = lpips.preprocessing
    return {
        "network": network.name,
        "network_sha256": network.sha256,
        "preprocessing": network.preprocessing,
        "data": data,
        "data_sha256": real.sha256,
        "split": split,
        "real_clips": len(real),
        "clips": len(real),
        "frames": real.frames,
        "stride": real.stride,
        "size": real.size,
        "seed": seed,
        **dict.fromkeys(BESIDE),
        **beside,
    }


def measured(device: str, processes: int) -> dict[str, Any]:
    """The circumstances of this process, for a card."""
    packages = versions("vidiff", "torch", "numpy", "decord2", "scikit-image", "transformers")
    return {"git": git_revision(), "versions": packages, "device": device, "processes": processes}


def write_card(path: str | Path, card: Card) -> None:
    """Write a card as JSON, with a digest of its content.

    Raises:
        ValueError: a field is missing or unknown, or a number is not finite.
    """
    missing, unknown = _fields(card)
    if missing or unknown:
        raise ValueError(f"a card needs {', '.join(missing) or 'no more'}, and has no field {', '.join(unknown)}")
    content = _content(card)
    bad = [name for name, value in card.scores.items() if not all(map(math.isfinite, numbers(value)))]
    if bad:
        raise ValueError(f"{', '.join(bad)} is not finite: such a score belongs into left_out, with the reason")
    write_whole(Path(path), json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n")


def read_card(path: str | Path) -> Card:
    """A card, with `doubts` where fields are missing or it was changed after it was written.

    The digest finds slips and careless edits. It is no signature: who means to deceive can make a new one.

    Raises:
        ValueError: no such file, or no card at all.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}: give a card that vidiff evaluate wrote") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("scores"), dict):
        raise ValueError(f"{path} is no card: give a card.json that vidiff evaluate wrote")
    parts = [content.get(name) for name in ("protocol", "made", "measured", "scores", "left_out")]
    protocol, made, measured, scores, left_out = (part if isinstance(part, dict) else {} for part in parts)
    cautions = content.get("cautions")
    card = Card(protocol, made, measured, scores, left_out, tuple(cautions if isinstance(cautions, list) else ()))
    doubts = [f"{name} is missing" for name in _fields(card)[0]]
    if content.get("sha256") != _digest({key: value for key, value in content.items() if key != "sha256"}):
        doubts.append("its content is not what its digest was taken of: it was changed after it was written")
    return replace(card, doubts=tuple(doubts))


def check_network(card: Card, sha256: str) -> Card:
    """The card, with a doubt where its scores are not of the network with this hash."""
    named = card.protocol.get("network_sha256")
    if named == sha256:
        return card
    doubt = f"it names the network file {str(named)[:12]}, but the file has {sha256[:12]}"
    return replace(card, doubts=(*card.doubts, doubt))


def compare_cards(card: Card, other: Card) -> Comparison:
    """Two sets of scores side by side, where one protocol and no doubt allow it; else what stands against it."""
    reasons = [
        f"{name} card cannot be trusted: {d}" for name, c in (("this", card), ("the other", other)) for d in c.doubts
    ]
    for name in PROTOCOL:
        this, that = card.protocol.get(name), other.protocol.get(name)
        unused = name in BESIDE and None in (this, that)  # then the scores that depend on it are not in both
        if this != that and name not in _OF_NO_MATTER and not unused:
            reasons.append(f"{name} differs: {_short(this)} against {_short(that)}")
    differences = [
        f"{name}: {_short(this.get(name))} against {_short(that.get(name))}"
        for this, that, names in ((card.made, other.made, MADE), (card.measured, other.measured, MEASURED))
        for name in names
        if this.get(name) != that.get(name)
    ]
    shared = {} if reasons else {k: (v, other.scores[k]) for k, v in card.scores.items() if k in other.scores}
    return Comparison(tuple(reasons), tuple(differences), shared)


def card_lines(card: Card, comparison: Comparison | None = None) -> list[str]:
    """A card and its comparison to read, a line each."""

    def figures(value: Any) -> str:
        return ", ".join(f"{v:.6g}" for v in numbers(value))

    lines = [f"{name}: {figures(value)}" for name, value in card.scores.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in card.left_out.items()]
    lines += [f"mind: {caution}" for caution in card.cautions]
    if comparison is not None:
        lines += [f"not compared: {reason}" for reason in comparison.reasons]
        lines += [f"differs: {difference}" for difference in comparison.differences]
        pairs = comparison.scores.items()
        lines += [f"against the other card: {name}: {figures(a)} against {figures(b)}" for name, (a, b) in pairs]
    return lines


def numbers(value: Any) -> list[float]:
    """The numbers of a score, which is one or a list of them."""
    return value if isinstance(value, list) else [value]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields(card: Card) -> tuple[list[str], list[str]]:
    """Names of missing fields, and of those that no card has."""
    parts = (("protocol", card.protocol, PROTOCOL), ("made", card.made, MADE), ("measured", card.measured, MEASURED))
    missing = [f"{part}.{name}" for part, has, names in parts for name in names if name not in has]
    return missing, [f"{part}.{name}" for part, has, names in parts for name in has if name not in names]


def _content(card: Card) -> dict[str, Any]:
    names = ("protocol", "made", "measured", "scores", "left_out")
    return {name: dict(getattr(card, name)) for name in names} | {"cautions": list(card.cautions)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
