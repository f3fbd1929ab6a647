"""A run that sees clips at a rate of its own sees the user's at that rate as well, and what it makes has that rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vidiff.cli.use import edit, extend
from vidiff.codec.codec import Identity
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.video.reader import VideoReader, read_image, read_video
from vidiff.video.writer import write_video

SIDE = 16
Command = Callable[[list[str]], int]


def make_run(folder: Path, **data: object) -> None:
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4)
    options = DataConfig("data", size=SIDE, frames=4, **data)  # type: ignore[arg-type]
    sampling = SamplingConfig({"name": "ddim"}, steps=1, context=2)
    config = DiffusionRun(
        "diffusion", folder.name, data=options, codec=CodecConfig("identity"), unet=unet, sampling=sampling
    )
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(dump(config))
    (folder / "data.json").write_text(json.dumps({"labels": [], "fps": 5.0}))
    save_codec(folder / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    checkpoint.save(folder / "checkpoints", 1, weights, weights, {})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that see 5 frames a second, every third frame, and each; and a clip at 15."""
    place = tmp_path_factory.mktemp("place")
    make_run(place / "runs" / "five", fps=5.0)
    make_run(place / "runs" / "third", stride=[3, 3])
    make_run(place / "runs" / "own")
    write_video(place / "clip.mp4", torch.rand(3, 15, SIDE, SIDE) * 2 - 1, fps=15)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


TASKS = [  # a task; frames that it makes of 5 given ones; where given ones stand in its result
    (extend.main, ("clip.mp4", "--frames", "8"), 8, {i: i for i in range(5)}),
    (extend.main, ("clip.mp4", "--frames", "8", "--given", "3"), 8, {i: i for i in range(3)}),
    (edit.main, ("animate", "clip.mp4", "--frames", "6"), 6, {0: 0}),
    (edit.main, ("rewind", "clip.mp4", "--frames", "8"), 8, {3 + i: i for i in range(5)}),
    (edit.main, ("loop", "clip.mp4"), 7, {i: i for i in range(5)}),
    (
        edit.main,
        ("interpolate", "clip.mp4", "clip.mp4", "--between", "1"),
        11,
        {i: i for i in range(5)} | {6 + i: i for i in range(5)},
    ),
    (edit.main, ("double", "clip.mp4"), 9, {2 * i: i for i in range(5)}),
    (edit.main, ("inpaint", "clip.mp4", "--box", "0,0,4,4"), 5, {}),
    (edit.main, ("outpaint", "clip.mp4", "--box", "0,0,4,4"), 5, {}),
    (edit.main, ("restyle", "clip.mp4", "--strength", "0"), 5, {i: i for i in range(5)}),
]


@pytest.mark.parametrize("run", ["five", "third"])
@pytest.mark.parametrize(("main", "arguments", "count", "given"), TASKS, ids=[" ".join(task[1]) for task in TASKS])
def test_each_task_sees_and_writes_the_rate_of_the_model(
    run: str, main: Command, arguments: tuple[str, ...], count: int, given: dict[int, int], tmp_path: Path, capsys
) -> None:
    assert main([*arguments, "--run", f"runs/{run}", "--out", f"{tmp_path}/out/"]) == 0
    said = capsys.readouterr().out
    assert said.count("clip.mp4 is seen at 5 frames a second") == 1 + (arguments[0] == "interpolate")
    made = torch.stack([read_image(path) for path in sorted((tmp_path / "out").glob("*.png"))], dim=1)
    seen = read_video("clip.mp4", range(0, 15, 3))
    assert made.shape[1] == count
    for place, number in given.items():
        assert torch.equal(made[:, place], seen[:, number])
    if "inpaint" in arguments:
        assert torch.equal(made[..., 5:, 5:], seen[..., 5:, 5:])
    if "outpaint" in arguments:
        assert torch.equal(made[..., :4, :4], seen[..., :4, :4])


@pytest.mark.parametrize(
    ("run", "arguments", "fps"),
    [("five", ("loop",), 5), ("third", ("loop",), 5), ("five", ("double",), 10), ("own", ("loop",), 15)],
)
def test_what_is_written_plays_at_that_rate(run: str, arguments: tuple[str, ...], fps: float, tmp_path: Path) -> None:
    assert edit.main([*arguments, "clip.mp4", "--run", f"runs/{run}", "--out", f"{tmp_path}/out.mp4"]) == 0
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.fps == pytest.approx(fps, rel=1e-3)


def test_a_run_without_a_rate_takes_the_clip_as_it_is(tmp_path: Path, capsys) -> None:
    assert extend.main(["clip.mp4", "--frames", "17", "--run", "runs/own", "--out", f"{tmp_path}/out/"]) == 0
    made = torch.stack([read_image(path) for path in sorted((tmp_path / "out").glob("*.png"))], dim=1)
    assert torch.equal(made[:, :15], read_video("clip.mp4")) and "is seen at" not in capsys.readouterr().out


def test_calls_read_a_file_at_the_rate_of_the_model() -> None:
    pipe = Pipeline.from_pretrained("runs/five", "cpu")
    clip = pipe.read_clip("clip.mp4")
    assert pipe.fps == 5 and torch.equal(clip, read_video("clip.mp4", range(0, 15, 3)))
    assert torch.equal(pipe.extend(clip, 7)[0, :, :5], clip)
    assert pipe.read_clip("clip.mp4", (8, 8)).shape == (3, 5, 8, 8)
