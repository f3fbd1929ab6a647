"""Windows one after the other: each known frame is kept, each new one counted, and each window sees the last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidiff.codec import Identity
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.known import first_frames
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.edit import Draw, extend, generate, lagged, latents
from vidiff.sample import build_sampler

SHAPE = (2, 3, 4, 4)  # b c h w


class Counting:
    """Estimates that each frame is its predecessor plus one; the first, where nothing is known, is 0.

    What is known is what the clock says, so a wrong clock, mask or context gives wrong numbers.
    """

    schedule = Cosine()

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        self.calls += 1
        clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])
        known = int((clock[0, 0, :, 0, 0] == 0).sum())
        first = x[:, :, :1] if known else torch.zeros_like(x[:, :, :1])
        return Estimate(first + torch.arange(x.shape[2]).view(1, 1, -1, 1, 1))


class Linear(torch.nn.Module):
    """A network with a memory of its label and its neighbours, to tell seeds, labels and frames apart."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        label = 0.0 if condition.label is None else condition.label.view(-1, 1, 1, 1, 1).to(x)
        return 0.3 * x + 0.1 * x.mean(2, keepdim=True) + 0.1 * label + 0.01 * log_snr


def drawing(window: int, denoiser=None, seed: int = 0, sampler: str = "ddim", guidance: float = 1.0) -> Draw:
    denoiser = denoiser or Denoiser(Linear(), Cosine(), "v")
    return Draw(denoiser, build_sampler(sampler), 3, guidance, window, torch.Generator().manual_seed(seed))


def along(frames: int, start: float = 0.0) -> Tensor:
    return (start + torch.arange(float(frames))).view(1, 1, -1, 1, 1).expand(2, 3, frames, 4, 4)


@pytest.mark.parametrize(("window", "context"), [(2, 1), (5, 1), (5, 4), (8, 4)])
@pytest.mark.parametrize("frames", [1, 4, 5, 6, 23])
@pytest.mark.parametrize("given", [0, 1, 4, 9])
def test_frames_continue_from_the_last_and_are_as_many_as_asked(
    window: int, frames: int, given: int, context: int
) -> None:
    """Counting goes on over every seam, so no frame is lost, doubled or taken from elsewhere."""
    past = along(given)
    parts = list(latents(drawing(window, Counting()), past, frames, context, Condition(), SHAPE))
    assert all(1 <= part.shape[2] <= window for part in parts)
    torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(given + frames))


def test_each_window_looks_back_as_far_as_the_context() -> None:
    seen: list[int] = []

    class Spy(Counting):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])
            seen.append(int((clock[0, 0, :, 0, 0] == 0).sum()))
            return super().__call__(x, t, condition)

    parts = list(latents(drawing(8, Spy()), along(2), 20, 5, Condition(), SHAPE))
    assert [part.shape[2] for part in parts] == [6, 3, 3, 3, 3, 2]
    assert sorted(set(seen)) == [2, 5] and seen[0] == 2 and seen[-1] == 5


def test_a_context_that_fills_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 4; windows of 4 frames then have no room"):
        list(latents(drawing(4), along(4), 2, 4, Condition(), SHAPE))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_known_frames_come_back_bit_for_bit(sampler: str) -> None:
    frames = torch.randn(2, 3, 6, 4, 4)
    draw = drawing(6, sampler=sampler)
    found = draw(frames, first_frames(6, 4), Condition())
    assert torch.equal(found[:, :, :4], frames[:, :, :4])
    assert not torch.isclose(found[:, :, 4:], frames[:, :, 4:]).any()


def test_what_is_not_known_does_not_matter() -> None:
    frames = torch.randn(2, 3, 6, 4, 4)
    other = frames.clone()
    other[:, :, 4:] = 77.0
    known = first_frames(6, 4)
    assert torch.equal(drawing(6)(frames, known, Condition()), drawing(6)(other, known, Condition()))


def test_the_generator_decides_and_nothing_else() -> None:
    blank = torch.zeros(2, 3, 4, 4, 4)
    first = drawing(4, seed=1)(blank, None, Condition())
    torch.manual_seed(99)
    assert torch.equal(first, drawing(4, seed=1)(blank, None, Condition()))
    assert not torch.isclose(first, drawing(4, seed=2)(blank, None, Condition())).all()


