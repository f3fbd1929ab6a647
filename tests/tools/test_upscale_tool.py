"""Super-resolution from one command to the next: train, enlarge a clip, draw a cascade, score."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from pipelines import ENLARGING, enlarging, save
from safetensors.torch import load_file

from vidiff.codec.codec import Identity, VAECodec
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.schedule import Adaptive
from vidiff.nn.vae import VAEConfig
from vidiff.objective.latents import normalised
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.train import main
from vidiff.training.datasets import latent_dataset
from vidiff.training.indexes import make_index
from vidiff.training.latents import Caches
from vidiff.video.reader import VideoReader, read_image, read_metadata, read_video
from vidiff.video.writer import write_video

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a super-resolution run as the command trains it, and a run of random weights that makes clips."""
    place = tmp_path_factory.mktemp("place")
    (place / "sr.yaml").write_text(ENLARGING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["sr.yaml"]) == 0
    save(place / "runs" / "base", enlarging(factor=0), fps=6.0)
    write_video(place / "clip.mp4", torch.rand(3, 7, 16, 16) * 2 - 1, fps=10)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(tool: str, *arguments: str) -> int:
    return int(runpy.run_path(str(TOOLS / f"{tool}.py"))["main"](list(arguments)))


def frames(folder: Path) -> torch.Tensor:
    return torch.stack([read_image(path) for path in sorted(folder.glob("*.png"))], dim=1)


def test_training_leaves_a_run_that_knows_what_it_enlarges(place: Path) -> None:
    found = load(place / "runs/sr/resolved.yaml")
    assert isinstance(found, DiffusionRun)
    assert (found.lowres.factor, found.unet.lowres_channels, found.unet.patch) == (2, 3, 2)
    sample = read_video(place / "runs/sr/samples/step-0000002.mp4")
    assert sample.shape == (3, 4, 3 * 32, 2 * 32)  # bicubic, made, true
    assert main(["sr.yaml"]) == 0, "what is finished is not done again"


