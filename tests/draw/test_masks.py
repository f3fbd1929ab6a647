"""Masks in pixels: what they leave known of the latents, and what of the clip they let through."""

from __future__ import annotations

import pytest
import torch

from vidiff.draw.masks import check_pixels, hide, known_latents


def scattered(height: int, width: int, share: float = 0.02) -> torch.Tensor:
    """Mostly known pixels of two clips of five frames; one frame is wholly known and one wholly new."""
    mask = torch.rand(2, 1, 5, height, width) < share
    mask[0, 0, 1], mask[1, 0, 3] = False, True
    return mask


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_latent_is_known_only_if_it_and_its_neighbours_are_untouched(factor: int) -> None:
    mask = scattered(32, 48, 0.08 / factor**2)
    known = known_latents(mask, (32, 48), factor)
    assert known.shape == (2, 1, 5, 32 // factor, 48 // factor) and known.dtype == torch.bool
    for row in range(known.shape[3]):
        for column in range(known.shape[4]):
            top, left = (factor * max(n - 1, 0) for n in (row, column))
            around = mask[..., top : factor * (row + 2), left : factor * (column + 2)]
            assert torch.equal(known[..., row, column], ~around.flatten(3).any(3))
    assert known[0, 0, 1].all() and not known[1, 0, 3].any()


def test_one_pixel_takes_its_latent_and_the_eight_around_it() -> None:
    mask = torch.zeros(1, 1, 1, 64, 64, dtype=torch.bool)
    mask[..., 31, 32] = True  # the last row of latent row 3, the first column of latent column 4
    known = known_latents(mask, (64, 64), 8)
    assert not known[..., 2:5, 3:6].any() and int((~known).sum()) == 9


def test_without_a_codec_a_pixel_is_its_own_latent() -> None:
    mask = scattered(6, 7)
    assert torch.equal(known_latents(mask, (6, 7), 1), ~mask)


def test_whole_frames_stay_small() -> None:
    frames = torch.tensor([True, False, True]).view(1, 1, 3, 1, 1)
    assert torch.equal(known_latents(frames, (16, 16), 4), ~frames)
    assert torch.equal(known_latents(frames.expand(2, 1, 3, 16, 16), (16, 16), 4), ~frames.expand(2, -1, -1, -1, -1))


def test_what_is_hidden_leaves_no_trace() -> None:
    clip, mask = torch.randn(2, 3, 5, 8, 8), scattered(8, 8, 0.3)
    other = torch.where(mask, torch.nan, clip)
    hidden = hide(clip, mask)
    assert torch.equal(hidden, hide(other, mask)) and hidden.isfinite().all()
    assert torch.equal(torch.where(mask, 0, hidden), torch.where(mask, 0, clip))
    assert (hidden[1, :, 3] == 0).all()
    place = mask[0, 0, 0]
    torch.testing.assert_close(hidden[0, 1, 0][place], clip[0, 1, 0][~place].mean().expand(int(place.sum())))


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
