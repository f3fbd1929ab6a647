"""tools/score.py on a run of random weights, on real files."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidiff.codec import Identity
from vidiff.config import dump
from vidiff.data.video import write_video
from vidiff.engine import checkpoint
from vidiff.evaluate.card import read_card
from vidiff.evaluate.features import Features
from vidiff.evaluate.motion_network import MotionNetwork, save_motion
from vidiff.nn.unet import UNetConfig
from vidiff.recipe import CodecConfig, DataConfig, DiffusionRun, SamplingConfig, build_denoiser
from vidiff.run import save_codec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noisy clips, in two splits; a run of random weights; a motion network of random weights."""
    place, draw = tmp_path_factory.mktemp("place"), torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for number in range(6):
            noise = torch.randn(3, 9, 16, 16, generator=draw) * 0.3 + (number % 2) / 2
            write_video(place / "data" / split / ("cat", "dog")[number % 2] / f"{number}.mp4", noise.clamp(-1, 1))
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=2)
    data = DataConfig("data", size=16, frames=4)
    sampling = SamplingConfig({"name": "ddim"}, steps=2, context=2)
    config = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    run = place / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(dump(config))
    (run / "data.json").write_text(json.dumps({"labels": ["cat", "dog"], "fps": 8.0}))
    save_codec(run / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    checkpoint.save(run / "checkpoints", 1, weights, weights, {}, keep=1)
    torch.manual_seed(0)
    save_motion(place / "network", MotionNetwork(2, features=4, width=8), {})
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


COMMON = ("--real", "data", "--network", "network", "--device", "cpu")


def score(*arguments: str) -> int:
    main = runpy.run_path(str(ROOT / "tools" / "score.py"))["main"]
    return int(main([*arguments, *COMMON]))


def test_a_run_is_scored_with_a_card_and_a_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score("runs/tiny", "--predict", "2", "--tries", "2", "--out", "one") == 0
    said = capsys.readouterr().out
    card = read_card("one/card.json")
    assert card.doubts == ()
    assert card.protocol["clips"] == card.protocol["real_clips"] == 12  # two windows of each of six files
    assert card.protocol["network_sha256"] == Features.load("network").sha256
    assert (card.protocol["frames"], card.protocol["size"], card.protocol["stride"]) == (4, 16, 1)
    assert card.made == {
        "source": "runs/tiny",
        "weights": "ema",
        "sampler": {"name": "ddim"},
        "steps": 2,
        "guidance": 1.5,
        "seed": 0,
    }
    assert card.scores["frechet_video[motion]"] > 0
    assert card.scores["floor frechet_video[motion]"] > 0
    assert card.scores["ceiling frechet_video[motion]"] == pytest.approx(0, abs=1e-6)  # there is no codec
    assert 0 <= card.scores["precision, recall_video[motion]"][0] <= 1
    assert 1 <= card.scores["inception score[motion] in 1 parts and standard deviation"][0] <= 2
    assert card.scores["psnr after 2 given frames, best of 2"] > 0
    assert "lpips" in card.left_out
    assert f"frechet_video[motion]: {card.scores['frechet_video[motion]']:.6g}" in said
    page = Path("one/report.html").read_text()
    assert page.count("<video") == 1
    assert page.count("<img") == 1
    assert "frechet_video[motion]" in page
    assert "No step has been logged" not in page


def test_the_same_again_compares_and_an_edited_card_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert score("runs/tiny", "--out", "two", "--clips", "8") == 0
    assert score("runs/tiny", "--out", "three", "--clips", "8", "--against", "two/card.json") == 0
    said = capsys.readouterr().out
    value = read_card("two/card.json").scores["frechet_video[motion]"]
    assert read_card("three/card.json").scores == read_card("two/card.json").scores
    assert f"against the other card: frechet_video[motion]: {value:.6g} against {value:.6g}" in said
    edited = json.loads(Path("two/card.json").read_text())
    edited["scores"]["frechet_video[motion]"] = 0.001
    Path("edited.json").write_text(json.dumps(edited))
    assert score("runs/tiny", "--out", "three", "--clips", "8", "--against", "edited.json") == 0
    said = capsys.readouterr().out
    assert "not compared: the other card cannot be trusted: its content is not what its digest" in said
    assert "against the other card" not in said
    assert score("runs/tiny", "--out", "three", "--clips", "6", "--against", "two/card.json") == 0
    assert "not compared: clips differs: 6 against 8" in capsys.readouterr().out


def test_a_folder_of_clips_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    """The training clips in place of made ones: what was made is the training data, and the score says so."""
    assert score("data/train", "--frames", "4", "--size", "16", "--out", "copies") == 0
    card = read_card("copies/card.json")
    assert card.scores["frechet_video[motion]"] == card.scores["floor frechet_video[motion]"]
    assert card.left_out["ceiling"] == "clips from a folder have no codec"
    assert card.made["guidance"] is None
    assert "share of clips nearer" in "".join(card.left_out)  # 12 held-out clips are too few to tell
    del capsys


@pytest.mark.slow
def test_two_processes_print_the_same_digits(tmp_path: Path) -> None:
    told = []
    for count in (1, 2):
        out = tmp_path / str(count)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [str(ROOT / "tools" / "score.py"), "runs/tiny", *COMMON, "--predict", "2", "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.replace(str(out), ""))
        assert read_card(out / "card.json").measured["processes"] == count
    assert told[0] == told[1]
    assert "frechet_video[motion]: " in told[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere", "--frames", "4"), "no folder nowhere: give a trained run, or a folder of clips"),
        (("data", "--clips", "1000", "--frames", "4"), "but 1000 are asked for"),
        (("runs/tiny", "--size", "32"), "makes clips of 16 pixels"),
        (("data", "--predict", "2"), "data is no trained run, so it cannot continue clips"),
        (("runs/tiny", "--predict", "4"), "4 of 4 frames given"),
        (("runs/tiny", "--against", "none.json"), "none.json: No such file"),
        (("runs/tiny", "--clip", "data"), "data holds no CLIP model"),
        (("runs/tiny", "--frames", "100"), "needs 100 frames"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert told in error[0]
