from __future__ import annotations

import json
import random

import numpy as np
import torch

from vidiff.engine import seeds


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_a_step_draws_the_same_whatever_came_before() -> None:
    seeds.seed_step(0, 5)
    first = draw()
    draw()
    seeds.seed_step(0, 5)
    assert draw() == first
    for other in ((1, 5, 0), (0, 6, 0), (0, 5, 1)):
        seeds.seed_step(*other)
        assert not set(draw()) & set(first)


def test_preserved_and_its_state_survives_a_file(tmp_path) -> None:
    seeds.seed_step(3, 0)
    np.random.randn()  # leaves a second normal number cached
    (tmp_path / "state").write_text(json.dumps(seeds.random_state()))
    with seeds.preserved():
        expected = draw(), float(np.random.randn())
    assert (draw(), float(np.random.randn())) == expected
    seeds.set_random_state(json.loads((tmp_path / "state").read_text()))
    assert (draw(), float(np.random.randn())) == expected
