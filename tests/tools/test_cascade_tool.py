"""A cascade by commands: train its second stage on parts of frames, enlarge through both, score numbers of steps."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from pipelines import ENLARGING

from vidiff.evaluate.upscaling import UpscalingProtocol, read_held_out
from vidiff.metrics.codec import frame_losses
from vidiff.metrics.prediction import overall_psnr
from vidiff.pipeline.cascade import Cascade
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.train import main
from vidiff.video.reader import read_image, read_metadata, read_video
from vidiff.video.writer import write_video

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first stage as the command trains it, and a clip."""
    place = tmp_path_factory.mktemp("place")
    (place / "sr.yaml").write_text(ENLARGING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["sr.yaml"]) == 0
    write_video(place / "clip.mp4", torch.rand(3, 7, 16, 16) * 2 - 1, fps=10)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(tool: str, *arguments: str) -> int:
    return int(runpy.run_path(str(TOOLS / f"{tool}.py"))["main"](list(arguments)))


def frames(folder: Path) -> torch.Tensor:
    return torch.stack([read_image(path) for path in sorted(folder.glob("*.png"))], dim=1)


@pytest.fixture(scope="module")
def larger(place: Path) -> Path:
    """A second stage, which enlarges what runs/sr makes, trained on parts of frames; runs/sr stays the latest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        changes = ["name=sr64", "data={root: data64, size: 64}", "data.shapes.size=64", "data.shapes.texture=4"]
        assert main(["sr.yaml", *changes, "lowres={crop: 16, level: 0.05}", "start=runs/sr", "runs=later"]) == 0
    return Path("later/sr64")


def test_a_model_trained_on_parts_of_frames_draws_whole_ones(larger: Path) -> None:
    found = load(larger / "resolved.yaml")
    assert isinstance(found, DiffusionRun) and (found.crop, found.data.size) == (16, 64)
    assert read_video(larger / "samples/step-0000002.mp4").shape == (3, 4, 3 * 64, 2 * 64)


def test_one_command_enlarges_through_both_stages(larger: Path, tmp_path: Path) -> None:
    told = ["--run", "runs/sr", "--upscale", str(larger), "--level", "0.1", "--seed", "2"]
    assert call("edit", "upscale", "clip.mp4", "--out", f"{tmp_path}/out/", *told) == 0
    made, cascade = frames(tmp_path / "out"), Cascade.from_pretrained(["runs/sr", larger], device="cpu")
    expected = cascade.upscale(read_video("clip.mp4"), level=0.1, seed=2)[0]
    assert made.shape == (3, 7, 64, 64)
    torch.testing.assert_close(made, expected, atol=1 / 127, rtol=0)
    assert read_metadata(tmp_path / "out")["upscale"] == [str(larger)]


def test_numbers_of_steps_are_scored_beside_bicubic_on_the_same_clips(larger: Path, tmp_path: Path) -> None:
    card = tmp_path / "few.json"
    asked = ["--few", "1", "3", "--starts", "4", "--new", "3", "--network", "efficientnet", "--json", str(card)]
    assert call("evaluate", "--run", "runs/sr", "--upscale", str(larger), *asked) == 0
    bicubic, one, three = json.loads(card.read_text())["rows"]
    assert [row["name"] for row in (bicubic, one, three)] == ["bicubic", "1 step", "3 steps"]
    assert [stage["steps"] for stage in three["sampling"]] == [3, 3]
    assert [stage["level"] for stage in three["sampling"]] == [0, 0.05]
    config = load(larger / "resolved.yaml")
    held = read_held_out(larger, 64, None, UpscalingProtocol(4, 3))
    assert held.truth.shape == (4, 3, 3, 64, 64) and isinstance(config, DiffusionRun)
    cascade = Cascade.from_pretrained(["runs/sr", larger], device="cpu")
    small, smooth = cascade.bicubic(held.truth)
    made = cascade.upscale(small, seed=0, steps=3)
    for row, video in ((bicubic, smooth), (three, made)):
        own, real = (frame_losses(held.truth, x)["detail"].sum(0)[0] for x in (video, held.truth))
        assert row["detail"] == pytest.approx(float(own / real), rel=1e-4)
        assert row["psnr"] == pytest.approx(overall_psnr(video, held.truth), abs=1e-3)
        assert row["frechet"] > 0 and row["perceptual"] > 0
    assert bicubic["detail"] < 0.1, "what is fine is gone"
    picture = read_image(card.with_suffix(".png"))
    assert picture.shape == (3, 5 * 64, 4 * 64)
    assert torch.equal(picture[:, -64:, -64:], ((held.truth[3, :, 1] + 1) * 127.5).round() / 127.5 - 1)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("edit", ["upscale", "clip.mp4", "--upscale", "runs/sr"], "runs/sr: it enlarges clips of 16 px"),
        ("evaluate", ["--run", "runs/sr", "--few", "1", "--given", "4"], "--given is of runs that go on"),
        ("evaluate", ["--run", "runs/sr", "--few", "1", "--students", "runs/sr"], "with --upscale"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tool: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tool, *arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last