def test_guidance_counts_where_a_label_is_asked_for() -> None:
    blank = torch.zeros(2, 3, 4, 4, 4)
    none, asked = Condition(label=torch.tensor([-1, -1])), Condition(label=torch.tensor([3, -1]))
    plain = drawing(4)(blank, None, none)
    assert torch.equal(plain, drawing(4, guidance=3.0)(blank, None, none))
    guided = drawing(4, guidance=3.0)(blank, None, asked)
    assert not torch.isclose(guided[0], drawing(4)(blank, None, asked)[0]).any()
    torch.testing.assert_close(guided[1], plain[1])  # the sample without a label is left as it was


def test_without_a_label_the_network_is_called_for_one_branch_alone() -> None:
    denoiser = Counting()
    drawing(4, denoiser, guidance=3.0)(torch.zeros(1, 3, 4, 4, 4), None, Condition())
    assert denoiser.calls == 4  # three steps and the last estimate


def test_generate_and_extend_go_through_the_codec() -> None:
    codec = Identity()
    made = torch.cat(list(generate(drawing(4), codec, 7, (4, 6), 2, Condition(), 3)), dim=2)
    assert made.shape == (3, 3, 7, 4, 6) and made.abs().max() <= 1
    clip = along(3, start=-1.0) / 20
    parts = list(extend(drawing(4, Counting()), codec, clip, 2, 2, Condition()))
    torch.testing.assert_close(torch.cat(parts, dim=2), (clip[:, :, 2:] + along(3)[:, :, 1:]).clamp(-1, 1))


def test_a_lagged_grid_takes_every_frame_along_the_whole_grid_one_after_the_other() -> None:
    times = torch.tensor([1.0, 0.7, 0.4, 0.1])
    known = torch.tensor([True, True, False, False, False])
    grid = lagged(times, known, 2)
    assert grid.shape == (3 + 2 * 2 + 1, 5)
    for frame, begins in ((2, 0), (3, 2), (4, 4)):
        expected = [1.0] * begins + times.tolist() + [times[-1].item()] * (4 - begins)
        torch.testing.assert_close(grid[:, frame], torch.tensor(expected))
    assert (grid.diff(dim=0) <= 0).all() and (grid[-1] == times[-1]).all()
    torch.testing.assert_close(lagged(times, known, 0), times[:, None].expand(4, 5))


@pytest.mark.parametrize("given", [0, 3])
def test_a_lagged_draw_keeps_what_is_given_and_later_frames_see_cleaner_ones(given: int) -> None:
    clocks: list[Tensor] = []

    class Spy(Counting):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clocks.append(expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])[0, 0, :, 0, 0])
            return super().__call__(x, t, condition)

    draw = replace(drawing(6, Spy()), lag=2)
    past = along(given)
    parts = list(latents(draw, past, 6 - given, max(given, 1), Condition(), SHAPE))
    torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(6))
    assert len(clocks) == 3 + 2 * (6 - given - 1) + 1
    assert all((clock.diff() >= 0).all() for clock in clocks)
    assert any((clock[given:].diff() > 0).any() for clock in clocks)


def test_guidance_on_history_takes_the_place_of_guidance_where_frames_are_known() -> None:
    def made(**options: float | None) -> Tensor:
        label = Condition(label=torch.tensor([1, 1]))
        return torch.cat(list(latents(replace(drawing(6), **options), along(3), 3, 3, label, SHAPE)), dim=2)

    plain = made(guidance=1.0)
    torch.testing.assert_close(made(guidance=4.0, history=1.0), plain)
    assert not torch.allclose(made(guidance=1.0, history=3.0), plain)
    assert not torch.allclose(made(guidance=1.0, history=3.0), made(guidance=3.0))
    nothing_known = [
        torch.cat(list(latents(replace(drawing(6), history=h), along(0), 6, 3, Condition(), SHAPE)), dim=2)
        for h in (None, 3.0)
    ]
    assert torch.equal(*nothing_known)
