"""The classifier of noised clips."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.nn.blocks import layer_norm
from vidiff.nn.classifier import Classifier, ClassifierConfig, Pool

SMALL = ClassifierConfig(channels=3, labels=5, width=8, multipliers=[1, 2], blocks=[1, 1], head_dim=8)


def inputs(batch: int = 3, frames: int = 4, size: int = 8) -> tuple[Tensor, Tensor]:
    """A clip, and a clock that differs from sample to sample and from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, frames, size, size, generator=generator)
    clock = torch.linspace(-8.0, 8.0, batch * frames).view(batch, 1, frames, 1, 1)
    return x, clock.expand(batch, 1, frames, size, size)


def test_samples_do_not_mix() -> None:
    network, (x, log_snr) = Classifier(SMALL).eval(), inputs()
    logits = network(x, log_snr, Condition())
    assert logits.dtype == torch.float32
    for i in range(3):
        alone = network(x[i : i + 1], log_snr[i : i + 1], Condition())
        torch.testing.assert_close(alone, logits[i : i + 1], atol=1e-5, rtol=0)


def test_every_voxel_and_every_frame_s_clock_counts() -> None:
    network, (x, log_snr) = Classifier(SMALL).eval(), inputs()
    x, log_snr = x.requires_grad_(), log_snr.clone().requires_grad_()
    logits = network(x, log_snr, Condition())
    by_voxel, by_clock = torch.autograd.grad(logits[:, :, 0].sum(), (x, log_snr))
    assert (by_voxel.abs().amax(1) > 0).all() and (by_clock != 0).all()


def test_a_verdict_on_a_frame_looks_as_far_as_the_blocks_reach() -> None:
    """Two blocks, and a frame to each side for each: so no frame can speak for a whole clip."""
    network, (x, log_snr) = Classifier(SMALL).eval(), inputs(frames=9)
    plain, other = network(x, log_snr, Condition()), x.clone()
    other[:, :, 4] += 1.0
    change = (network(other, log_snr, Condition()) - plain).abs().amax((0, 2))
    assert (change > 1e-6).tolist() == [False, False, True, True, True, True, True, False, False]


@pytest.mark.parametrize(("frames", "size"), [(1, 8), (7, 4), (4, 16)])
def test_other_lengths_and_sizes_are_read(frames: int, size: int) -> None:
    logits = Classifier(SMALL)(*inputs(2, frames, size), Condition())
    assert logits.shape == (2, frames, 5) and logits.isfinite().all()


def test_it_is_not_told_the_label_but_the_stride() -> None:
    x, log_snr = inputs()
    plain = Classifier(SMALL)
    label, stride = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 4])
    assert torch.equal(plain(x, log_snr, Condition()), plain(x, log_snr, Condition(label=label, stride=stride)))
    strided = Classifier(replace(SMALL, strided=True))
    for parameter in strided.parameters():  # modulation begins at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert not torch.equal(strided(x, log_snr, Condition()), strided(x, log_snr, Condition(stride=stride)))


def test_pooling_is_a_weighted_mean_of_a_frame_and_prefers_a_cleaner_clock() -> None:
    """The weights are a softmax over voxels of `query + preference * log_snr`, each head's own."""
    pool, (x, log_snr) = Pool(16, 8), (torch.randn(6, 16, 2, 2), torch.randn(6, 1, 2, 2))
    with torch.no_grad():
        pool.query.weight.zero_()
        pool.query.bias.zero_()
        pool.preference.copy_(torch.tensor([0.0, math.log(3.0)]))
        value = pool.value(layer_norm(x.movedim(1, -1)).movedim(-1, 1))
        found = pool(x, log_snr)
    weight = 3.0**log_snr
    weight = weight / weight.sum((2, 3), keepdim=True)
    torch.testing.assert_close(found[:, :8], value.mean((2, 3))[:, :8])
    torch.testing.assert_close(found[:, 8:], (weight * value).sum((2, 3))[:, 8:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"multipliers": []}, "classifier.multipliers is []"),
        ({"blocks": [1]}, "classifier.blocks is [1], classifier.multipliers [1, 2]"),
        ({"spatial_attention": [2]}, "names level 2, but multipliers give levels 0 to 1"),
        ({"width": 0}, "classifier.width is 0"),
        ({"dropout": 1.0}, "classifier.dropout is 1.0"),
        ({"head_dim": 6}, "16 channels do not divide into heads of 6"),
        ({"labels": 1}, "classifier.labels is 1; a classifier tells 2 classes or more apart"),
    ],
)
def test_what_builds_no_network_is_named(change: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Classifier(replace(SMALL, **change))
    assert said in str(caught.value)


def test_a_size_that_does_not_halve_is_named() -> None:
    with pytest.raises(ValueError, match="halves 5x5 1 times: both must divide by 2"):
        Classifier(SMALL)(*inputs(size=5), Condition())
