"""What the votes of a study say: how often one model is preferred, how sure that is, and how far raters agree."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import krippendorff
import numpy as np
from scipy.special import ndtri

from vidiff.report.page import header, page, paragraph, scale, section, table
from vidiff.study.plan import Study
from vidiff.study.votes import Rater, Vote

PASS = 0.75
"""The least part of the checks that a rater must answer right to be counted."""

CONFIDENCE = 0.95
_Z = float(ndtri((1 + CONFIDENCE) / 2))  # the normal distribution's quantile
_VALUES = {"a": 1.0, "b": 0.0, "equal": 0.5}


@dataclass(frozen=True)
class Result:
    """The outcome of some votes on pairs.

    Attributes:
        votes, pairs, raters: how many there are; of the pairs, those with a vote.
        wins: votes for a, for b, and for neither.
        rate: the part of the pairs that a wins, a pair counting as the mean of its votes; None without votes.
        interval: Wilson's score interval of it, with pairs as the observations: raters who see the same pair do not
            tell something new about other pairs.
        same: part of all pairs of votes on one pair that agree; None where no pair has two votes.
        alpha: Krippendorff's alpha (nominal) of the same: 1 is full agreement, 0 that of chance.
        left: part of the votes that are not "equal" which chose the left clip: 0.5 without a bias.
    """

    votes: int
    pairs: int
    raters: int
    wins: tuple[int, int, int]
    rate: float | None
    interval: tuple[float, float] | None
    same: float | None
    alpha: float | None
    left: float | None


@dataclass(frozen=True)
class Attentiveness:
    """How one rater did on the checks: `right` of `answered`, and whether their votes count."""

    rater: int
    name: str
    votes: int
    answered: int
    right: int
    counts: bool
    seconds: float | None  # the median of a vote


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927, eq. 6) for a share of `count` observations, at 95 %.

    As `scipy.stats.binomtest` has it for whole numbers of successes; here a pair with votes at odds is a part of one.
    """
    if count < 1:
        raise ValueError(f"count is {count}; an interval needs 1 observation or more")
    z2 = _Z**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def attentiveness(study: Study, votes: Sequence[Vote], raters: Sequence[Rater]) -> list[Attentiveness]:
    """How each rater who voted did on the checks."""
    voters = []
    for rater in raters:
        own = [vote for vote in votes if vote.rater == rater.number]
        checks = [vote for vote in own if vote.item >= study.pairs]
        right = sum(vote.preferred == "real" for vote in checks)
        counts = right >= PASS * len(checks)
        seconds = float(np.median([vote.seconds for vote in own])) if own else None
        if own:
            voters.append(Attentiveness(rater.number, rater.name, len(own), len(checks), right, counts, seconds))
    return voters


