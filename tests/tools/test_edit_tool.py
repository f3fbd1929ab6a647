"""The edit command: each task writes its clip, keeps what was given, and names mistakes in one line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from vidiff.codec.codec import Identity
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.nn.unet import UNetConfig
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.video.reader import VideoReader, read_image, read_metadata, read_video
from vidiff.video.writer import write_image, write_video

TOOL = Path(__file__).parents[2] / "tools" / "edit.py"
SIDE = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of random weights, a clip, a picture and masks; pictures are exact, so clips are as well."""
    place = tmp_path_factory.mktemp("place")
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=2)
    data = DataConfig("data", size=SIDE, frames=4)
    sampling = SamplingConfig({"name": "ddim"}, steps=1, context=2)
    config = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    run = place / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(dump(config))
    (run / "data.json").write_text(json.dumps({"labels": ["cat", "dog"], "fps": 6.0}))
    save_codec(run / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    checkpoint.save(run / "checkpoints", 1, weights, weights, {})
    write_video(place / "clip.mp4", torch.rand(3, 5, SIDE, SIDE) * 2 - 1, fps=10)
    write_video(place / "wide.mp4", torch.rand(3, 3, 2 * SIDE, 3 * SIDE) * 2 - 1, fps=10)
    write_image(place / "picture.png", torch.rand(3, SIDE, SIDE) * 2 - 1)
    mask = -torch.ones(3, 5, SIDE, SIDE)
    write_image(place / "black.png", mask[:, 0])
    mask[:, :, 4:8, 2:9] = 1
    write_image(place / "mask.png", mask[:, 0])
    write_image(place / "large.png", mask[:, 0].repeat_interleave(3, 1).repeat_interleave(3, 2))
    write_video(place / "mask.mp4", mask, crf=0)
    write_video(place / "short.mp4", mask[:, :3])
    (place / "notes.txt").write_text("not a film")
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(*arguments: str) -> int:
    """The exit code, run in this process."""
    try:
        return int(runpy.run_path(str(TOOL))["main"](list(arguments)))
    except SystemExit as end:  # argparse's own
        return int(end.code or 0)


def frames(folder: Path) -> torch.Tensor:
    """A folder of pictures, which hold the very bytes that were written."""
    return torch.stack([read_image(path) for path in sorted(folder.glob("*.png"))], dim=1)


@pytest.mark.parametrize(
    ("arguments", "count", "given"),
    [
        (("animate", "picture.png"), 4, None),
        (("animate", "clip.mp4", "--frames", "7"), 7, {0: 0}),
        (("rewind", "clip.mp4", "--frames", "9", "--label", "dog"), 9, {4 + i: i for i in range(5)}),
        (("interpolate", "clip.mp4", "picture.png", "--between", "2"), 8, {i: i for i in range(5)}),
        (("interpolate", "clip.mp4", "clip.mp4", "--between", "1"), 11, {0: 0, 4: 4, 6: 0, 10: 4}),
        (("loop", "clip.mp4"), 7, {i: i for i in range(5)}),
        (("double", "clip.mp4"), 9, {2 * i: i for i in range(5)}),
        (("restyle", "clip.mp4", "--strength", "0.5", "--label", "cat"), 5, {}),
        (("restyle", "clip.mp4", "--strength", "0.9", "--inversion", "2", "--source-label", "dog"), 5, {}),
        (("invert", "clip.mp4", "--inversion", "2", "--label", "dog"), 5, {}),
        (("inpaint", "clip.mp4", "--box", "0,0,4,4"), 5, {}),
        (("outpaint", "clip.mp4", "--box", "0,0,4,4"), 5, {}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_each_task_writes_its_frames(arguments, count: int, given: dict | None, tmp_path: Path) -> None:
    assert call(*arguments, "--out", f"{tmp_path}/out/") == 0
    made, clip = frames(tmp_path / "out"), read_video("clip.mp4")
    assert made.shape == (3, count, SIDE, SIDE)
    for new, old in (given or {}).items():
        assert torch.equal(made[:, new], clip[:, old])
    found = read_metadata(tmp_path / "out")
    assert (found["task"], found["input"], found["seed"], found["steps"]) == (*arguments[:2], 0, 1)


@pytest.mark.parametrize(
    "where", [("--box", "4,2,8,9"), ("--mask", "mask.png"), ("--mask", "large.png"), ("--mask", "mask.mp4")]
)
def test_boxes_and_masks_say_the_same(where: tuple[str, str], tmp_path: Path) -> None:
    assert call("inpaint", "clip.mp4", *where, "--out", f"{tmp_path}/out/") == 0
    new = torch.zeros(3, 5, SIDE, SIDE, dtype=torch.bool)
    new[:, :, 4:8, 2:9] = True
    made, clip = frames(tmp_path / "out"), read_video("clip.mp4")
    assert torch.equal(made[~new], clip[~new]) and (made[new] != clip[new]).float().mean() > 0.9


def test_what_is_outpainted_is_around_the_box(tmp_path: Path) -> None:
    assert call("outpaint", "clip.mp4", "--box", "4,2,8,9", "--out", f"{tmp_path}/out/") == 0
    made, clip = frames(tmp_path / "out"), read_video("clip.mp4")
    assert torch.equal(made[:, :, 4:8, 2:9], clip[:, :, 4:8, 2:9]) and not torch.equal(made, clip)


@pytest.mark.parametrize(
    ("arguments", "fps"),
    [
        (("loop", "clip.mp4"), 10),
        (("double", "clip.mp4"), 20),
        (("animate", "picture.png"), 6),
        (("double", "clip.mp4", "--fps", "5"), 5),
    ],
)
def test_frames_a_second_are_those_of_the_input(arguments: tuple[str, ...], fps: float, tmp_path: Path) -> None:
    assert call(*arguments, "--out", f"{tmp_path}/out.mp4") == 0
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.fps == pytest.approx(fps, rel=1e-3)


def test_other_sizes_are_fitted(tmp_path: Path) -> None:
    assert call("double", "wide.mp4", "--out", f"{tmp_path}/out.mp4") == 0
    assert read_video(tmp_path / "out.mp4").shape == (3, 5, SIDE, SIDE)


MISTAKES = [
    (("animate", "none.png"), "none.png: no such file"),
    (("animate", "notes.txt"), "notes.txt: not a "),
    (("animate", "picture.png", "--frames", "1"), "frames is 1, the clip has 1 already"),
    (("animate", "picture.png", "--run", "none"), "none is not a trained run"),
    (("animate", "picture.png", "--out", "clip.avi"), "cannot write .avi files; use .mp4"),
    (("animate", "picture.png", "--fps", "0"), "--fps: 0 is out of range; give"),
    (("rewind", "clip.mp4", "--frames", "5"), "frames is 5, the clip has 5 already"),
    (("rewind", "clip.mp4", "--frames", "9", "--context", "4"), "context is 4; give 1 to 3"),
    (("interpolate", "clip.mp4", "none.mp4", "--between", "1"), "none.mp4: no such file"),
    (("interpolate", "clip.mp4", "clip.mp4", "--between", "0"), "--between: 0 is out of range; give 1"),
    (("loop", "clip.mp4", "--between", "-1"), "--between: -1 is out of range; give 1"),
    (("loop", "clip.mp4", "--label", "dgo"), "no label 'dgo'; the nearest of 2 are dog"),
    (("inpaint", "clip.mp4", "--box", "1,2,3"), "--box is 1,2,3; give top,left,bottom,right in pixels"),
    (("inpaint", "clip.mp4", "--box", "a,b,c,d"), "--box is a,b,c,d; give"),
    (("inpaint", "clip.mp4", "--box", "0,0,99,4"), "must lie within 16 x 16"),
    (("inpaint", "clip.mp4", "--mask", "black.png"), "black.png is white nowhere"),
    (("inpaint", "clip.mp4", "--mask", "none.png"), "none.png: no such file"),
    (("inpaint", "clip.mp4", "--mask", "short.mp4"), "the mask is (1, 1, 3, 16, 16); expected"),
    (("outpaint", "clip.mp4", "--box", "4,4,4,8"), "must lie within 16 x 16"),
    (("restyle", "clip.mp4", "--strength", "2"), "strength is 2.0; give 0"),
    (("restyle", "clip.mp4", "--strength", "0.5", "--sampler", "x"), "unknown sampling.sampler 'x'"),
    (("restyle", "clip.mp4", "--strength", "0.5", "--inversion", "-1"), "--inversion: -1 is out of range; give 0"),
    (("restyle", "clip.mp4", "--strength", "0.5", "--source-label", "dog"), "give inversion as well"),
    (("invert", "clip.mp4", "--inversion", "0"), "--inversion: 0 is out of range; give 1"),
    (("invert", "clip.mp4", "--sampler", "heun"), "sampler is heun, but inversion is of DDIM"),
    (("double", "picture.png"), "the clip has 1 frame"),
    (("double", "clip.mp4", "--steps", "0"), "--steps: 0 is out of range; give 1"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], said: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(place.rglob("*"))
    assert call(*arguments) == 2
    said_all = capfd.readouterr().err.replace("\r", "\n").splitlines()
    aside = ("sampling", "[")  # the progress bar, and a line that decord writes past its own log level
    lines = [line for line in said_all if line.strip() and not line.startswith(aside)]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], lines
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("paint", "clip.mp4"),
        ("rewind", "clip.mp4"),
        ("interpolate", "clip.mp4", "--between", "1"),
        ("inpaint", "clip.mp4"),
        ("inpaint", "clip.mp4", "--box", "0,0,4,4", "--mask", "mask.png"),
        ("restyle", "clip.mp4", "--strength", "much"),
        ("loop", "clip.mp4", "--strength", "0.5"),
    ],
)
def test_what_is_missing_or_too_much_is_argparses_to_tell(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "--help" in said
