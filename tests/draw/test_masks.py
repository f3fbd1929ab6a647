"""Masks in pixels: which latents they touch, what of the clip they let through, and what is led on over a hole."""

from __future__ import annotations

import pytest
import torch

from vidiff.draw.masks import check_pixels, hide, lead_on, touched


def scattered(height: int, width: int, share: float = 0.02) -> torch.Tensor:
    """Mostly known pixels of two clips of five frames; one frame is wholly known and one wholly new."""
    mask = torch.rand(2, 1, 5, height, width) < share
    mask[0, 0, 1], mask[1, 0, 3] = False, True
    return mask


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_latent_is_touched_if_a_pixel_of_it_is_new(factor: int) -> None:
    mask = scattered(32, 48, 0.08 / factor**2)
    new = touched(mask, (32, 48), factor)
    assert new.shape == (2, 1, 5, 32 // factor, 48 // factor) and new.dtype == torch.bool
    for row in range(new.shape[3]):
        for column in range(new.shape[4]):
            own = mask[..., factor * row : factor * (row + 1), factor * column : factor * (column + 1)]
            assert torch.equal(new[..., row, column], own.flatten(3).any(3))
    assert not new[0, 0, 1].any() and new[1, 0, 3].all()


def test_without_a_codec_a_pixel_is_its_own_latent() -> None:
    mask = scattered(6, 7)
    assert torch.equal(touched(mask, (6, 7), 1), mask)


def test_whole_frames_stay_small() -> None:
    frames = torch.tensor([True, False, True]).view(1, 1, 3, 1, 1)
    assert torch.equal(touched(frames, (16, 16), 4), frames)
    assert torch.equal(touched(frames.expand(2, 1, 3, 16, 16), (16, 16), 4), frames.expand(2, -1, -1, -1, -1))


def test_of_latents_of_several_frames_those_are_touched_of_which_one_frame_is() -> None:
    frames = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0, 1]).bool().view(1, 1, 9, 1, 1)
    assert touched(frames, (16, 16), 4, 4).flatten().tolist() == [False, True, True]
    assert touched(frames, (16, 16), 4, 2).flatten().tolist() == [False, False, True, False, True]
    assert touched(frames[:, :, 3:4], (16, 16), 4, 4).flatten().tolist() == [True]


def test_what_is_hidden_leaves_no_trace() -> None:
    clip, mask = torch.randn(2, 3, 5, 8, 8), scattered(8, 8, 0.3)
    other = torch.where(mask, torch.nan, clip)
    hidden = hide(clip, mask)
    assert torch.equal(hidden, hide(other, mask)) and hidden.isfinite().all()
    assert torch.equal(torch.where(mask, 0, hidden), torch.where(mask, 0, clip))
    torch.testing.assert_close(hidden[1, :, 3], (hidden[1, :, 2] + hidden[1, :, 4]) / 2)
    ends = torch.tensor([True, False, False, False, True]).view(1, 1, 5, 1, 1)
    assert torch.equal(hide(clip, ends)[:, :, [0, 4]], clip[:, :, [1, 3]])
    assert not hide(clip, torch.ones(1, 1, 5, 1, 1) > 0).any()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12), (1, 5)])
def test_what_is_led_on_stays_between_what_is_there(height: int, width: int) -> None:
    mask = torch.rand(2, 1, 3, height, width) < 0.6
    mask[..., 0, 0] = False
    even = torch.full((2, 3, 3, height, width), 0.3)
    torch.testing.assert_close(lead_on(even.masked_fill(mask, torch.nan), mask), even)
    clip = torch.randn(2, 3, 3, height, width)
    led = lead_on(clip, mask)
    for bound, worst in ((torch.inf, led.amin((3, 4))), (-torch.inf, -led.amax((3, 4)))):
        known = clip.masked_fill(mask, bound)
        assert (worst >= (known.amin((3, 4)) if bound > 0 else -known.amax((3, 4))) - 1e-5).all()


def test_a_slope_is_led_on_over_a_hole() -> None:
    slope = torch.linspace(-1, 1, 32).expand(1, 3, 1, 32, 32)
    mask = torch.zeros(1, 1, 1, 32, 32, dtype=torch.bool)
    mask[..., 12:20, 12:20] = True
    assert (
        float((lead_on(slope, mask) - slope).abs().max()) < 0.15 < float((slope.mean() - slope)[..., 12:20].abs().max())
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 8, 6), (2, 1, 1, 8, 6), (1, 1, 5, 8, 6), (2, 1, 5, 8, 6), (1, 1, 5, 1, 1)])
def test_a_mask_may_be_one_for_all_clips_and_frames(shape: tuple[int, ...]) -> None:
    check_pixels(torch.ones(shape, dtype=torch.bool), torch.zeros(2, 3, 5, 8, 6))


@pytest.mark.parametrize(
    "shape", [(3, 1, 5, 8, 6), (2, 3, 5, 8, 6), (1, 1, 4, 8, 6), (1, 1, 0, 8, 6), (1, 1, 1, 6, 8), (8, 6), (1, 1, 8, 6)]
)
def test_a_mask_of_another_size_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        check_pixels(torch.ones(shape, dtype=torch.bool), torch.zeros(2, 3, 5, 8, 6))
    assert f"the mask is {shape}; expected (1 or 2, 1, 1 or 5, 8, 6)" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_mask_that_is_not_bool_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"the mask is of .*; expected bool, true where content is to be new"):
        check_pixels(torch.ones(1, 1, 1, 8, 6, dtype=dtype), torch.zeros(2, 3, 5, 8, 6))