def tally(study: Study, votes: Sequence[Vote]) -> Result:
    """What the votes on pairs say; those on checks are left out."""
    votes = [vote for vote in votes if vote.item < study.pairs]
    by_pair: dict[int, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_pair[vote.item].append(vote)
    shares = [float(np.mean([_VALUES[vote.preferred] for vote in own])) for own in by_pair.values()]
    rate = float(np.mean(shares)) if shares else None
    sided = [vote.side for vote in votes if vote.side != "equal"]
    both = [
        one.preferred == other.preferred for own in by_pair.values() for one, other in itertools.combinations(own, 2)
    ]
    return Result(
        votes=len(votes),
        pairs=len(by_pair),
        raters=len({vote.rater for vote in votes}),
        wins=tuple(sum(vote.preferred == kind for vote in votes) for kind in ("a", "b", "equal")),  # type: ignore[arg-type]
        rate=rate,
        interval=None if rate is None else wilson(rate, len(shares)),
        same=float(np.mean(both)) if both else None,
        alpha=_alpha(votes) if both else None,
        left=sided.count("left") / len(sided) if sided else None,
    )


def results(study: Study, votes: Sequence[Vote], raters: Sequence[Rater]) -> dict[str, Any]:
    """All that a result page shows, as JSON can hold it: of the raters who passed, of all, by label and by rater."""
    voters = attentiveness(study, votes, raters)
    passed = {voter.rater for voter in voters if voter.counts}
    counted = [vote for vote in votes if vote.rater in passed]
    by_label = {}
    if len(set(study.labels)) > 1:
        for label in sorted({label for label in study.labels[: study.pairs] if label is not None}):
            own = [vote for vote in counted if vote.item < study.pairs and study.labels[vote.item] == label]
            by_label[label] = asdict(tally(study, own))
    return {
        "a": dict(study.a),
        "b": dict(study.b),
        "pairs": study.pairs,
        "checks": study.checks,
        "seed": study.seed,
        "confidence": CONFIDENCE,
        "attentive": asdict(tally(study, counted)),
        "all": asdict(tally(study, votes)),
        "by_label": by_label,
        "raters": [asdict(voter) for voter in voters],
    }


def result_lines(content: Mapping[str, Any]) -> list[str]:
    """What `results` returns, to read in a terminal."""
    result = content["attentive"]
    left_out = sum(not rater["counts"] for rater in content["raters"])
    lines = [f"a: {content['a'].get('source')}", f"b: {content['b'].get('source')}"]
    if result["rate"] is None:
        return [*lines, "no votes yet"]
    low, high = result["interval"]
    a, b, equal = result["wins"]
    lines.append(f"a is preferred in {result['rate']:.1%} of the pairs ({low:.1%} to {high:.1%} at 95 %)")
    lines.append(f"votes: {a} for a, {b} for b, {equal} equal, on {result['pairs']} pairs by {result['raters']} raters")
    if result["alpha"] is not None:
        lines.append(f"two raters agree on {result['same']:.1%}; Krippendorff's alpha {result['alpha']:.2f}")
    if result["left"] is not None:
        lines.append(f"the left clip was chosen in {result['left']:.1%}")
    if left_out:
        lines.append(f"{left_out} of {len(content['raters'])} raters left out: under {PASS:.0%} of the checks right")
    return lines


def results_page(content: Mapping[str, Any]) -> str:
    """What `results` returns, as a page."""
    best = content["attentive"]
    rate = "No votes yet." if best["rate"] is None else f"a is preferred in {_share(best['rate'])} of the pairs"
    by_label = content["by_label"].items()
    rows = [_row(*part) for part in (("attentive raters", best), ("all raters", content["all"]), *by_label)]
    raters = [
        (
            f"{rater['rater']} {rater['name']}".strip(),
            str(rater["votes"]),
            f"{rater['right']} of {rater['answered']}",
            f"{rater['seconds']:.1f}",
            "yes" if rater["counts"] else "no",
        )
        for rater in content["raters"]
    ]
    return page(
        "Results",
        header(rate, f"a: {content['a'].get('source')}; b: {content['b'].get('source')}"),
        scale(best["rate"], *best["interval"]) if best["rate"] is not None else "",
        section("Votes", table(rows, VOTES, "figures")),
        section("Raters", table(raters, RATERS, "figures")),
        section("How to read this", paragraph(HOW_TO_READ)),
    )


VOTES = ("", "a preferred", "95 % interval", "a : b : equal", "pairs", "raters", "same answer", "alpha", "left chosen")
RATERS = ("rater", "answers", "checks right", "median seconds", "counted")
HOW_TO_READ = """A pair counts once, as the mean of its votes; "equal" is half a vote. The interval is Wilson's, over
pairs. Alpha is Krippendorff's: 1 is full agreement between raters, 0 that of chance. A rater who answers under three
quarters of the checks right, a real clip beside the same one spoilt, is not counted in the first line."""


def _row(name: str, result: Mapping[str, Any]) -> list[str]:
    """A row of VOTES."""
    interval, alpha = result["interval"], result["alpha"]
    return [
        name,
        _share(result["rate"]),
        f"{_share(interval[0])} to {_share(interval[1])}" if interval else "-",
        " : ".join(map(str, result["wins"])),
        str(result["pairs"]),
        str(result["raters"]),
        _share(result["same"]),
        "-" if alpha is None else f"{alpha:.2f}",
        _share(result["left"]),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _alpha(votes: Sequence[Vote]) -> float:
    """Krippendorff's alpha of raters by pairs; 1 where everyone always says the same, which it does not define."""
    raters = sorted({vote.rater for vote in votes})
    pairs = sorted({vote.item for vote in votes})
    values = np.full((len(raters), len(pairs)), np.nan)
    for vote in votes:
        values[raters.index(vote.rater), pairs.index(vote.item)] = _VALUES[vote.preferred]
    several = values[:, (~np.isnan(values)).sum(0) > 1]
    if len(np.unique(several[~np.isnan(several)])) < 2:
        return 1.0
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement="nominal"))
