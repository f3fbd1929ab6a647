"""What votes say, against closed forms and published examples; and the file that keeps them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from vidiff.study.plan import Study
from vidiff.study.results import attentiveness, result_lines, results, tally, wilson
from vidiff.study.votes import Rater, Vote, Votes


def study(pairs: int = 4, checks: int = 2) -> Study:
    labels = ["red"] * (pairs // 2) + ["blue"] * (pairs - pairs // 2) + ["red"] * checks
    return Study(Path("x"), labels, checks, 0, {"source": "x"}, {})


def vote(rater: int, item: int, preferred: str, side: str = "left") -> Vote:
    return Vote(rater, item, preferred, "equal" if preferred == "equal" else side, 2.0)


@pytest.mark.parametrize(("wins", "count"), [(0, 7), (3, 10), (50, 60), (12, 12)])
def test_the_interval_is_wilson_s(wins: int, count: int) -> None:
    wanted = binomtest(wins, count).proportion_ci(0.95, method="wilson")
    assert wilson(wins / count, count) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_its_coverage_is_what_it_says() -> None:
    """Over 4,000 studies of 60 pairs with a true rate of 0.65."""
    wins = np.random.default_rng(0).binomial(60, 0.65, 4_000)
    inside = [wilson(n / 60, 60) for n in wins]
    assert np.mean([low <= 0.65 <= high for low, high in inside]) == pytest.approx(0.95, abs=0.02)


def test_a_pair_counts_once_whoever_saw_it() -> None:
    votes = [vote(rater, 0, "a") for rater in range(1, 10)] + [vote(1, 1, "b"), vote(1, 2, "equal")]
    found = tally(study(), votes)
    assert (found.votes, found.pairs, found.raters, found.wins) == (11, 3, 9, (9, 1, 1))
    assert found.rate == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.interval == wilson(0.5, 3)
    assert (found.same, found.alpha) == (1.0, 1.0), "on the only pair that several saw"


def test_agreement_is_that_of_krippendorff_s_example() -> None:
    """Krippendorff 2011, Computing Krippendorff's alpha-reliability, part A: two observers, ten items: 0.095."""
    one, other = "0100000000", "1110010010"
    values = {"0": "a", "1": "b"}
    votes = [vote(rater, item, values[v]) for rater, row in ((1, one), (2, other)) for item, v in enumerate(row)]
    found = tally(study(10), votes)
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert found.same == pytest.approx(0.6)


def test_who_does_not_look_is_not_counted() -> None:
    votes = [vote(1, 0, "a"), vote(1, 4, "real"), vote(1, 5, "real")]
    votes += [vote(2, 0, "b"), vote(2, 1, "b"), vote(2, 4, "worse"), vote(2, 5, "equal")]
    raters = [Rater(1, "s", "Ann"), Rater(2, "t", ""), Rater(3, "u", "never voted")]
    assert [(a.rater, a.answered, a.right, a.counts) for a in attentiveness(study(), votes, raters)] == [
        (1, 2, 2, True),
        (2, 2, 0, False),
    ]
    found = results(study(), votes, raters)
    assert (found["attentive"]["rate"], found["all"]["pairs"], found["all"]["rate"]) == (1.0, 2, 0.25)
    assert found["by_label"]["red"]["votes"] == 1 and found["by_label"]["blue"]["rate"] is None
    assert "1 of 2 raters left out: under 75% of the checks right" in result_lines(found)


def test_a_side_that_is_always_chosen_shows() -> None:
    votes = [vote(1, 0, "a", "left"), vote(1, 1, "b", "left"), vote(1, 2, "a", "left"), vote(1, 3, "equal")]
    assert tally(study(), votes).left == 1.0


def test_no_votes_are_no_numbers() -> None:
    found = results(study(), [], [])
    assert found["all"]["rate"] is found["all"]["interval"] is found["all"]["alpha"] is None
    assert result_lines(found)[-1] == "no votes yet"


def test_votes_of_many_threads_are_all_kept_and_once(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    raters = [votes.begin(f" rater   {n} ") for n in range(4)]
    assert [rater.name for rater in votes.raters()] == [f"rater {n}" for n in range(4)]
    kept: list[bool] = []

    def answer(rater: Rater) -> None:
        for item in [*range(25), *range(25)]:
            kept.append(votes.add(vote(rater.number, item, "a")))

    threads = [threading.Thread(target=answer, args=(rater,)) for rater in raters for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (kept.count(True), kept.count(False)) == (100, 300)
    again = Votes(tmp_path / "votes.sqlite")  # as after a restart
    assert len(again.all()) == len({(v.rater, v.item) for v in again.all()}) == 100
    assert again.voted(1) == set(range(25)) and again.find(raters[0].secret) == raters[0]
    assert again.find("") is None
