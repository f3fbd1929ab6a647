from __future__ import annotations

import math

import pytest
import torch

from vidiff.diffusion.schedule import SCHEDULES, VE, Cosine, Flow, Learned, Linear, Schedule, build_schedule

DOUBLE = torch.float64
SHIFTED = [build_schedule(name, shift=shift) for name in SCHEDULES for shift in (1.0, 0.5, 3.0)]


def test_linear_is_the_discrete_table_at_its_points() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE)
    abar = torch.cumprod(1 - betas, 0)
    alpha, sigma = Linear()(torch.arange(1, 1001, dtype=DOUBLE) / 1000)
    torch.testing.assert_close(alpha**2, abar, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma**2, 1 - abar, rtol=1e-9, atol=0)


def test_linear_interpolates_log_snr_between_its_points() -> None:
    schedule = Linear()
    at, after, between = schedule.log_snr(torch.tensor([0.4, 0.401, 0.40025], dtype=DOUBLE))
    assert float(between) == pytest.approx(float(0.75 * at + 0.25 * after), abs=1e-10)


def test_linear_takes_other_betas_and_numbers_of_steps() -> None:
    alpha, _ = Linear(beta_start=0.1, beta_end=0.3, steps=3)(torch.tensor([1 / 3, 2 / 3, 1.0], dtype=DOUBLE))
    expected = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], dtype=DOUBLE)
    torch.testing.assert_close(alpha**2, expected, rtol=1e-12, atol=0)


def test_cosine_is_its_closed_form_and_the_paper_s_clipped_table() -> None:
    t = torch.arange(1001, dtype=DOUBLE) / 1000
    cosine = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    alpha, _ = Cosine()(t[1:])
    torch.testing.assert_close(alpha[:-1] ** 2, (cosine / cosine[0])[1:-1], rtol=1e-10, atol=0)
    betas = (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)  # Nichol & Dhariwal 2021, section 3.2
    torch.testing.assert_close(alpha**2, torch.cumprod(1 - betas, 0), rtol=0, atol=1e-9)


def test_flow_and_ve_are_their_closed_forms() -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=DOUBLE)
    alpha, sigma = Flow()(t)
    torch.testing.assert_close(alpha, 1 - t, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma, t, rtol=1e-12, atol=0)
    alpha, sigma = VE(sigma_min=0.01, sigma_max=50.0)(t)
    assert (alpha == 1).all()
    torch.testing.assert_close(sigma, 0.01 * 5000**t, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SHIFTED, ids=str)
def test_log_snr_falls_is_finite_and_is_that_of_alpha_and_sigma(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2001, dtype=DOUBLE)
    log_snr = schedule.log_snr(t)
    assert (log_snr.diff() <= 0).all() and (log_snr[2:-2].diff() < 0).all()
    assert log_snr.abs().max() <= 20
    alpha, sigma = schedule(t)
    torch.testing.assert_close(2 * (alpha / sigma).log(), log_snr, rtol=0, atol=1e-7)


@pytest.mark.parametrize("schedule", SHIFTED, ids=str)
@pytest.mark.parametrize(("dtype", "within"), [(DOUBLE, 1e-9), (torch.float32, 1e-4)])
def test_time_of_inverts_log_snr(schedule: Schedule, dtype: torch.dtype, within: float) -> None:
    t = torch.linspace(0.002, 0.998, 499, dtype=dtype)
    torch.testing.assert_close(schedule.time_of(schedule.log_snr(t)), t, rtol=0, atol=within)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(schedule.log_snr(schedule.time_of(log_snr)), log_snr, rtol=0, atol=100 * within)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_zero_is_clean_and_one_is_noise(name: str, shift: float) -> None:
    alpha, sigma = build_schedule(name, shift=shift)(torch.zeros((), dtype=DOUBLE))
    assert float(sigma) == pytest.approx(math.exp(-10), rel=1e-4)
    assert float(alpha) == pytest.approx(1, abs=1e-4)
    alpha, sigma = build_schedule(name, shift=shift)(torch.ones((), dtype=DOUBLE))
    assert float(alpha) < 0.007 and float(sigma) > 0.9999


