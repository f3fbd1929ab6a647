from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Estimate
from vidiff.diffusion.known import Held, Known, box, end_frames, first_frames, last_frames, some_frames
from vidiff.diffusion.schedule import Cosine


class Spy:
    schedule = Cosine()

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        self.x, self.t = x_t, t
        return Estimate(torch.zeros_like(x_t), torch.ones_like(x_t))


def clip() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5, 4, 4)


def test_known_voxels_are_shown_clean_at_clock_zero_and_come_back() -> None:
    spy, (frames, x) = Spy(), clip()
    mask = first_frames(5, torch.tensor([1, 3]))
    estimate = Known(spy, frames, mask)(x, torch.tensor([0.9, 0.4]), Condition())
    assert torch.equal(spy.x, torch.where(mask, frames, x))
    assert spy.t[0].flatten().tolist() == pytest.approx([0, 0.9, 0.9, 0.9, 0.9])
    assert spy.t[1].flatten().tolist() == pytest.approx([0, 0, 0, 0.4, 0.4])
    assert torch.equal(estimate.x0, torch.where(mask, frames, torch.zeros(())))
    assert torch.equal(estimate.variance, torch.ones_like(x))


def test_a_level_shows_them_with_noise_of_that_time() -> None:
    spy, (frames, x) = Spy(), clip()
    noise, mask = torch.randn_like(frames), last_frames(5, 2)
    known = Known(spy, frames, mask, level=0.2, noise=noise)
    estimate = known(x, 0.7, Condition())
    alpha, sigma = Cosine()(torch.tensor(0.2))
    torch.testing.assert_close(spy.x[:, :, 3:], (alpha * frames + sigma * noise)[:, :, 3:])
    assert torch.equal(spy.x[:, :, :3], x[:, :, :3])
    assert spy.t.flatten().tolist() == pytest.approx([0.7, 0.7, 0.7, 0.2, 0.2])
    assert torch.equal(estimate.x0[:, :, 3:], frames[:, :, 3:])


def test_replacement_shows_them_at_the_sampler_s_time() -> None:
    spy, (frames, x) = Spy(), clip()
    noise, mask = torch.randn_like(frames), first_frames(5, 2)
    estimate = Known(spy, frames, mask, replace=True, noise=noise)(x, 0.7, Condition())
    alpha, sigma = Cosine()(torch.tensor(0.7))
    torch.testing.assert_close(spy.x[:, :, :2], (alpha * frames + sigma * noise)[:, :, :2])
    assert torch.equal(spy.x[:, :, 2:], x[:, :, 2:])
    assert (spy.t == 0.7).all()
    assert torch.equal(estimate.x0[:, :, :2], frames[:, :, :2])


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_held_is_known_until_the_clock_comes_down_to_its_own_time(replace: bool) -> None:
    spy, (frames, x) = Spy(), clip()
    until = torch.tensor([0.2, 0.5, 1.0, 0.0, 1.0]).view(1, 1, 5, 1, 1)
    held = Held(spy, frames, until, replace=replace, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    for t, shown, clocks in ((0.7, [0, 1, 3], [0.2, 0.5, 0.7, 0.0, 0.7]), (0.3, [0, 3], [0.2, 0.3, 0.3, 0.0, 0.3])):
        estimate = held(x, t, Condition())
        clock = torch.full((1, 1, 5, 1, 1), t) if replace else torch.tensor(clocks).view(1, 1, 5, 1, 1)
        torch.testing.assert_close(spy.t.expand_as(clock), clock)
        alpha, sigma = Cosine()(clock)
        rest = [n for n in range(5) if n not in shown]
        torch.testing.assert_close(spy.x[:, :, shown], (alpha * frames + sigma * noise)[:, :, shown])
        assert torch.equal(spy.x[:, :, rest], x[:, :, rest])
        assert torch.equal(estimate.x0[:, :, shown], frames[:, :, shown]) and not estimate.x0[:, :, rest].any()
    with pytest.raises(ValueError, match=r"until has the time 1.5, which is outside \[0, 1\]"):
        Held(spy, frames, until + 0.5)


def test_its_noise_is_its_generator_s() -> None:
    frames, x = clip()
    seen = []
    for seed in (1, 1, 2):
        spy = Spy()
        generator = torch.Generator().manual_seed(seed)
        known = Known(spy, frames, first_frames(5, 2), level=0.5, generator=generator)
        known(x, 0.7, Condition())
        again = spy.x
        known(x, 0.6, Condition())
        assert torch.equal(again, spy.x)  # drawn once
        seen.append(again)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_masks() -> None:
    assert first_frames(5, 2).flatten().tolist() == [True, True, False, False, False]
    assert last_frames(5, 2).flatten().tolist() == [False, False, False, True, True]
    assert end_frames(5, 2, 1).flatten().tolist() == [True, True, False, False, True]
    assert some_frames(5, [1, -1]).flatten().tolist() == [False, True, False, False, True]
    assert last_frames(4, torch.tensor([0, 3])).flatten(1).tolist() == [
        [False] * 4,
        [False, True, True, True],
    ]
    mask = box(4, 5, top=1, left=2, bottom=3, right=5)
    assert mask.shape == (1, 1, 1, 4, 5) and int(mask.sum()) == 6 and mask[0, 0, 0, 1:3, 2:5].all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: first_frames(5, 6), "cannot know 6 frames of a clip of 5"),
        (lambda: some_frames(5, [0, 5]), "frame 5 is outside a clip of 5"),
        (lambda: box(4, 4, top=1, left=0, bottom=1, right=4), "must lie within 4 x 4"),
        (lambda: Known(Spy(), clip()[0], first_frames(5, 1).float()), "mask must be bool"),
        (
            lambda: Known(Spy(), clip()[0], first_frames(4, 1)),
            r"\(1, 1, 4, 1, 1\) does not broadcast to \(2, 1, 5, 4, 4\)",
        ),
        (lambda: Known(Spy(), clip()[0], first_frames(5, 1), level=1.2), r"level = 1\.2 is outside"),
        (
            lambda: Known(Spy(), clip()[0], first_frames(5, 1), level=0.2, replace=True),
            r"level = 0\.2 must be 0",
        ),
        (
            lambda: Known(Spy(), clip()[0], first_frames(5, 1))(clip()[0][:1], 0.5, Condition()),
            "guidance goes inside",
        ),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
