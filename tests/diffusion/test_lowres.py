from __future__ import annotations

import pytest
import torch

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.lowres import draw_level, with_lowres
from vidiff.diffusion.schedule import VE, Cosine, Flow

LOW = torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), VE()])
def test_noise_is_that_of_the_schedule_scaled_to_unit_variance(schedule) -> None:
    level = torch.tensor([0.0, 0.3, 1.0])
    told = with_lowres(Condition(label=torch.arange(3)), LOW, schedule, level, generator())
    eps = torch.randn(LOW.shape, generator=generator())
    alpha, sigma = schedule(level)
    for i in (1, 2):
        expected = (alpha[i] * LOW[i] + sigma[i] * eps[i]) / (alpha[i] ** 2 + sigma[i] ** 2).sqrt()
        torch.testing.assert_close(told.lowres[i], expected)
    assert torch.equal(told.lowres[0], LOW[0]), "without noise it is as given, bit for bit"
    assert torch.equal(told.lowres_log_snr, schedule.log_snr(level))
    assert told.label.tolist() == [0, 1, 2]


def test_the_same_generator_gives_the_same_noise() -> None:
    level = torch.full((3,), 0.2)
    first, second, other = (
        with_lowres(Condition(), LOW, Cosine(), level, generator(seed)).lowres for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_half_of_the_levels_are_0_and_the_rest_uniform() -> None:
    torch.manual_seed(0)
    level = draw_level(40_000, 0.4, torch.device("cpu"))
    clean = level == 0
    assert abs(float(clean.float().mean()) - 0.5) < 0.0075  # 3 standard deviations
    rest = level[~clean]
    assert 0.399 < float(rest.max()) < 0.4 and abs(float(rest.mean()) - 0.2) < 0.0025
    assert not draw_level(10, 0.0, torch.device("cpu")).any()


def test_a_level_outside_the_schedule_is_named() -> None:
    with pytest.raises(ValueError, match=r"1\.5 is outside \[0, 1\]"):
        with_lowres(Condition(), LOW, Cosine(), torch.full((3,), 1.5))
