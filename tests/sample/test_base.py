from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.diffusion import process
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import Grid, time_grid
from vidiff.diffusion.guidance import ClassifierFree
from vidiff.diffusion.known import Known, end_frames, first_frames
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine, build_schedule
from vidiff.sample import DDIM, DEIS, SAMPLERS, UniPC, build_sampler, start
from vidiff.sample.base import Sampler, State, steps_left

DOUBLE = torch.float64


def gaussian(schedule=None, prediction: str = "v", frames: int = 1, mean: float = 0.7, std: float = 0.5) -> Denoiser:
    schedule = schedule or Cosine()
    data = Mixture(torch.full((1, 1, frames, 1, 1), mean, dtype=DOUBLE), torch.tensor([std], dtype=DOUBLE))
    return Denoiser(ExactNetwork(data, schedule, prediction), schedule, prediction)


class Recorder:
    schedule = Cosine()

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        self.times.append(float(t))
        return Estimate(x_t + len(self.times))


def test_the_loop_evaluates_at_every_time_and_returns_x0_at_the_last() -> None:
    recorder = Recorder()
    times = torch.tensor([0.9, 0.5, 0.1], dtype=DOUBLE)
    result = DDIM()(recorder, torch.zeros(1, 1, 1, 1, 1, dtype=DOUBLE), Condition(), times)
    assert recorder.times == times.tolist()
    x = torch.zeros((), dtype=DOUBLE)
    for number, (t, s) in enumerate([(0.9, 0.5), (0.5, 0.1)], 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            Cosine()(torch.tensor(t).double()),
            Cosine()(torch.tensor(s).double()),
        )
        x0 = x + number
        x = alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t
    assert float(result) == pytest.approx(float(x + 3), abs=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("options", [{}, {"level": 0.3}, {"replace": True}], ids=str)
def test_known_frames_come_back_bit_equal_from_every_sampler(sampler: str, options: dict) -> None:
    frames, mask = torch.randn(3, 1, 5, 4, 4), end_frames(5, 2, 1)
    data = Mixture(torch.zeros(1, 1, 5, 4, 4), torch.ones(1))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    generator = torch.Generator().manual_seed(0)
    known = Known(ClassifierFree(denoiser, 1.5), frames, mask, generator=generator, **options)
    times = time_grid(Cosine(), 6)
    x0 = build_sampler(sampler)(known, torch.randn(3, 1, 5, 4, 4), Condition(), times, generator)
    assert torch.equal(x0[:, :, [0, 1, 4]], frames[:, :, [0, 1, 4]])
    assert x0.dtype == torch.float32 and not torch.equal(x0[:, :, 2], frames[:, :, 2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_frames_decide_the_rest(sampler: str) -> None:
    """Two kinds of clip, all frames at -1 or all at 1: the others follow the first frame."""
    means = torch.tensor([-1.0, 1.0], dtype=DOUBLE).view(2, 1, 1, 1, 1).expand(2, 1, 4, 1, 1)
    data = Mixture(means, torch.full((2,), 0.1, dtype=DOUBLE))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    side = torch.tensor([-1.0, 1.0] * 20, dtype=DOUBLE).view(-1, 1, 1, 1, 1)
    known = Known(denoiser, side.expand(-1, 1, 4, 1, 1), first_frames(4, 1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 4, 1, 1, dtype=DOUBLE, generator=generator)
    x0 = build_sampler(sampler)(known, x, Condition(), time_grid(Cosine(), 30, dtype=DOUBLE), generator)
    assert (x0 * side > 0.4).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_grid_of_equal_columns_is_the_common_grid(sampler: str) -> None:
    denoiser, times = gaussian(frames=3), time_grid(Cosine(), 8, dtype=DOUBLE)
    x = torch.randn(2, 1, 3, 1, 1, dtype=DOUBLE)
    both = [
        build_sampler(sampler)(denoiser, x, Condition(), grid, torch.Generator().manual_seed(0))
        for grid in (times, times[:, None].expand(9, 3))
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_keep_their_own_clocks(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rolling: frame i waits for 4 i steps. Independent frames then come out as on a common grid, but for noise."""
    denoiser, times = gaussian(frames=3), time_grid(Cosine(), 12, dtype=DOUBLE)
    place = (torch.arange(21)[:, None] - 4 * torch.arange(3)).clamp(0, 12)  # 21 3
    x = torch.randn(2, 1, 3, 1, 1, dtype=DOUBLE)
    monkeypatch.setattr(process.torch, "randn", lambda shape, **_: torch.zeros(shape, dtype=DOUBLE))
    rolled = build_sampler(sampler)(denoiser, x, Condition(), times[place])
    common = build_sampler(sampler)(denoiser, x, Condition(), times)
    torch.testing.assert_close(rolled, common, rtol=0, atol=1e-3 if sampler == "rk45" else 1e-9)  # other cuts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_that_goes_nowhere_changes_nothing(sampler: str) -> None:
    denoiser, x = gaussian(), torch.randn(5, 1, 1, 1, 1, dtype=DOUBLE)
    t = expand_time(0.4, x)
    moved, _ = build_sampler(sampler).step(denoiser, x, t, t, Condition(), State(torch.Generator()))
    torch.testing.assert_close(moved, x, rtol=0, atol=1e-12)


def test_start_has_the_noise_of_the_first_time() -> None:
    noise, schedule = torch.randn(2, 1, 3, 1, 1), build_schedule("ve")
    assert torch.allclose(start(schedule, noise, torch.tensor([1.0, 0.5])), 80 * noise, rtol=1e-5)
    grid = torch.tensor([[0.5, 0.75, 1.0], [0.0, 0.5, 0.9]])
    _, sigma = schedule(grid[0])
    torch.testing.assert_close(start(schedule, noise, grid), sigma.view(1, 1, 3, 1, 1) * noise)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([0.1, 0.5, 0.9]), "times must fall, but rise from step 0 to 1.*is the grid reversed?"),
        (torch.tensor([[0.9, 0.5], [0.5, 0.6]]), "rise from step 0 to 1"),
        (torch.tensor([0.9, 0.5, 0.5]), "stand still from step 1 to 2"),
        (torch.tensor([1.2, 0.5]), r"time 1\.2 is outside \[0, 1\]"),
        (torch.tensor([0.5, -0.1]), r"time -0\.1 is outside \[0, 1\]"),
        (torch.tensor([0.5, torch.nan]), "time nan is outside"),
        (torch.zeros(4, 3), r"times of shape \(4, 3\) must be \(n \+ 1,\) or \(n \+ 1, 2\)"),
        (torch.tensor(0.5), r"times of shape \(\)"),
    ],
)
def test_bad_grids_are_named(times: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDIM()(gaussian(frames=2), torch.zeros(1, 1, 2, 1, 1, dtype=DOUBLE), Condition(), times)


def test_an_unknown_sampler_is_refused_with_the_choices() -> None:
    choices = "consistency, ddim, ddpm, deis, dpmpp_2m, dpmpp_2m_sde, euler, euler_maruyama, heun, langevin, "
    choices += "predictor_corrector, rk45, stochastic_heun, unipc"
    with pytest.raises(ValueError, match=f"unknown sampler 'plms'; choose one of {choices}"):
        build_sampler("plms")


def test_a_sampler_keeps_the_type_of_x() -> None:
    class Half(Sampler):
        step = DDIM().step

    data = Mixture(torch.zeros(1, 1, 1, 1, 1), torch.ones(1))
    denoiser = Denoiser(ExactNetwork(data, Cosine(), "v"), Cosine(), "v")
    x = torch.randn(1, 1, 1, 1, 1)
    seen, _ = Half().step(denoiser, x, expand_time(0.5, x), expand_time(0.4, x), Condition(), State())
    assert seen.dtype == torch.float32


@pytest.mark.parametrize("name", SAMPLERS)
def test_n_times_cost_as_many_evaluations_as_the_sampler_says(name: str) -> None:
    denoiser, sampler, calls = gaussian(), build_sampler(name), list[int]()
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    sampler(denoiser, torch.randn(3, 1, 1, 1, 1, dtype=DOUBLE), Condition(), Grid()(Cosine(), 6), torch.Generator())
    if sampler.evaluations is None:
        assert name == "rk45" and len(calls) > 5 * 6
    else:
        assert len(calls) == 5 * sampler.evaluations + 1
        assert (len(calls) == 6) == (name not in ("heun", "stochastic_heun", "langevin", "predictor_corrector"))


@pytest.mark.parametrize("name", ["unipc", "deis", "dpmpp_2m", "rk45"])
def test_the_state_keeps_its_type_and_each_sample_goes_its_own_way(name: str) -> None:
    """Alone or beside another of quite another size, with weights in double precision."""
    denoiser = gaussian()
    x = torch.randn(4, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x[1] *= 30.0
    sampler, seen = build_sampler(name), list[torch.dtype]()
    denoiser.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    times = Grid()(Cosine(), 6)
    together = sampler(denoiser, x, Condition(), times)
    alone = torch.cat([sampler(denoiser, part, Condition(), times) for part in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert set(seen) == {torch.float32}


def test_the_last_steps_are_of_lower_order() -> None:
    """So that of two steps the second is the first order's, whatever is known; of a frame that ends early, too."""
    denoiser, x, times = gaussian(), torch.randn(5, 1, 1, 1, 1, dtype=DOUBLE), Grid()(Cosine(), 3, DOUBLE)
    for high, low in ((UniPC(3, False), UniPC(1, False)), (DEIS(4), DEIS(1)), (DEIS(1), DDIM())):
        found, wanted = (one(denoiser, x, Condition(), times) for one in (high, low))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    left = [part.flatten().tolist() for part in steps_left(torch.tensor([[3.0, 3], [2, 3], [1, 2], [1, 1]]))]
    assert left == [[1, 2], [0, 1], [0, 0]]