def test_a_schedule_that_sees_what_is_enlarged_is_trained_by_the_bound_and_drawn_with(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "adaptive"  # and not beside runs/sr, which is to stay the latest there
    changes = ["name=adaptive", f"runs={run.parent}", "objective=bound", "schedule.name=adaptive", "train.steps=3"]
    assert main(["sr.yaml", *changes]) == 0
    kept = [load_file(path) for path in sorted(run.glob("checkpoints/step-*/model.safetensors"))]
    names = [name for name in kept[-1] if name.startswith("denoiser.schedule.layers.")]
    assert len(names) == 4 and all(not torch.equal(kept[0][name], kept[-1][name]) for name in names)
    asked: list[torch.Tensor] = []
    own = Adaptive.clock

    def clock(self: Adaptive, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        asked.append(own(self, t, condition))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adaptive, "clock", clock)
        told = ["--run", str(run), "--seed", "2"]
        assert call("edit", "upscale", "clip.mp4", "--out", f"{tmp_path}/out/", *told) == 0
    assert frames(tmp_path / "out").shape == (3, 7, 32, 32)
    assert len(asked) > 2 and all(t.shape == (1, 1, 1, 1, 1) for t in asked)


def test_the_model_is_trained_to_make_what_the_bicubic_clip_lacks() -> None:
    found = load("runs/sr/resolved.yaml")
    assert isinstance(found, DiffusionRun)
    index = make_index(found, "train")
    latents = Caches(found, Identity(), "fp32").latents(index, "train")
    drawn = latent_dataset(found, index, latents, latents).__getitems__([(0, 3)])
    sample = {name: value[0] for name, value in normalised(drawn).items()}
    clip = read_video(index.files[int(sample["key"])].place)[None]  # 1 3 12 32 32
    low = enlarge(shrink(clip, 2), 2)[0]
    shift, scale = (x.view(-1, 1, 1, 1) for x in latents.codec_moments)
    shown = sample["lowres"] * scale + shift
    start = min(range(9), key=lambda i: float((low[:, i : i + 4] - shown).abs().max()))
    torch.testing.assert_close(shown, low[:, start : start + 4], atol=1e-3, rtol=0)  # float16
    assert latents.detail is not None
    again = shown + sample["mean"] * latents.detail.view(-1, 1, 1, 1) * scale
    torch.testing.assert_close(again, clip[0, :, start : start + 4], atol=2e-3, rtol=0)
    assert not sample["std"].any()
    facts = json.loads(Path("runs/sr/data.json").read_text())
    assert facts["detail"] == pytest.approx(latents.detail.tolist())


def test_detail_of_latents_is_added_to_those_of_the_bicubic_clip(tmp_path: Path) -> None:
    found = load("runs/sr/resolved.yaml", [f"runs={tmp_path}"])
    assert isinstance(found, DiffusionRun)
    index = make_index(found, "test")
    torch.manual_seed(0)
    codec = VAECodec(VAEConfig(channels=3, width=4, multipliers=[1], patch=2)).eval()
    latents = Caches(found, codec, "fp32").latents(index, "test")
    clip = read_video(index.files[5].place, range(4))[None]
    wanted = codec.encode(clip)
    codec.set_statistics(*latents.codec_moments)
    low = codec.encode(enlarge(shrink(clip, 2), 2)).mean
    assert latents.lowres is not None and latents.detail is not None
    mean, std = latents.content.read(5, 0, 4)
    shift, scale = latents.moments
    assert not shift.any()
    detail = mean / scale.view(-1, 1, 1, 1) * latents.detail.view(-1, 1, 1, 1)
    raw = (low[0] + detail) * codec.scale.view(-1, 1, 1, 1) + codec.shift.view(-1, 1, 1, 1)
    torch.testing.assert_close(raw, wanted.mean[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(std, wanted.std[0], atol=2e-3, rtol=2e-3)


def test_a_clip_is_enlarged_with_the_latest_run_that_can(tmp_path: Path) -> None:
    assert call("edit", "upscale", "clip.mp4", "--out", f"{tmp_path}/out/", "--level", "0.1", "--seed", "2") == 0
    made = frames(tmp_path / "out")
    expected = Pipeline.from_pretrained("runs/sr", "cpu").upscale(read_video("clip.mp4"), level=0.1, seed=2)[0]
    assert made.shape == (3, 7, 32, 32)
    torch.testing.assert_close(made, expected, atol=1 / 127, rtol=0)
    found = read_metadata(tmp_path / "out")
    assert (found["task"], found["level"], found["seed"], found["run"]) == ("upscale", 0.1, 2, "runs/sr")


def test_a_cascade_writes_what_its_models_make_one_after_the_other(tmp_path: Path) -> None:
    out = ["--out", f"{tmp_path}/out.mp4", "--frames", "9", "--seed", "1"]
    assert call("generate", *out, "--upscale", "runs/sr") == 0
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert (reader.frames, reader.size) == (9, (32, 32))
        found = reader.read()
    small = Pipeline.from_pretrained("runs/base", "cpu").generate(9, seed=1)
    expected = Pipeline.from_pretrained("runs/sr", "cpu").upscale(small, seed=1)[0]
    assert float((found - expected).abs().mean()) < 0.1  # H.264 of noise
    assert read_metadata(tmp_path / "out.mp4")["upscale"] == ["runs/sr"]


def test_a_run_is_scored_against_bicubic() -> None:
    assert call("evaluate", "--run", "runs/sr") == 0
    scores = json.loads(Path("runs/sr/scores.json").read_text())
    assert scores["upscaled"]["gain"] == pytest.approx(scores["upscaled"]["psnr"] - scores["bicubic"]["psnr"])
    assert 20 < scores["bicubic"]["psnr"] < 50 and scores["codec"]["psnr"] > 126
    assert scores["codec"]["frames_right"] > 0.9 and scores["sampling"]["level"] == 0
    picture = read_image(Path("runs/sr/samples/evaluated-upscaled.png"))
    assert picture.shape == (3, 4 * 32, 6 * 32)


def test_a_run_that_sees_files_at_a_rate_of_its_own_is_scored(tmp_path: Path) -> None:
    """At half of the files' rate, and then every second frame of that."""
    make_shapes(tmp_path / "set", ShapesSpec(size=32, frames=46, train=0, test=1), progress=False)
    run = shutil.copytree("runs/sr", tmp_path / "sr", symlinks=True)
    resolved = run / "resolved.yaml"
    for before, after in (("  fps: 0.0\n", "  fps: 8.0\n"), ("  - 1\n  - 1\n", "  - 2\n  - 2\n")):
        text = resolved.read_text()
        assert before in text
        resolved.write_text(text.replace(before, after, 1))
        assert call("evaluate", "--run", str(run), "--data", str(tmp_path / "set")) == 0
        scores = json.loads((run / "scores.json").read_text())
        assert scores["upscaled"]["clips"] == 12 and scores["codec"]["frames_right"] > 0.9
    found = load(resolved)
    assert isinstance(found, DiffusionRun) and (found.data.fps, found.data.stride) == (8.0, [2, 2])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--editing"], "--editing is of runs that make clips, and runs/sr enlarges them: leave --editing out"),
        (["--classifier", "runs/judge"], "--classifier is of runs that make clips, and runs/sr enlarges them"),
        (["--network", "efficientnet"], "leave it out, or give numbers of steps as well, such as --few 1 4"),
    ],
)
def test_scores_of_runs_that_make_clips_are_not_of_one_that_enlarges(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Path("runs/sr/scores.json")
    kept.write_text("those of before")
    assert call("evaluate", "--run", "runs/sr", *arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in error and kept.read_text() == "those of before"


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("generate", ["--run", "runs/sr"], "use `upscale`"),
        ("generate", ["--upscale", "runs/base"], "this run makes clips and enlarges none"),
        (
            "generate",
            ["--upscale", "runs/sr", "--upscale", "runs/sr"],
            "clips of 16 px, but is given clips of 32",
        ),
        ("edit", ["upscale", "clip.mp4", "--run", "runs/base"], "this run makes clips and enlarges none"),
        ("edit", ["double", "clip.mp4", "--run", "runs/sr"], "use `upscale`"),
        ("edit", ["upscale", "clip.mp4", "--level", "0.9"], "level is 0.9; give 0 to 0.2"),
        ("surprise", ["clip.mp4", "--run", "runs/sr", "--steps", "1"], "use `upscale`"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tool: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tool, *arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last
