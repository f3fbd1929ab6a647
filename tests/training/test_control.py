"""A model that is shown another video of each clip, trained by the command: what it makes goes by that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vidiff
from vidiff.cli.make.doctor import main as doctor
from vidiff.cli.make.encode import main as encode
from vidiff.cli.make.train import main as train
from vidiff.cli.use.edit import main as edit
from vidiff.cli.use.extend import main as extend
from vidiff.cli.use.generate import main as generate
from vidiff.pipeline.pipeline import Pipeline
from vidiff.video.reader import read_video
from vidiff.video.writer import write_image, write_video

CONFIG = """\
kind: diffusion
name: shown
device: cpu
batch: 4
data: {root: clips, control: masks, size: 16, frames: 6, workers: 0, stride: [1, 2], flip: true, crops: 2}
codec: {name: identity}
unet: {width: 16, multipliers: [1, 2], blocks: [1, 1], head_dim: 8, patch: 2}
sampling: {sampler: {name: ddim}, steps: 4, context: 3, count: 2, guidance: 1}
loss: {tasks: {generate: 1, first: 1}, drop_control: 0.1}
train: {steps: 40, precision: fp32, optim: {lr: 0.01}, log_every: 20, checkpoint_every: 40, sample_every: 40}
"""


def drawn(folder: Path, beside: Path, clips: int, seed: int) -> None:
    """Clips of a bright square that jumps at random; beside each, half as large, where the square is, darkly."""
    folder.mkdir(parents=True, exist_ok=True)
    beside.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for number in range(clips):
        video, mask = torch.full((3, 12, 16, 24), -1.0), torch.full((3, 12, 16, 24), 1.0)
        for frame, (top, left) in enumerate(zip(2 * draw.integers(0, 5, 12), 2 * draw.integers(0, 9, 12), strict=True)):
            video[:, frame, top : top + 6, left : left + 6] = 1
            mask[:, frame, top : top + 6, left : left + 6] = -1
        write_video(folder / f"{number}.mp4", video, crf=4)
        write_video(beside / f"{number}.mkv", mask[..., ::2, ::2], crf=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shown")
    drawn(place / "clips" / "train", place / "masks" / "train", 6, 0)
    drawn(place / "clips" / "test", place / "masks" / "test", 2, 1)
    (place / "shown.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["shown.yaml"]) == 0
    return place


@pytest.fixture(scope="module")
def pipe(place: Path) -> Pipeline:
    return vidiff.Pipeline.from_pretrained(place / "runs" / "shown", device="cpu")


def mask(frames: int, seed: int) -> Tensor:
    """Where a square is to be, `(3, frames, 16, 16)`."""
    draw, video = np.random.default_rng(seed), torch.full((3, frames, 16, 16), 1.0)
    for frame, (top, left) in enumerate(2 * draw.integers(0, 5, (frames, 2))):
        video[:, frame, top : top + 6, left : left + 6] = -1
    return video


def test_what_is_made_is_where_the_control_says(pipe: Pipeline) -> None:
    control = mask(6, 5)
    made = pipe.generate(control=control, seed=0)
    assert made.shape == (1, 3, 6, 16, 16)  # as many frames as the control has
    wanted = control < 0
    assert float(made[0][wanted].mean() - made[0][~wanted].mean()) > 0.8, "the square is bright, and all else dark"
    unknown = pipe.generate(6, seed=0)[0]
    assert abs(float(unknown[wanted].mean() - unknown[~wanted].mean())) < 0.4
    assert not torch.equal(made, pipe.generate(control=control, control_guidance=3.0, seed=0))
    assert torch.equal(made, pipe.generate(control=control, control_guidance=1.0, seed=0))
    both = torch.stack([control, mask(6, 6)])
    assert torch.allclose(pipe.generate(control=both, count=2, seed=0)[0, :, 0], made[0, :, 0], atol=1.0)


@pytest.mark.parametrize("strategy", ["clean", "noisy", "rolling", {"name": "keyframes", "stride": 2}])
def test_every_strategy_shows_each_frame_its_own(pipe: Pipeline, strategy: object) -> None:
    """A long video whose last frame alone is to be another differs in its last window, and nowhere before."""
    clip, control = pipe.generate(6, seed=1)[0], mask(22, 7)
    other = control.clone()
    other[:, -1] = -other[:, -1]
    one, two = (pipe.extend(clip, 22, control=each, strategy=strategy, seed=2) for each in (control, other))
    same = (one == two).flatten(3).all(3).all(1)[0]
    assert not same[-1] and same[: 22 - 6 - 4].all()
    moved = pipe.extend(clip, 22, control=control.roll(1, dims=1), strategy=strategy, seed=2)
    assert not torch.equal(moved, one)


def test_a_long_video_goes_by_its_control_in_every_window(pipe: Pipeline) -> None:
    control = mask(30, 8)
    made, wanted = pipe.generate(30, control=control, seed=3)[0], control < 0
    for first in (0, 8, 16, 24):
        part, where = made[:, first : first + 6], wanted[:, first : first + 6]
        assert float(part[where].mean() - part[~where].mean()) > 0.8, first
    back = pipe.extend(made[:, -4:], 12, control=control[:, -12:], backwards=True, seed=3)[0, :, :8]
    where = wanted[:, -12:-4]
    assert float(back[where].mean() - back[~where].mean()) > 0.8


def test_edits_take_a_control(pipe: Pipeline) -> None:
    clip, one, other = pipe.generate(6, seed=1), mask(6, 2), mask(6, 3)
    for task, rest in {
        "edit": (0.9,),
        "inpaint": (torch.ones(1, 1, 1, 16, 16, dtype=torch.bool),),
        "invert": (),
    }.items():
        made = [getattr(pipe, task)(clip, *rest, control=each, seed=3) for each in (one, other)]
        assert not torch.equal(*made), task
    with pytest.raises(ValueError, match="control has 6 frames, but the result has 11: give as many"):
        pipe.double(clip, control=one)


def test_it_samples_what_goes_with_held_out_clips(place: Path) -> None:
    """Of two clips: the controls above, what is made of them, and the real clips below, of the same windows."""
    rows = read_video(place / "runs" / "shown" / "samples" / "step-0000040.mp4")
    assert rows.shape[2:] == (48, 32)
    control, made, real = rows.split(16, dim=2)
    assert float(((control < 0) == (real > 0)).float().mean()) > 0.97, "frame by frame, crop by crop"
    assert float(made[control < 0].mean() - made[control > 0].mean()) > 0.6


def test_the_cache_holds_the_same_windows_of_both(place: Path) -> None:
    """Mirrored, cropped and at strides, as a training draws them."""
    from prepared import prepare_latents

    from vidiff.recipe.load import load
    from vidiff.training.datasets import latent_dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        config = load(Path("shown.yaml"))
        prepared = prepare_latents(config, Path())
        dataset = latent_dataset(config, prepared.index, prepared.seen, prepared.seen)
        batch = dataset.__getitems__([(epoch, index) for epoch in range(6) for index in range(6)])
    assert {1, 2} == {*batch["stride"].tolist()} and batch["control"].shape == batch["latent"].shape
    agree = ((batch["control"].float() < 0) == (batch["latent"].float() > 0)).float().mean((1, 2, 3, 4, 5))
    assert float(agree.min()) > 0.97


def test_a_control_that_has_changed_is_encoded_anew_and_the_old_cache_is_told_of(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    caches = {path.parent for path in (place / "runs" / "latents").glob("*/index.json")}
    assert len(caches) == 4
    shutil.copytree(place / "masks", place / "kept")
    try:
        assert encode(["shown.yaml"]) == 0
        assert {path.parent for path in (place / "runs" / "latents").glob("*/index.json")} == caches
        assert "was made of other files" not in "".join(capsys.readouterr())
        write_video(place / "masks" / "test" / "0.mkv", read_video(place / "masks" / "test" / "1.mkv"))
        assert encode(["shown.yaml"]) == 0
        new = {path.parent for path in (place / "runs" / "latents").glob("*/index.json")} - caches
        assert len(new) == 1 and "was made of other files, or labels" in "".join(capsys.readouterr())
        made_of = json.loads((new.pop() / "index.json").read_text())["made_of"]
        assert made_of["kind"] == "control"
    finally:
        shutil.rmtree(place / "masks")
        (place / "kept").rename(place / "masks")


def test_what_goes_with_no_clip_is_named_before_anything_is_encoded(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    shutil.copytree(place / "masks", place / "wrong")
    folder = place / "wrong" / "train"
    (folder / "0.mkv").unlink()
    write_video(folder / "1.mkv", torch.zeros(3, 11, 8, 12))
    write_video(folder / "2.mkv", torch.zeros(3, 12, 16, 16))
    (folder / "3.mkv").write_bytes(b"nothing")
    shutil.copy(folder / "4.mkv", folder / "4.mp4")
    shutil.copy(folder / "5.mkv", folder / "5.avi")
    assert train(["shown.yaml", "name=other", "data.control=wrong"]) == 2
    told = capsys.readouterr().err
    assert "5 of 6 clips have nothing there that goes with them frame by frame" in told
    assert "train/0.mp4: no wrong/train/0.* (or a folder of pictures)" in told
    assert "wrong/train/1.mkv has 11 frames, and train/1.mp4 12" in told
    assert "wrong/train/2.mkv has frames of 16x16, and train/2.mp4 of 16x24" in told
    assert "wrong/train/3.mkv: " in told and "Invalid data" in told
    assert "5.avi and wrong/train/5.mkv are both beside it" in told
    shutil.rmtree(place / "wrong")
    assert train(["shown.yaml", "name=other", "data.control=wrong"]) == 2
    told = capsys.readouterr().err
    assert "data.control is wrong, where nothing is: name the folder of the videos beside the clips" in told


def test_commands_take_a_file_of_it(
    place: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    write_video("mask.mkv", mask(14, 9), crf=0)
    control = pipe.read_control("mask.mkv")
    asked = ["--run", "runs/shown", "--control", "mask.mkv", "--device", "cpu", "--seed", "4"]
    assert generate([*asked, "--out", "made/"]) == 0
    made = pipe.generate(14, control=control, seed=4)[0]
    for frame, written in enumerate(sorted(Path("made").glob("*.png"))):
        assert torch.allclose(read_video(written)[:, 0], made[:, frame], atol=0.005)  # but for rounding to a byte
    assert frame == 13
    assert extend(["clips/test/0.mp4", "--given", "5", "--frames", "12", *asked, "--out", "longer/"]) == 0
    given = read_video("clips/test/0.mp4", range(5), (16, 24))[..., 4:20]
    longer = pipe.extend(given, 12, control=control[:, :12], seed=4)[0]
    for frame, written in enumerate(sorted(Path("longer").glob("*.png"))):
        assert torch.allclose(read_video(written)[:, 0], longer[:, frame], atol=0.005)
    restyle = ["restyle", "clips/test/0.mp4", "--strength", "0.9", *asked, "--out", "restyled/"]
    assert edit(restyle) == 0 and len([*Path("restyled").glob("*.png")]) == 12
    capsys.readouterr()
    assert extend(["clips/test/0.mp4", "--frames", "15", *asked, "--out", "longer/"]) == 2
    assert "mask.mkv has 14 frames, but the result has 15: ask for fewer" in capsys.readouterr().err


def test_the_doctor_tells_what_does_not_go_together(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert doctor(["clips", "--control", "masks", "--out", "told"]) == 0
    assert "a video beside 8 of 8 clips can be trained on (data.control=masks)" in capsys.readouterr().out
    shutil.copytree("masks", "ill")
    Path("ill/train/0.mkv").unlink()
    write_video("ill/train/1.mkv", torch.zeros(3, 11, 8, 12))
    assert doctor(["clips", "--control", "ill", "--out", "told"]) == 0
    told = capsys.readouterr().out
    assert "a video beside 6 of 8 clips can be trained on (data.control=ill)" in told
    assert "1  nothing beside it" in told and "train/0.mp4: no ill/train/0.*" in told
    assert "1  another number of frames beside it" in told and "ill/train/1.mkv has 11 frames" in told
    page = Path("told/doctor.html").read_text()
    assert "Videos beside the clips" in page and "a video beside 6 of 8 clips can be trained on" in page
    assert "nothing beside it" in page and "train/0.mp4: no ill/train/0.*" in page
    assert "ill/train/1.mkv has 11 frames" in page
    assert doctor(["clips", "--out", "told"]) == 0
    assert "Videos beside the clips" not in Path("told/doctor.html").read_text()


@pytest.mark.parametrize("asked", [["--images"], ["--layout", "images"]])
def test_pictures_pair_by_their_names_whatever_their_kinds(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0001", "0002"):
        write_image(Path(f"photos/train/cat/{name}.jpg"), torch.zeros(3, 16, 16))
        write_image(Path(f"depth/train/cat/{name}.png"), torch.zeros(3, 16, 16))
    assert doctor(["photos", "--control", "depth", "--out", "told", *asked]) == 0
    said = capsys.readouterr().out
    assert "a video beside 2 of 2 clips can be trained on (data.control=depth)" in said


def test_a_model_without_one_is_a_start_for_one_with_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first it makes what that one makes, whatever it is shown."""
    monkeypatch.chdir(place)
    assert train(["shown.yaml", "name=plain", "data.control=", "train.steps=3"]) == 0
    assert train(["shown.yaml", "name=begun", "start=runs/plain", "train.steps=1", "train.optim.lr=1e-6"]) == 0
    plain, begun = (vidiff.Pipeline.from_pretrained(f"runs/{name}", device="cpu") for name in ("plain", "begun"))
    with pytest.raises(ValueError, match="this model was trained without"):
        plain.generate(control=mask(6, 1))
    one, other = plain.generate(6, seed=0), begun.generate(6, control=mask(6, 1), seed=0)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_a_control_that_does_not_fit_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="control has 5 frames, but the result has 6: give as many"):
        pipe.generate(6, control=mask(5, 0))
    with pytest.raises(ValueError, match=r"control is \(3, 6, 8, 8\); expected \(b, 3, f, 16, 16\)"):
        pipe.extend(pipe.generate(3, seed=0), 6, control=torch.zeros(3, 6, 8, 8))
    with pytest.raises(ValueError, match="control is of 3 clips for 2"):
        pipe.generate(6, control=torch.zeros(3, 3, 6, 16, 16), count=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lowres.factor=2", "only models that make clips learn control"),
        ("loss.drop_control=2", "loss.drop_control is 2.0; give a number from 0 to 1"),
    ],
)
def test_what_does_not_go_with_a_control_is_said_before_anything_is_done(
    place: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert train(["shown.yaml", "name=other", change]) == 2
    assert message in capsys.readouterr().err
