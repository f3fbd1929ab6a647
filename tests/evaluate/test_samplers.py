"""The comparison of samplers: its problems, and that the default settings hold beside diffusers'."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from vidiff.diffusion.grid import Grid
from vidiff.evaluate.samplers import DOUBLE, Problem, denoiser, ours, problem, root_mean
from vidiff.recipe.kinds import SamplingConfig

TOOL = Path(__file__).parents[2] / "tools" / "compare_samplers.py"


@pytest.mark.parametrize("dimension", [1, 16])
def test_a_problem_has_unit_variance_and_paths_that_end_in_its_data(dimension: int) -> None:
    one = problem(dimension, 5, "cosine", count=200)
    made = one.data.sample(40_000, torch.Generator().manual_seed(0))
    assert float(made.mean()) == pytest.approx(0.0, abs=0.03) and float(made.var()) == pytest.approx(1.0, abs=0.05)
    alone = one.data.log_prob(one.exact, torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)).mean()
    drawn = one.data.log_prob(made, torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))
    assert float(alone) == pytest.approx(float(drawn.mean()), abs=5 * float(drawn.std()) / 200**0.5)


def test_errors_are_the_distance_of_pairs_and_of_sets() -> None:
    exact = torch.tensor([0.0, 1.0, 5.0], dtype=DOUBLE).view(3, 1, 1, 1, 1)
    one = Problem(problem(1, 0, "flow", 8).data, exact, exact)
    assert one.errors(exact.flip(0)) == pytest.approx((math.sqrt(50 / 3), 0.0))
    assert one.errors(exact + math.nan) == (math.inf, math.inf)
    assert root_mean([(3.0, 1.0), (4.0, 1.0)]) == pytest.approx((math.sqrt(12.5), 1.0))


def test_the_defaults_have_less_error_with_more_evaluations_and_than_those_of_before() -> None:
    one = problem(16, 10, "cosine", 100)
    errors = [one.errors(ours(one, "cosine", count))[0] for count in (5, 10, 20, 80)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01
    how = SamplingConfig()
    assert (how.sampler, how.grid) == ({"name": "unipc"}, Grid(kind="logistic"))
    assert denoiser(one.data, "flow").schedule(torch.tensor(0.25))[1] == 0.25


@pytest.mark.parametrize("dimension", [1, 64])
def test_a_grid_that_knows_what_training_measured_has_less_error(dimension: int) -> None:
    """On mixtures that chose nothing: of 1 and of 64 dimensions, which want opposite bells."""
    problems = [problem(dimension, seed, "flow", 40) for seed in (20, 21)]
    for count in (10, 20):
        measured, default = (
            root_mean([one.errors(ours(one, "flow", count, known)) for one in problems])[0] for known in (True, False)
        )
        assert measured < 0.8 * default


def test_the_table_has_a_row_a_cell_and_the_ratios(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location("compare_samplers", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.compare(tool.parse(["--seeds", "10", "--dimensions", "1", "--schedules", "linear", "--evaluations", "8"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| linear, 1, 8 | 0.0") and lines[3].startswith("RMS: ") and "1 of 1" in lines[3]
