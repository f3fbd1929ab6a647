from __future__ import annotations

import json
import os
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


def test_kernels_of_a_gpu_are_settled_and_a_cpu_gives_the_same_bits(monkeypatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 3, 1))
        network(torch.randn(2, 3, 9, 9)).square().mean().backward()
        return [p.grad for p in network.parameters()]

    before, was = gradients(), torch.backends.cudnn.benchmark
    with seeds.kernels(deterministic=True, one_shape=True):
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert all(map(torch.equal, before, gradients()))
        with seeds.kernels(deterministic=False, one_shape=True):  # as of an autoencoder that is trained first
            assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        with seeds.kernels(deterministic=False, one_shape=False):
            assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == was and not torch.are_deterministic_algorithms_enabled()
