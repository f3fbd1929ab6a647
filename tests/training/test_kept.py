"""What a codec keeps of what moves is told, with a picture, before a model is trained on it; too little stops it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.trainings import DIFFUSION, VAE
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.evaluate.codec import open_codec
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.motion_network import MotionNetwork, save_motion
from vidiff.nn.vae import VAE as Network
from vidiff.train import main
from vidiff.training.kept import read_kept
from vidiff.training.windows import choose_windows
from vidiff.video.reader import read_image
from vidiff.video.writer import write_video

CONFIG = DIFFUSION.replace(", least: 0", "").replace("workers: 1", "workers: 0")


def clips(folder: Path) -> None:
    """Two classes of clips: a bright dot that moves over a dark wall, and a larger one."""
    for split, count in (("train", 2), ("test", 1)):
        for name, side in (("large", 12), ("small", 6)):
            for number in range(count):
                video = torch.full((3, 8, 32, 32), -0.6)
                for n in range(8):
                    video[:, n, 8 + number : 8 + number + side, 2 * n : 2 * n + side] = 0.8
                write_video(folder / split / name / f"{number}.mp4", video, fps=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of two steps, which keeps nothing, and a model that was not begun on it."""
    place = tmp_path_factory.mktemp("kept")
    clips(place / "data")
    (place / "vae.yaml").write_text(VAE.replace("workers: 1", "workers: 0"))
    (place / "model.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["model.yaml"]) == 2
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_too_little_is_told_before_anything_is_encoded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model.yaml"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    kept = json.loads((place / "runs/tiny/codec-kept.json").read_text())
    assert set(kept["classes"]) == {"large", "small"} and abs(kept["moving"]) < 0.1 and kept["clips"] == 4
    assert 0.02 < kept["share"] < 0.09  # dots are 9 % of the frames, less what of them lies on itself
    for part in (
        f"{round(100 * kept['moving'])}% of what moves",
        "codec.least asks for 0.5",
        "vae.multipliers",
        "loss.moving",
    ):
        assert part in error
    for part in ("codec.name=identity", "runs/tiny/codec-worst.png", "codec.least=0 goes on all the same"):
        assert part in error
    picture = read_image(place / "runs/tiny/codec-worst.png")
    assert picture.shape[-2:] == (3 * 32, 6 * 32)  # frames as they are, as they come back, and the error
    assert not list((place / "runs").glob("latents/*/*.safetensors"))


def test_it_goes_on_where_the_config_says_so_and_then_for_ever(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["model.yaml", "codec.least=0"]) == 0
    assert "the codec keeps, of" not in capsys.readouterr().out  # it was measured when it was refused
    assert main(["model.yaml", "train.steps=3"]) == 0  # a run that has begun is not stopped
    page = (place / "runs/tiny/report.html").read_text()
    assert "What the codec keeps" in page and "what moves" in page and "small" in page


def test_another_codec_is_measured_anew(place: Path) -> None:
    before = (place / "runs/tiny/codec-kept.json").read_text()
    assert main(["model.yaml", "codec.override.train.steps=4"]) == 2
    after = (place / "runs/tiny/codec-kept.json").read_text()
    assert json.loads(before)["codec"] != json.loads(after)["codec"]


def test_a_good_codec_is_told_and_taken(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoencoder that folds pixels into channels and unfolds them again loses nothing."""
    monkeypatch.setattr(Network, "encode", lambda self, x, stream=None: fold(self, x))
    monkeypatch.setattr(Network, "decode", lambda self, z, stream=None: torch.nn.functional.pixel_shuffle(z, 4))
    vae = ["codec.override.vae.channels=48", "codec.override.name=exact"]
    assert main(["model.yaml", "name=exactly", *vae]) == 0
    kept = json.loads((place / "runs/exactly/codec-kept.json").read_text())
    assert kept["moving"] == pytest.approx(1) and kept["detail"] == pytest.approx(1) and kept["psnr"] > 80
    assert "100% of what moves" in capsys.readouterr().out


def fold(network: Network, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    trained = 0 * sum(weight.sum() for weight in network.parameters())  # it has something to learn
    z = torch.nn.functional.pixel_unshuffle(frames, 4) + trained
    return z, torch.full_like(z, 1e-3)


def test_the_ceiling_is_the_score_of_real_clips_after_the_codec(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the network and on the windows of an evaluation; measured once, told as low, repeated by report and cards."""
    torch.manual_seed(0)
    save_motion(place / "network", MotionNetwork(0, features=4, width=8), {})
    asked = ["model.yaml", "codec.least=0", "codec.ceiling={network: network, clips: 3}"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    kept = read_kept(place / "runs/tiny")
    assert kept is not None and kept.ceiling is not None
    ceiling = kept.ceiling
    network, codec = Features.load(place / "network"), open_codec(place / "runs/tiny_vae")
    codec.set_statistics(torch.zeros(3), torch.ones(3))
    read = {}
    for split in ("test", "train"):
        index = index_of(DataConfig("data", limit=0), Path("runs"), split)
        real = choose_windows(index, 6, 32, 1, 2).read(range(2))
        read[split] = network(real), network(codec.decode(codec.encode(real).mean))
    held_out = Statistics.of(read["test"][0])
    pairs = ((read["test"][1], ceiling.pairs), (read["train"][0], ceiling.floor), (read["train"][1], ceiling.after))
    for features, found in pairs:
        assert frechet_distance(held_out, Statistics.of(features)) == pytest.approx(found, rel=1e-3)
    assert (ceiling.clips, ceiling.asked, ceiling.distance) == (2, 3, network.called("frechet")), "as many as there are"
    assert ceiling.low == (ceiling.after > 1.5 * ceiling.floor) == ("the ceiling is low" in said)
    assert f"ceiling {ceiling}" in str(kept) and "ceiling floor" in (place / "runs/tiny/report.html").read_text()
    monkeypatch.setattr("vidiff.training.kept.measure_ceiling", None)
    assert main([*asked, "train.steps=3"]) == 0, "it is measured once"


@pytest.mark.parametrize(
    ("change", "message"),
    [("network: nowhere", "no nowhere/network.json"), ("clips: 1", "codec.ceiling.clips is 1; give 2 or more")],
)
def test_a_ceiling_that_cannot_be_told_is_refused_first(
    place: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    assert main(["model.yaml", "codec.override.name=unseen", f"codec.ceiling={{{change}}}"]) == 2
    assert message in capsys.readouterr().err and not (place / "runs/unseen").exists(), "no autoencoder is trained"


def test_too_few_clips_for_a_ceiling_are_told_and_trained_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_motion(place / "network", MotionNetwork(0, features=4, width=8), {})
    few = [
        "data.limit=1",
        "codec.least=0",
        "codec.ceiling={network: network}",
        "name=few",
        "codec.override.name=few_vae",
    ]
    assert main(["model.yaml", *few]) == 0
    assert "the codec's ceiling is not measured: there are 1 held-out clips of 6 frames" in capsys.readouterr().out
    kept = read_kept(place / "runs/few")
    assert kept is not None and kept.ceiling is None


def test_pixels_are_kept_whole(place: Path) -> None:
    assert main(["model.yaml", "name=pixels", "codec={name: identity}", "unet.patch=4"]) == 0
    assert not (place / "runs/pixels/codec-kept.json").exists()
