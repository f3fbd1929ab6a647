"""A recipe for a folder: what is chosen of its footage, that the recipe trains, and that its words are true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from messy import write_clip

from vidiff.cli import main
from vidiff.plan.codecs import CODECS, choose_codec
from vidiff.plan.draft import Draft, draft
from vidiff.plan.estimate import GB
from vidiff.plan.footage import Footage, length_of, look_at
from vidiff.plan.plan import GPUS, Device
from vidiff.plan.shape import Machine, Shape, choose_buckets, choose_shape, machine_of
from vidiff.plan.text import codec_text, model_text, written
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import ConfigError, find_config, load, load_codec_config
from vidiff.store.error import DataError
from vidiff.video.writer import write_video

CPU = Machine(Device("cpu", 16 * GB, {"fp32": 1e11, "bf16": 1e11}, {"fp32": 0.4, "bf16": 0.4}), "--gpu cpu")
LARGE, SMALL = machine_of("h100"), machine_of("4090")
FEW_STEPS = [
    *("device=cpu", "batch=2", "unet.width=32", "sampling.steps=2", "data.workers=0", "train.steps=2"),
    *("train.validate_every=2", "train.sample_every=2", "train.checkpoint_every=2", "train.precision=fp32"),
]
FEW_CODEC_STEPS = [
    *("codec.least=0", "codec.override.batch=2", "codec.override.vae.width=8", "codec.override.data.workers=0"),
    *("codec.override.train.steps=2", "codec.override.train.precision=fp32", "codec.override.train.sample_every=0"),
]


def labelled(folder: Path) -> None:
    for label in ("cat", "dog"):
        for n in range(4):
            write_clip(folder / label / f"{n}.mp4", n, frames=20, height=72, width=96)


def film(folder: Path) -> None:
    write_clip(folder / "film.mp4", frames=300, height=32, width=48)


def three(folder: Path) -> None:
    for n in range(3):
        write_clip(folder / f"{n}.mp4", n, frames=(12, 13, 30)[n])


def unlike(folder: Path) -> None:
    for n in range(8):
        write_clip(folder / f"{n}.mp4", n, frames=24, height=(64, 96)[n % 2], width=(112, 64)[n % 2])


def captioned(folder: Path) -> None:
    for n in range(5):
        write_clip(folder / f"{n}.mp4", n, frames=18, height=64, width=64)
        (folder / f"{n}.txt").write_text(f"a ball goes {'left' if n % 2 else 'up'}")


def fast(folder: Path) -> None:
    for n, fps in enumerate((24, 30, 25)):
        write_video(folder / f"{n}.mp4", torch.zeros(3, 3 * fps, 64, 64), fps=fps)


def acted(folder: Path) -> None:
    (folder / "actions.json").write_text('{"actions": [{"name": "keys", "kind": "discrete", "count": 3}]}')
    for n in range(4):
        write_clip(folder / f"{n}.mp4", n, frames=18, height=64, width=64)
        np.save(folder / f"{n}.actions.npy", np.arange(18) % 3)


KINDS: dict[str, Callable[[Path], None]] = {
    "labelled": labelled,
    "film": film,
    "three": three,
    "unlike": unlike,
    "captioned": captioned,
    "fast": fast,
    "acted": acted,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folders")
    for name, fill in KINDS.items():
        (place / name).mkdir()
        fill(place / name)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def recipe(name: str, folder: Path, machine: Machine = CPU) -> tuple[Footage, Shape, DiffusionRun]:
    """What is found, what is chosen, and the recipe as it loads."""
    footage = look_at(name)
    shape = choose_shape(footage, machine)
    (folder / "new.yaml").write_text(model_text("new", footage, machine, shape, [], 64))
    (folder / "new_vae.yaml").write_text(codec_text("new", footage, machine, shape, None))
    config = load(folder / "new.yaml")
    assert isinstance(config, DiffusionRun)
    return footage, shape, config


@pytest.mark.parametrize(
    ("name", "size", "frames", "fps"),
    [
        ("labelled", 64, 16, 0),
        ("film", 32, 16, 0),
        ("three", 32, 12, 0),
        ("unlike", 64, 16, 0),
        ("captioned", 64, 16, 0),
        ("fast", 64, 16, 8),
    ],
)
def test_size_frames_and_rate_follow_from_the_clips(
    name: str, size: int, frames: int, fps: int, tmp_path: Path
) -> None:
    _, _, config = recipe(name, tmp_path)
    assert (config.data.size, config.data.frames, config.data.fps) == (size, frames, fps)
    assert config.data.root == name and config.sampling.context == frames // 2
    assert config.codec.name == ("identity" if size == 32 else "vae")
    if config.codec.name == "vae":
        codec = load_codec_config(config, tmp_path)
        assert codec.vae.factor == 4 and codec.data.fps == fps and codec.data.root == name
        least, most = codec.data.stride
        assert least == 1 and (codec.data.frames - 1) * most < frames
    assert config.conditional == (name == "labelled") and bool(config.text) == (name == "captioned")
    assert config.data.flip == (name != "captioned")  # whose words tell left from right
    assert bool(config.data.buckets) == (name == "unlike")
    assert config.train.keep_best == ("" if name == "film" else "val/loss")


def test_what_is_found_is_told(tmp_path: Path) -> None:
    found = {name: look_at(name).lines() for name in KINDS}
    assert (
        found["film"][0]
        == "1 clip to train on, which is held out as well, since it is the only one; 37.5 seconds in all"
    )
    assert found["labelled"][0] == "7 clips to train on, 1 held out; 17.5 seconds in all"
    assert found["labelled"][1] == "96x72 pixels, 8 frames a second, 2 classes"
    assert found["unlike"][1] == "64x96 to 112x64 pixels, 8 frames a second, no classes"
    assert re.fullmatch(r"64x64 pixels, 8 frames a second, \d captions", found["captioned"][1])
    assert re.fullmatch(r"64x64 pixels, 2\d to \d\d frames a second, no classes", found["fast"][1])
    text = (recipe("film", tmp_path), (tmp_path / "new.yaml").read_text())[1]
    assert all(f"# Found: {line}.\n" in text for line in found["film"])
    assert "so val/loss does not tell of new ones" in text and "less than 10 minutes" in text
    assert [length_of(seconds) for seconds in (3.25, 150, 7300, 72000)] == [
        "3.25 seconds", "2.5 minutes", "2 hours", "20 hours"
    ]  # fmt: skip


def test_clips_that_are_too_short_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n in range(12):
        write_clip(tmp_path / "data" / f"{n}.mp4", n, frames=6 if n == 0 else 20)
    _, shape, _ = recipe(str(tmp_path / "data"), tmp_path)
    assert shape.frames == 16
    if shape.short:  # the short clip may be the one that is held out
        assert "1 of these clips are shorter than 16 frames" in (tmp_path / "new.yaml").read_text()


def test_actions_make_a_world(tmp_path: Path) -> None:
    footage, _, config = recipe("acted", tmp_path)
    assert "actions of every frame: keys (whole numbers from 0 to 2)" in footage.lines()
    assert config.data.actions and config.unet.causal and not config.data.flip
    assert config.sampling.strategy == {"name": "stream"} and config.loss.tasks.forget == 0


def test_wrong_actions_are_told_and_not_used(tmp_path: Path) -> None:
    acted(tmp_path)
    np.save(tmp_path / "2.actions.npy", np.arange(7))
    footage, _, config = recipe(str(tmp_path), tmp_path)
    (told,) = [line for line in footage.lines() if "not used" in line]
    assert "2.actions.npy has 7 rows, but 2.mp4 has 18 frames" in told or "keys is 3" in told
    assert not config.data.actions and not config.unet.causal


def test_the_machine_decides_how_large() -> None:
    footage = look_at("unlike")
    wide = [clip.with_facts([9000, 25.0, 720, 1280, *clip.facts[4:]]) for clip in footage.train]
    hours = Footage("far", {}, wide, wide[:1], False, [])
    sizes = {machine.device.name: choose_shape(hours, machine).size for machine in (CPU, SMALL, LARGE)}
    assert sizes == {"cpu": 64, "4090": 128, "h100": 256}
    assert choose_shape(hours, LARGE).codec.factor == 8 and choose_shape(footage, LARGE).size == 64
    assert choose_shape(hours, CPU, 96).size == 96
    with pytest.raises(ValueError, match=r"--size is 90; .* a multiple of 16"):
        choose_shape(hours, CPU, 90)


def test_wide_and_tall_clips_keep_their_aspects() -> None:
    footage = look_at("unlike")
    assert sorted(choose_buckets(footage, 64, 16)) == [(48, 80), (80, 48)]
    only_wide = Footage("x", {}, [clip for clip in footage.train if clip.width > clip.height], [], False, [])
    assert choose_buckets(only_wide, 64, 16) == []


def test_the_table_has_a_codec_for_every_size() -> None:
    assert [choose_codec(side).shrinks for side in (16, 32, 48, 64, 96, 128, 256, 512)] == [4, 4, 8, 8, 4, 4, 8, 8]
    assert list(CODECS) == sorted(CODECS)


def test_splits_with_other_names_are_named(tmp_path: Path) -> None:
    for n, split in enumerate(("train", "train", "val")):
        write_clip(tmp_path / "data" / split / f"{n}.mp4", n, frames=16)
    _, _, config = recipe(str(tmp_path / "data"), tmp_path)
    assert (config.data.split, config.data.test_split) == ("train", "val")


@pytest.mark.parametrize("name", ["true", "2024", "my data/clips", "ümlaut", "a: b", "~/clips", "plain", "data/mine"])
def test_words_stay_words_in_yaml(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"kind: vae\nname: {written(name)}\ndata: {{root: data}}\n")
    assert load(tmp_path / "x.yaml").name == name
    assert (written(name) == name) == (name in ("plain", "data/mine"))


def made(name: str, machine: Machine) -> Draft:
    return draft("new", look_at(name), machine)


@pytest.mark.slow
def test_a_recipe_for_a_gpu_fits_into_it() -> None:
    small = Machine(GPUS["4090"], "--gpu 4090")
    for machine in (LARGE, small):
        plans = made("labelled", machine).plans
        assert len(plans) == 2 and all(plan.fits and plan.steps >= 300 for plan in plans)
    nothing = Machine(Device("4090", GB, small.device.rate, small.device.used), "--gpu 4090")
    with pytest.raises(ValueError, match="nothing fits"):
        made("labelled", nothing)


def check(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes a recipe by the command, compares what it says with the plan, and trains two steps by it."""
    run = f"my_{name}"
    assert main(["new", run, "--data", name, "--gpu", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"next: vidiff train {run}\n")
    files = re.findall(rf"{run}\w*\.yaml", said.splitlines()[-3])
    assert files == [f"{run}.yaml", f"{run}_vae.yaml"][: len(files)]
    text = Path(f"{run}.yaml").read_text()
    for file in files:
        told = re.search(rf": ([\d.]+) GB of memory \(vidiff (plan {file} --gpu cpu)\).* for ([\d,]+) steps", text)
        assert told, text
        assert main(told[2].split()) == 0
        plan = capsys.readouterr().out
        assert f"memory of each              {told[1]} GB: fits" in plan and f"\n{told[3]} steps  " in plan
    codec = FEW_CODEC_STEPS if len(files) == 2 else []
    assert main(["train", run, *FEW_STEPS, *codec]) == 0
    assert (Path("runs") / run / "checkpoints" / "latest").read_text().strip() == "step-0000002"


def test_a_folder_becomes_a_recipe_that_trains(capsys: pytest.CaptureFixture[str]) -> None:
    check("three", capsys)
    before = Path("my_three.yaml").read_bytes()
    assert main(["new", "my_three", "--data", "three"]) == 2
    assert "my_three.yaml is there already: give another name, or --force" in capsys.readouterr().err
    assert Path("my_three.yaml").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "three"])
def test_every_kind_of_folder_becomes_a_recipe_that_trains(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, capsys)


def test_a_folder_without_clips_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for n in range(2):
        write_clip(tmp_path / "one_side" / "train" / f"{n}.mp4", n)
    for data, said in (
        ("empty", "no videos in "),
        ("none", "no folder "),
        ("one_side", "has clips of one split alone"),
    ):
        assert main(["new", "nothing", "--data", str(tmp_path / data)]) == 2
        assert said in capsys.readouterr().err and not Path("nothing.yaml").exists()
    with pytest.raises(DataError, match="no videos"):
        look_at(str(tmp_path / "empty"))


def test_pictures_alone_are_no_footage(tmp_path: Path) -> None:
    for n in range(3):
        write_clip(tmp_path / f"{n}.mp4", n, frames=1)
    with pytest.raises(ValueError, match="needs at least 2"):
        choose_shape(look_at(str(tmp_path)), CPU)


def test_a_recipe_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.v2.yaml").touch()
    assert find_config("mine.v2") == find_config("mine.v2.yaml") == Path("mine.v2.yaml")
    for wrong in ("mine", "", "."):
        with pytest.raises(ConfigError):
            find_config(wrong)
