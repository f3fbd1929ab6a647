"""Scores against TorchMetrics, of the same features, logits and frames: a library that the field compares by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from vidiff.data.shapes import ShapesClip
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.prediction import psnr, ssim
from vidiff.metrics.sets import inception_score, kernel_distance


class Given(nn.Module):
    """In place of a network: what comes in is features already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


def features(count: int, seed: int, shift: float = 0.0, width: int = 48) -> Tensor:
    """Of classes that lie apart, unlike from channel to channel and correlated, as a network's are."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x = torch.randn(count, width, generator=draw, dtype=torch.float64) @ mix / width**0.5
    return (x + 2 * (torch.arange(count)[:, None] % 5) / 5).relu() * torch.linspace(0.2, 2, width) + shift


PAIRS = [(400, 400, 0.0), (400, 250, 0.3), (1000, 900, -1.0)]


@pytest.mark.parametrize(("real", "made", "shift"), PAIRS)
def test_frechet_distance(real: int, made: int, shift: float) -> None:
    x, y = features(real, 0), features(made, 1, shift)
    theirs = FrechetInceptionDistance(Given(x.shape[1])).set_dtype(torch.float64)
    theirs.update(x, real=True)
    for part in y.split(100):
        theirs.update(part, real=False)
    ours = frechet_distance(Statistics.of(x), Statistics.merged(map(Statistics.of, y.split(100))))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-8)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
@pytest.mark.parametrize(("count", "shift"), [(200, 0.0), (200, 0.3), (300, -1.0)])
def test_kernel_distance(count: int, shift: float) -> None:
    """Theirs of one subset that is all of either set, so that every pair counts, as in ours."""
    x, y = features(count, 0), features(count, 1, shift)
    theirs = KernelInceptionDistance(Given(x.shape[1]), subsets=1, subset_size=count)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert kernel_distance(x, y)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-8)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std")  # of one split
def test_inception_score() -> None:
    """In one split, since theirs shuffles before it splits."""
    logits = 3 * features(500, 0, width=10)
    theirs = InceptionScore(Given(10), splits=1)
    theirs.update(logits)
    assert inception_score(logits, splits=1)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-8)


@pytest.mark.parametrize("amount", [0.02, 0.3])
def test_psnr_and_ssim_of_frames(amount: float) -> None:
    real = ShapesClip("red_disc", 9.0, (30.0, 30.0), (2.0, 0.0), 64).video(4)[None].double()
    made = real + amount * torch.randn(real.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = (x[0].transpose(0, 1) for x in (made, real))  # f 3 h w
    _, similar = structural_similarity_index_measure(a, b, data_range=2.0, return_full_image=True)
    inner = similar[..., 5:-5, 5:-5].mean((1, 2, 3))  # where the window of 11 pixels needs no border, as ours
    assert ssim(made, real)[0].tolist() == pytest.approx(inner.tolist(), rel=1e-9)
    theirs = [float(peak_signal_noise_ratio(x, y, data_range=2.0)) for x, y in zip(a, b, strict=True)]
    assert psnr(made, real)[0].tolist() == pytest.approx(theirs, rel=1e-6)
