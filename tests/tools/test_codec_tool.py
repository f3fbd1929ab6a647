"""tools/codec.py on an autoencoder, a model's codec and no codec at all, on real files."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from indexes import build_index

from vidiff.codec.codec import Identity, VAECodec
from vidiff.codec.files import save_codec
from vidiff.data.index import Index
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.engine.parallel import Group
from vidiff.evaluate.card import read_card
from vidiff.evaluate.codec import open_codec, score_codec
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.motion_network import MotionNetwork, save_motion
from vidiff.metrics.prediction import lpips, psnr
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective
from vidiff.recipe.kinds import VAERun
from vidiff.recipe.load import dump
from vidiff.training.windows import choose_windows
from vidiff.video.reader import read_image
from vidiff.video.writer import write_video

ROOT = Path(__file__).parents[2]
SHAPE = VAEConfig(channels=3, width=8, multipliers=[1], patch=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy clips in two splits; an autoencoder's run with a discriminator, a model's codec, and none; a network."""
    place, draw = tmp_path_factory.mktemp("place"), torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for number in range(6):
            noise = torch.randn(3, 8, 16, 16, generator=draw) * 0.3
            write_video(place / "data" / split / f"{number}.mp4", noise.clamp(-1, 1))
    torch.manual_seed(0)
    loss = VAELoss(adversarial=0.5, discriminator_width=4, discriminator_levels=2)
    objective = VAEObjective(VAE(SHAPE), loss)
    config = VAERun("vae", "tiny_vae", data=DataConfig("data", size=16, frames=4), vae=SHAPE, loss=loss)
    run = place / "runs" / "tiny_vae"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(dump(config))
    weights = objective.state_dict()
    ema = {key: value + 0.01 for key, value in weights.items() if value.is_floating_point()}
    checkpoint.save(run / "checkpoints", 1, weights, ema, {})
    codec = VAECodec(SHAPE)
    codec.network.load_state_dict({k.removeprefix("network."): v for k, v in ema.items() if k.startswith("network.")})
    codec.set_statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2.0, 1.0, 0.5]))
    save_codec(place / "runs" / "model" / "codec", codec)
    save_codec(place / "runs" / "pixels" / "codec", Identity())
    (place / "runs" / "empty").mkdir()
    save_motion(place / "network", MotionNetwork(0, features=4, width=8), {})
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def command(*arguments: str) -> int:
    main = runpy.run_path(str(ROOT / "tools" / "codec.py"))["main"]
    return int(main([*arguments, "--device", "cpu"]))


def test_an_autoencoder_and_the_codec_that_a_model_kept_of_it_are_one() -> None:
    clips = choose_windows(build_index("data", split="test"), 4, 16)
    found = [
        score_codec(open_codec(Path("runs", name)), clips, Group(torch.device("cpu")))[0]
        for name in ("tiny_vae", "model")
    ]
    video = clips.read(range(len(clips)))
    codec = open_codec(Path("runs/tiny_vae"))
    assert found[0]["psnr"] == pytest.approx(
        float(psnr(codec.decode(codec.encode(video).mean), video).mean()), rel=1e-5
    )
    for name in ("psnr", "ssim", "flicker"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)
    raw, normalised = (each["latent"] for each in found)
    assert raw["kl"] == pytest.approx(normalised["kl"], rel=1e-5)
    assert raw["mean"][0] == pytest.approx(2 * normalised["mean"][0] + 0.1, rel=1e-4)
    assert raw["std"][0] == pytest.approx(2 * normalised["std"][0], rel=1e-4)
    assert raw["compression"] == 3 * 4 / 3
    assert torch.equal(open_codec(Path("runs/model")).shift, open_codec(Path("runs/model/codec")).shift)


