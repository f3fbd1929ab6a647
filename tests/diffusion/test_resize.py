from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vidiff.diffusion.resize import enlarge, shrink


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