@pytest.mark.parametrize("name", SCHEDULES)
def test_shift_lowers_log_snr_by_twice_its_logarithm(name: str) -> None:
    t = torch.linspace(0.01, 0.95, 20, dtype=DOUBLE)
    plain, shifted = build_schedule(name).log_snr(t), build_schedule(name, shift=2.0).log_snr(t)
    torch.testing.assert_close(plain - shifted, torch.full_like(t, 2 * math.log(2)), rtol=0, atol=1e-9)


def test_flow_s_shift_is_the_known_map_of_time() -> None:
    t = torch.linspace(0.01, 0.99, 20, dtype=DOUBLE)
    _, sigma = Flow(shift=3.0)(t)
    torch.testing.assert_close(sigma, 3 * t / (1 + 2 * t), rtol=1e-12, atol=0)  # Esser et al. 2024, eq. 23


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_shape_and_type_elementwise(name: str) -> None:
    schedule = build_schedule(name)
    t = torch.rand(2, 1, 3, 4, 5)
    alpha, sigma = schedule(t)
    assert alpha.shape == sigma.shape == t.shape and alpha.dtype == sigma.dtype == torch.float32
    one, _ = schedule(t[1, 0, 2, 3, 4])
    assert float(one) == pytest.approx(float(alpha[1, 0, 2, 3, 4]), abs=1e-6)
    exact, _ = schedule(t.double())
    torch.testing.assert_close(alpha.double(), exact, rtol=1e-4, atol=1e-6)


def test_a_time_outside_the_unit_interval_is_named() -> None:
    for value in (1.5, -0.25, math.nan):
        with pytest.raises(ValueError, match=f"t = {value:g} is outside \\[0, 1\\]"):
            Cosine()(torch.tensor([0.5, value]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build_schedule("sine"),
            "unknown schedule 'sine'; choose one of adaptive, cosine, flow, learned, linear, ve",
        ),
        (lambda: Cosine(shift=0.0), "shift = 0.0 must be positive"),
        (lambda: Linear(beta_end=1.5), "betas 0.0001 to 1.5"),
        (lambda: Linear(steps=0), "steps = 0"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigmas 2.0 to 1.0"),
        (lambda: Cosine(s=-1.0), "s = -1.0"),
    ],
)
def test_bad_input_is_named_with_the_choices(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def bent() -> Learned:
    """A learned schedule that is far from a line."""
    schedule = Learned(ends=(9.0, -7.0)).double()
    with torch.no_grad():
        schedule.height.normal_(0.0, 3.0, generator=torch.Generator().manual_seed(0))
        schedule.steepness.fill_(40.0)
    return schedule


def test_a_learned_schedule_is_monotone_between_fixed_ends_whatever_its_weights() -> None:
    schedule = bent()
    log_snr = schedule.log_snr(torch.linspace(0, 1, 2001, dtype=DOUBLE))
    assert (log_snr.diff() < 0).all()
    assert log_snr[[0, -1]].tolist() == pytest.approx([9.0, -7.0], abs=1e-9)
    line = torch.linspace(9, -7, 2001, dtype=DOUBLE)
    assert float((log_snr - line).abs().max()) > 1
    assert float((Learned(ends=(9.0, -7.0)).log_snr(line * 0 + 0.5) - 1).abs().max()) < 0.2  # nearly a line at first


def test_gradients_reach_every_weight_of_a_learned_schedule() -> None:
    schedule = bent()
    alpha, sigma = schedule(torch.tensor([0.3, 0.6], dtype=DOUBLE))
    (alpha + 2 * sigma).sum().backward()
    assert all((weight.grad != 0).any() for weight in schedule.parameters())


def test_learned_schedules_are_kept_apart_and_saved_with_their_model() -> None:
    first, second = Learned(), Learned()
    assert first != second and len({first, second}) == 2
    assert set(first.state_dict()) == {"slope", "height", "steepness", "centre"}
    with pytest.raises(ValueError, match=r"ends = \(-1\.0, 1\.0\) must fall"):
        Learned(ends=(-1.0, 1.0))
    with pytest.raises(ValueError, match="width = 0"):
        Learned(width=0)
