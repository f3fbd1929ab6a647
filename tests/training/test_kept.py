"""What a codec keeps of what moves is told, with a picture, before a model is trained on it; too little stops it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.trainings import DIFFUSION, VAE
from vidiff.nn.vae import VAE as Network
from vidiff.train import main
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


def test_pixels_are_kept_whole(place: Path) -> None:
    assert main(["model.yaml", "name=pixels", "codec={name: identity}", "unet.patch=4"]) == 0
    assert not (place / "runs/pixels/codec-kept.json").exists()
