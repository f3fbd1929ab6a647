"""What tells a good codec from a bad one, on clips and latents whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import idct
from torch import Tensor

from vidiff.metrics.codec import (
    codec_lines,
    detail,
    frame_losses,
    frame_scores,
    latent_scores,
    latent_sums,
    strip,
)
from vidiff.metrics.motion import moving, moving_energy


def clips(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 5, 16, 12, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def latents(mean: Tensor, std: Tensor | None = None, shift: float = 0.0, scale: float = 1.0, parts: int = 1):
    """`latent_scores` of clips that were looked at in `parts`."""
    std = torch.full_like(mean, 1e-3) if std is None else std
    video = clips()[:1].expand(len(mean), -1, -1, -1, -1)
    of_channel = torch.full((mean.shape[1],), shift), torch.full((mean.shape[1],), scale)
    found = [
        latent_sums(*pair, *of_channel)
        for pair in zip(video.chunk(parts), mean.chunk(parts), std.chunk(parts), strict=True)
    ]
    return latent_scores({name: torch.cat([part[name] for part in found]) for name in found[0]})


def ball(frames: int = 5, level: float = 0.9) -> Tensor:
    """A grey wall with a texture, over which a square of 2x2 pixels moves 2 pixels a frame: `(1, 3, f, 16, 16)`."""
    wall = torch.rand(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.5 - 0.5
    video = wall.repeat(1, 1, frames, 1, 1)
    for n in range(frames):
        video[:, :, n, 7:9, 2 * n + 3 : 2 * n + 5] = level
    return video


def test_what_moves_is_what_differs_from_the_still_background() -> None:
    video = ball()
    moves, apart = moving(video)
    assert moves.shape == (1, 1, 5, 16, 16) and moves.sum() == 5 * 4  # of each frame the ball's four pixels
    assert torch.equal(moves[0, 0, 2].nonzero(), torch.tensor([[7, 7], [7, 8], [8, 7], [8, 8]]))
    assert torch.equal(apart[~moves.expand_as(apart)], torch.zeros(3 * 5 * (16 * 16 - 4)))
    assert not moving(video[:, :, :1])[0].any()  # a picture
    for frames in (1, 4, 5):
        noise = torch.randn(2, 3, frames, 4, 4)
        assert torch.equal(moving(noise)[1], noise - noise.median(dim=2, keepdim=True).values)
    assert moving(video + 3.9 / 255 * torch.tensor([1.0, -1, 0, 0, 0])[:, None, None])[0].sum() == 5 * 4  # noise


def test_the_share_kept_of_what_moves() -> None:
    video = ball()
    wall = video.median(dim=2, keepdim=True).values.expand_as(video)

    def kept(decoded: Tensor) -> float:
        return frame_scores(frame_losses(video, decoded))["moving kept"]

    assert kept(video) == 1
    assert kept(wall) == pytest.approx(0, abs=1e-7)  # the ball is gone
    assert frame_scores(frame_losses(video, wall))["psnr"] > 22  # which tells little
    assert kept((video + wall) / 2) == pytest.approx(0.75)  # half its contrast is gone: 1 - 1/4
    assert kept(2 * wall - video) == pytest.approx(-3, abs=1e-5)  # a ball of the contrary colour
    assert kept(torch.zeros_like(video)) == pytest.approx(0, abs=1e-7)  # grey, from which the ball differs less
    assert kept(video + 0.1 * wall) == pytest.approx(1)  # a wrong wall is no matter of it
    assert "moving kept" not in frame_scores(frame_losses(wall, wall))
    energy, share = moving_energy(torch.cat([video, wall]), torch.cat([wall, wall]))
    assert share.tolist() == pytest.approx([4 / 256, 0]) and energy[1].tolist() == [0, 0]
    assert energy[0, 0] == pytest.approx(float(energy[0, 1])) and energy.dtype == torch.float64


def test_detail_is_that_of_the_frames() -> None:
    real = clips()
    assert torch.equal(detail(real, real)[:, 0], detail(real, real)[:, 1])
    assert float((detail(real, real / 2)[:, 0] / detail(real, real)[:, 1]).mean()) == pytest.approx(0.25)


def test_a_constant_error_does_not_flicker() -> None:
    real = clips()
    scores = frame_scores(frame_losses(real, real + 0.1))
    assert scores["psnr"] == pytest.approx(20 * math.log10(2 / 0.1), rel=1e-5)
    assert scores["error"] == pytest.approx(0.05, rel=1e-5)
    assert scores["flicker"] == pytest.approx(0, abs=1e-7)
    assert scores["change"] == pytest.approx(float(np.abs(np.diff(real.double().numpy(), axis=2)).mean() / 2))
    assert scores["detail kept"] == pytest.approx(1)
    assert frame_scores(frame_losses(real, real))["ssim"] == pytest.approx(1)


def test_detail_kept_is_a_ratio_of_power() -> None:
    stripes = torch.tensor([0.5, -0.5]).repeat(8).expand(1, 3, 2, 16, 16)
    assert frame_scores(frame_losses(stripes, 0.7 * stripes))["detail kept"] == pytest.approx(0.49)
    assert frame_scores(frame_losses(stripes, 0 * stripes))["detail kept"] == 0
    slope = torch.linspace(-0.5, 0.5, 16).expand(1, 3, 2, 16, 16)
    assert frame_scores(frame_losses(slope, slope + 0.1 * stripes))["detail kept"] > 10
    assert "detail kept" not in frame_scores(frame_losses(torch.zeros(1, 3, 2, 16, 16), stripes))


def test_an_error_that_changes_its_sign_flickers_by_twice_its_size() -> None:
    real = clips()
    real[:, :, :, :8] = real[:, :, :1, :8]  # the upper half stands still
    sign = torch.tensor([1.0, -1, 1, -1, 1]).view(1, 1, 5, 1, 1)
    error = 0.06 * sign * torch.ones_like(real)
    error[:, :, :, :8] /= 3
    found = frame_losses(real, real + error)
    assert frame_scores(found)["flicker"] == pytest.approx((0.06 + 0.02) / 2, rel=1e-4)  # shares of a range of 2
    assert frame_scores(found)["flicker still"] == pytest.approx(0.02, rel=1e-4)
    assert "flicker still" not in frame_scores(frame_losses(clips(), clips() + 0.1))  # nothing stands still
    assert "flicker" not in frame_losses(real[:, :, :1], real[:, :, :1])


def test_moments_are_those_of_all_latents_together() -> None:
    draw = torch.Generator().manual_seed(1)
    mean = torch.randn(4, 3, 2, 6, 5, generator=draw) * torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1) + 1
    mean[:, 1] -= 0.7 * mean[:, 0]
    std = torch.rand(4, 3, 2, 6, 5, generator=draw)
    found, rows = latents(mean, std, parts=2), mean.transpose(0, 1).flatten(1).double()
    variance = rows.var(1, correction=0) + std.double().square().mean((0, 2, 3, 4))
    assert found["mean"] == pytest.approx(rows.mean(1).tolist())
    assert found["std"] == pytest.approx(variance.sqrt().tolist())
    assert found["noise"] == pytest.approx((std.double().square().mean((0, 2, 3, 4)) / variance).tolist())
    covariance = torch.cov(rows, correction=0)
    expected = covariance / torch.outer(variance.sqrt(), variance.sqrt())
    assert found["correlation"][1][0] == pytest.approx(float(expected[1, 0]))
    assert found["correlation"][2][2] == pytest.approx(1)
    assert found["compression"] == clips()[0].numel() / mean[0].numel()
    whole = latents(mean, std)
    for name in ("mean", "std", "kl", "detail"):  # which do not depend on the pieces
        assert found[name] == pytest.approx(whole[name])


def test_kl_is_that_of_latents_before_they_are_normalised() -> None:
    mean, std = torch.randn(2, 3, 2, 4, 4), torch.rand(2, 3, 2, 4, 4) + 0.1
    raw = torch.distributions.Normal(mean * 2.5 + 0.5, std * 2.5)
    expected = torch.distributions.kl_divergence(raw, torch.distributions.Normal(0, 1)).mean()
    assert latents(mean, std, shift=0.5, scale=2.5)["kl"] == pytest.approx(float(expected), rel=1e-5)
    assert latents(mean, torch.zeros_like(mean))["kl"] is None


def test_detail_is_the_upper_half_of_the_frequencies() -> None:
    def wave(down: int, right: int) -> Tensor:
        spectrum = np.zeros((8, 8))
        spectrum[down, right] = 5
        spectrum[0, 0] = 40  # the mean does not count
        frame = idct(idct(spectrum, axis=0, norm="ortho"), axis=1, norm="ortho")
        return torch.from_numpy(frame).expand(1, 1, 2, 8, 8)

    for down, right, share in ((0, 3, 0.0), (3, 3, 0.0), (4, 0, 1.0), (2, 7, 1.0)):
        assert latents(wave(down, right))["detail"] == pytest.approx(share, abs=1e-12)
    both = wave(1, 1) + wave(5, 0)
    assert latents(both)["detail"] == pytest.approx(0.5)
    noise = torch.randn(8, 2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert latents(noise)["detail"] == pytest.approx(0.75 * 1024 / 1023, abs=0.005)


def test_neighbours_are_told_by_direction() -> None:
    down = torch.tensor([1.0, -1]).repeat(4).view(1, 1, 1, 8, 1)  # each row is the other's negative
    found = latents(down.expand(2, 1, 3, 8, 8), torch.zeros(2, 1, 3, 8, 8))["neighbours"]
    assert found["down"] == pytest.approx(-1) and found["right"] == found["time"] == pytest.approx(1)
    noisy = latents(down.expand(2, 1, 3, 8, 8), torch.ones(2, 1, 3, 8, 8))["neighbours"]
    assert noisy["time"] == pytest.approx(0.5)  # half of the variance is noise, which no neighbour shares
    assert set(latents(down.expand(2, 1, 1, 8, 8))["neighbours"]) == {"down", "right"}


def test_the_picture_shows_real_decoded_and_error() -> None:
    real, decoded = torch.zeros(2, 3, 3, 4, 6), torch.zeros(2, 3, 3, 4, 6)
    decoded[0, :, 1], decoded[1, :, 1] = 0.1, -0.5
    picture = strip(real, decoded)
    assert picture.shape == (3, 12, 12)
    assert picture[0, ::4, ::6].flatten().tolist() == pytest.approx([0, 0, 0.1, -0.5, 0.4, -1])


def test_lines_tell_the_numbers() -> None:
    real = clips()
    scores = frame_scores(frame_losses(real, real + 0.1)) | {"psnr of samples": 20.0}
    told = codec_lines(scores | {"latent": latents(torch.randn(2, 1, 5, 4, 3), torch.zeros(2, 1, 5, 4, 3))})
    assert told[0].split()[:3] == ["PSNR", "26.02", "dB"]
    assert not any(line.startswith(("latent KL", "channels'")) for line in told)  # no noise, and one channel alone
