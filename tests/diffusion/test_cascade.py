from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vidiff.diffusion.cascade import draw_level, enlarge, shrink, with_lowres
from vidiff.diffusion.condition import Condition
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


def video(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 4, 12, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pillow(frame: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """One channel `(h, w)`, resized in floating point."""
    picture = Image.fromarray(frame.numpy(), mode="F").resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).clamp(-1, 1)


def test_frames_are_resized_as_pillow_does() -> None:
    given = video()
    small, large = shrink(given, 2), enlarge(given, 2)
    assert small.shape == (2, 3, 4, 6, 8) and large.shape == (2, 3, 4, 24, 32)
    for b, c, f in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        torch.testing.assert_close(small[b, c, f], pillow(given[b, c, f], 6, 8), atol=1e-5, rtol=0)
        torch.testing.assert_close(large[b, c, f], pillow(given[b, c, f], 24, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_plain_colour_stays_and_the_range_is_kept(factor: int) -> None:
    plain = torch.full((1, 3, 2, 8, 8), 0.25)
    torch.testing.assert_close(enlarge(shrink(plain, factor), factor), plain, atol=1e-6, rtol=0)
    edge = torch.ones(1, 3, 1, 8, 8)
    edge[..., 4:] = -1
    assert enlarge(edge, factor).abs().max() == 1


def test_a_size_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="frames of 12x16 cannot be shrunk by 8"):
        shrink(video(), 8)