def test_a_codec_is_scored_with_its_ceiling_and_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "runs/tiny_vae",
        "--data",
        "data",
        "--frames",
        "4",
        "--network",
        "network",
        "--json",
        "out/scores.json",
    )
    assert command(*arguments) == 0
    said, scores = capsys.readouterr().out, json.loads(Path("out/scores.json").read_text())
    assert f"PSNR                      {scores['psnr']:>7.2f} dB" in said
    card = read_card("runs/tiny_vae/codec-scores/card.json")
    assert card.doubts == () and card.protocol["size"] == 16 and card.protocol["clips"] == scores["clips"] == 12
    assert scores["ceiling"]["scores"]["frechet_video[motion]"] == card.scores["frechet_video[motion]"]
    clips = choose_windows(build_index("data", split="test"), 4, 16)
    codec, network = open_codec(Path("runs/tiny_vae")), Features.load("network")
    video = clips.read(range(12))
    real, decoded = (Statistics.of(network(x)) for x in (video, codec.decode(codec.encode(video).mean)))
    assert card.scores["frechet_video[motion]"] == pytest.approx(frechet_distance(real, decoded), rel=1e-3)
    known = choose_windows(build_index("data", split="train"), 4, 16).read(range(12))
    other = Statistics.of(network(codec.decode(codec.encode(known).mean)))
    after = card.scores["floor after the codec frechet_video[motion]"]
    assert after == pytest.approx(frechet_distance(real, other), rel=1e-3)
    assert after > card.scores["floor frechet_video[motion]"] > 0
    assert "floor frechet_video[motion]: " in said
    assert read_image("runs/tiny_vae/codec-scores/real-decoded-error.png").shape == (3, 48, 6 * 16)
    first = Path("out/scores.json").read_bytes()
    assert command(*arguments) == 0 and Path("out/scores.json").read_bytes() == first


def test_a_network_of_pictures_tells_how_far_frames_are_from_what_they_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("runs/tiny_vae", "--data", "data", "--frames", "2", "--clips", "2", "--out", "pictures")
    assert command(*arguments, "--network", "efficientnet", "--json", "pictures/scores.json") == 0
    scores, said = json.loads(Path("pictures/scores.json").read_text()), capsys.readouterr().out
    codec = open_codec(Path("runs/tiny_vae"))
    video = choose_windows(build_index("data", split="test"), 2, 16, count=2).read(range(2))
    wanted = lpips(codec.decode(codec.encode(video).mean), video, Features.load("efficientnet")).mean()
    assert scores["perceptual"] == pytest.approx(float(wanted), rel=1e-4)
    assert f"perceptual distance       {scores['perceptual']:>10.4f}" in said
    assert read_card("pictures/card.json").scores["frechet_frame[efficientnet]"] > 0


def test_clips_are_seen_as_the_run_sees_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "runs" / "pixels", place / "runs" / "strided")
    data = DataConfig("data", size=16, frames=4, stride=[2, 3], split="test", test_split="train", background="black")
    (place / "runs" / "strided" / "resolved.yaml").write_text(dump(VAERun("vae", "strided", data=data, vae=SHAPE)))
    seen = list[tuple[str, str]]()

    def noted(data: DataConfig, runs: Path, split: str) -> Index:
        seen.append((split, data.background))
        return build_index(str(data.root), split)

    monkeypatch.setattr("vidiff.data.index.index_of", noted)
    arguments = ("runs/strided", "--data", "data", "--frames", "4", "--network", "network")
    assert command(*arguments) == 0
    card = read_card("runs/strided/codec-scores/card.json")
    assert (card.protocol["stride"], card.protocol["split"], card.protocol["clips"]) == (2, "train", 6)
    assert seen == [("train", "black"), ("test", "black")]
    assert command(*arguments, "--stride", "1", "--split", "test") == 0
    card = read_card("runs/strided/codec-scores/card.json")
    assert (card.protocol["stride"], card.protocol["split"], card.protocol["clips"]) == (1, "test", 12)


def test_no_codec_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("runs/pixels", "--data", "data", "--frames", "4", "--size", "16", "--clips", "3", "--out", "pixels")
    assert command(*arguments, "--network", "network", "--json", "pixels/scores.json") == 0
    scores = json.loads(Path("pixels/scores.json").read_text())
    assert scores["psnr"] == pytest.approx(126.02, abs=0.01) and scores["flicker"] == 0
    assert scores["latent"]["kl"] is None and scores["latent"]["compression"] == 1
    assert scores["latent"]["detail"] == scores["latent"]["detail of pixels"]
    ceiling = scores["ceiling"]["scores"]
    assert ceiling["frechet_video[motion]"] == pytest.approx(0, abs=1e-6)
    assert ceiling["floor after the codec frechet_video[motion]"] == ceiling["floor frechet_video[motion]"]
    assert "latent KL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("runs/none", "--data", "data"), "runs/none is not a trained run"),
        (("runs/empty", "--data", "data"), "runs/empty is not a trained run"),
        (("runs/pixels", "--data", "nowhere"), "nowhere"),
        (("runs/pixels", "--data", "data", "--frames", "4", "--clips", "1000"), "but 1000 are asked for"),
        (("runs/tiny_vae", "--data", "data", "--frames", "4", "--size", "15"), "shrinks them by 2"),
        (("runs/pixels", "--data", "data", "--frames", "4", "--size", "8"), "SSIM needs 11 pixels"),
        (("runs/pixels", "--data", "data", "--network", "data"), "no data/network.json"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and told in error[0]
