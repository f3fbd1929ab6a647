from __future__ import annotations

import random
import statistics

import pytest

from vidiff.engine.spike import LEAST, deviations


def test_in_standard_deviations_of_normal_losses() -> None:
    chance = random.Random(0)
    recent = [chance.gauss(1.0, 0.2) for _ in range(20_001)]
    assert deviations(3.0, recent) == pytest.approx(10, rel=0.03)
    recent[::3] = [1e9] * len(recent[::3])  # a third of spikes moves it little
    assert 3 < deviations(3.0, recent) < 10


def test_exactly() -> None:
    recent = [float(n) for n in range(1, 22)]  # median 11, median deviation 5
    assert deviations(26.0, recent) == 15 / (1.4826 * 5)
    assert deviations(-4.0, recent) == -deviations(26.0, recent)
    assert deviations(100 * statistics.median(recent), recent) > 100


def test_few_losses_and_equal_ones() -> None:
    assert deviations(100.0, [1.0] * (LEAST - 1)) == 0
    assert deviations(2.0, [1.0] * LEAST) == pytest.approx(20)
    assert deviations(0.0, [0.0] * LEAST) == 0
