from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from vidiff.data.shapes import ShapesClip
from vidiff.evaluate.measure import Scores, add_prediction
from vidiff.metrics.features import Features
from vidiff.metrics.motion import motion_measures, warping_error
from vidiff.metrics.prediction import MOVING, MOVING_OF_LAST, best_of, lpips, predicted, psnr, ssim


def shapes() -> Tensor:
    return ShapesClip("red_disc", 9.0, (30.0, 30.0), (2.0, 0.0), 64).video(4)[None]


def noisy(video: Tensor, amount: float = 0.1) -> Tensor:
    return video + amount * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    real, made = shapes(), noisy(shapes())
    a, b = (x[0, :, 2].double().numpy() for x in (made, real))
    assert float(psnr(made, real)[0, 2]) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=2), rel=1e-9)
    by_colour = [
        structural_similarity(x, y, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for x, y in zip(a, b, strict=True)
    ]
    assert float(ssim(made, real)[0, 2]) == pytest.approx(np.mean(by_colour), rel=1e-9)
    assert psnr(real, real).tolist() == [[pytest.approx(126.02, abs=0.01)] * 4]
    assert ssim(real, real).tolist() == [[pytest.approx(1.0)] * 4]


def test_best_of_several_tries_is_chosen_clip_by_clip() -> None:
    values = torch.tensor([[[1.0, 2], [9, 0]], [[3, 1], [1, 1]]])  # tries, clips, frames
    assert best_of(values, highest=True).tolist() == [[3, 1], [9, 0]]
    assert best_of(values, highest=False).tolist() == [[1, 2], [1, 1]]


class Apart(nn.Module):
    """A stand-in for LPIPS: the mean absolute difference of two pictures."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean([1, 2, 3], keepdim=True)


def test_a_prediction_is_held_against_the_last_frame_repeated() -> None:
    """A square jumps by its own length each frame: repeated, the last frame is wrong where it was and where it is."""
    real = torch.full((2, 3, 6, 16, 16), -0.5)
    for n in range(6):
        real[:, :, n, 4:6, 2 * n : 2 * n + 2] = 0.5

    def scores(change: float) -> tuple[dict[str, Tensor], Scores]:
        future = predicted(lambda given, attempt: real + change * (attempt + 1), real, 3, 2)
        told = Scores()
        add_prediction(told, future, 3, 2)
        return future, told

    future, told = scores(0.1)
    moves = 3 * 2 * 2  # colours of four pixels: of what moves, where the square is, is in each frame
    torch.testing.assert_close(future[MOVING_OF_LAST], torch.full((2, 3), float(moves)).double())
    torch.testing.assert_close(future[MOVING], torch.full((2, 3), 0.01 * moves).double())
    name = "error over what moves after 3 given frames, in that of the last one repeated, best of 2"
    assert told.values[name] == pytest.approx(0.01)
    assert told.values[f"{name}: first and last frame"] == pytest.approx([0.01, 0.01])
    repeated = told.values["psnr of the last frame repeated after 3 given frames, best of 2"]
    assert repeated == pytest.approx(10 * np.log10(4 / (2 * 4 / 256)))
    still = Scores()
    add_prediction(
        still,
        predicted(lambda given, attempt: real[:, :, :1].expand_as(real), real[:, :, :1].expand_as(real), 3, 1),
        3,
        1,
    )
    assert still.left_out["error over what moves"] == "nothing moves in the frames that follow"


def test_predictions_are_scored_past_the_given_frames(tmp_path: Path) -> None:
    real = shapes().repeat(2, 1, 1, 1, 1)
    torch.jit.script(Apart()).save(str(tmp_path / "apart.pt"))
    declared = {"name": "apart", "file": "apart.pt", "layout": "bchw"}
    (tmp_path / "network.json").write_text(json.dumps(declared))
    network = Features.load(tmp_path)

    def extend(given: Tensor, attempt: int) -> Tensor:
        made = real.clone()
        made[:, :, 1:] += (0.25, 0.125)[attempt] * torch.ones(1)  # the second try is better
        assert torch.equal(given, real[:, :, :1])
        return made

    one = predicted(extend, real, 1, 1)
    assert set(one) == {"psnr", "ssim", "psnr of the last frame repeated", MOVING, MOVING_OF_LAST}
    assert one["psnr"].tolist() == [[pytest.approx(10 * np.log10(4 / 0.25**2), rel=1e-5)] * 3] * 2
    two = predicted(extend, real, 1, 2, network)
    assert two["psnr"].tolist() == [[pytest.approx(10 * np.log10(4 / 0.125**2), rel=1e-5)] * 3] * 2
    inside = (real[:, :, 1:] + 0.125).clamp(-1, 1) - real[:, :, 1:]
    torch.testing.assert_close(two["lpips"], inside.abs().mean((1, 3, 4)).double())
    with pytest.raises(ValueError, match="4 of 4 frames given"):
        predicted(extend, real, 4, 1)
    with pytest.raises(ValueError, match=r"expected \(b, 3, f, h, w\) twice"):
        psnr(real, real[:, :, 1:])
    with pytest.raises(ValueError, match="SSIM needs 11 pixels"):
        ssim(real[..., :10], real[..., :10])
    with pytest.raises(ValueError, match="no TorchScript of two pictures"):
        declared = Features(Apart(), network.declaration.__class__("x", "y"), "", network.device)
        lpips(real, real, declared)


def test_motion_measures_of_known_motion() -> None:
    """Brightness that rises by 0.1 of the range a frame; then one that jumps back and forth; then none."""
    steady = (torch.arange(6.0) / 5 - 1).view(1, 1, 6, 1, 1).expand(1, 3, 6, 8, 8)
    jumping = (torch.arange(6) % 2 / 5.0).view(1, 1, 6, 1, 1).expand(1, 3, 6, 8, 8)
    found = motion_measures(torch.cat([steady, jumping, torch.zeros(1, 3, 6, 8, 8)]))
    assert found["change"].tolist() == pytest.approx([0.1, 0.1, 0], abs=1e-6)
    assert found["acceleration"].tolist() == pytest.approx([0, 0.2, 0], abs=1e-6)
    assert found["flicker"].tolist() == pytest.approx([0, 0.2, 0], abs=1e-6)
    assert found["frozen"].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="with 3 frames or more"):
        motion_measures(torch.zeros(1, 3, 2, 8, 8))


def test_the_flow_explains_motion_and_not_flicker() -> None:
    """A textured frame that moves by 2 pixels is warped onto itself; one that changes its pixels at random is not."""
    draw = torch.Generator().manual_seed(0)
    texture = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 80, 72, generator=draw), 5, 1, 2)
    moving = torch.stack([texture[..., 4:68, 2 * n : 2 * n + 64] for n in range(4)], 2)
    random = torch.randn(1, 3, 4, 64, 64, generator=draw) * moving.std()
    found = warping_error(torch.cat([moving, random]).clamp(-1, 1))
    left, change = found["warping_error"], motion_measures(torch.cat([moving, random]).clamp(-1, 1))["change"]
    assert left[0] < 0.3 * change[0]
    assert left[1] > 0.5 * change[1]
    assert float(found["speed"][0]) == pytest.approx(2, abs=0.3)
