"""Which clips a data set has, by one finder for doctor, index and training; and which are held out."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
from indexes import build_index, find_all, find_files, stock_of
from messy import BREAK, write_clip
from PIL import Image
from tars import pack
from videos import filmed

from vidiff.cli.make import doctor
from vidiff.data.clip import Clip, account
from vidiff.data.find import halves, is_held_out, share_of
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.store.place import Place
from vidiff.train import main as train
from vidiff.training.indexes import SPLIT
from vidiff.video.pictures import numbered
from vidiff.video.reader import read_video

CONTAINERS = {  # suffixes that were passed by, and how FFmpeg writes them
    "ts": [], "mts": [], "m2ts": [], "flv": [], "wmv": [], "3gp": ["-c:v", "mpeg4"], "ogv": ["-c:v", "libtheora"],
    "vob": ["-f", "vob"], "asf": [], "f4v": ["-f", "mp4"], "m2v": ["-c:v", "mpeg2video", "-f", "mpeg2video"],
    "mxf": ["-c:v", "mpeg2video"], "rm": ["-c:v", "rv20", "-s", "176x144"], "divx": ["-f", "avi"], "y4m": [],
}  # fmt: skip


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_that_can_be_read_is_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "train" / "a" / f"x.{suffix.upper()}"
    path.parent.mkdir(parents=True)
    filmed(path.with_suffix(f".{suffix}"), "null", *CONTAINERS[suffix], source="testsrc2=s=96x64:r=25:d=0.4")
    path.with_suffix(f".{suffix}").rename(path)
    index = build_index(tmp_path, progress=False, workers=1)
    assert [(file.name, file.label, file.frames) for file in index.files] == [(f"train/a/x.{suffix.upper()}", 0, 10)]
    assert [clip.name for clip in find_all(tmp_path)] == [f"train/a/x.{suffix.upper()}"]
    tar = pack(tmp_path / "0.tar", {f"a/x.{suffix.upper()}": path.read_bytes()})
    assert find_files(tar, split="train") == ([(f"0.tar/a/x.{suffix.upper()}", 0)], ["a"])
    assert read_video(find_all(tar)[0].place).equal(read_video(path))


def test_clips_deeper_than_their_class(tmp_path: Path) -> None:
    """They are of the class that is the first folder of their name; so are those of a class that has no others."""
    touch(tmp_path, "cat/0.mp4", "cat/s1/1.mp4", "cat/s1/day 2/2.mp4", "dog/s1/0.mp4", "dog/s2/0.mp4")
    train, labels = find_files(tmp_path)
    test, _ = find_files(tmp_path, split="test")
    deep = [("cat/0.mp4", 0), ("cat/s1/1.mp4", 0), ("cat/s1/day 2/2.mp4", 0), ("dog/s1/0.mp4", 1), ("dog/s2/0.mp4", 1)]
    assert labels == ["cat", "dog"] and sorted(train + test) == deep and len(test) == 1
    assert stock_of(tmp_path).left_out == []
    only = touch(tmp_path / "only", "train/cat/a/0.mp4", "train/dog/b/c/0.mp4", "test/dog/d/0.mp4")
    assert find_files(only) == ([("train/cat/a/0.mp4", 0), ("train/dog/b/c/0.mp4", 1)], ["cat", "dog"])
    assert find_files(only, split="test") == ([("test/dog/d/0.mp4", 1)], ["cat", "dog"])
    assert find_files(only, "flat") == ([("train/cat/a/0.mp4", -1), ("train/dog/b/c/0.mp4", -1)], [])
    links = tmp_path / "links"
    links.mkdir()
    for name in ("train", "test"):  # as where there is one set for both
        (links / name).symlink_to(only / "train")
    (only / "train/cat/a/around").symlink_to(only / "train")
    for split in ("train", "test"):
        assert [name for name, _ in find_files(links, split=split)[0]] == [
            f"{split}/cat/a/0.mp4", f"{split}/dog/b/c/0.mp4"]  # fmt: skip


def test_folders_of_frames_by_any_names(tmp_path: Path) -> None:
    """Numbers anywhere in a name put pictures in order; TIFF and its like are pictures."""
    orders = {
        "a": ["frame_2_left.png", "frame_10_left.png", "frame_11_left.png"],
        "b": ["1.tif", "2.TIFF", "10.tif"],
        "c": ["12.00.59.jpg", "12.01.00.jpg", "13.00.30.jpg"],
        "d": ["img (1).ppm", "img (2).pgm", "img (10).tga"],
        "e": ["cover1.png", "front2.png", "back03.png"],
        "f": ["1_x.png", "2_x.png", "cover.png"],
    }
    for folder, names in orders.items():
        for n, name in enumerate(sorted(names)):
            (tmp_path / "train" / "x" / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 20 * (names.index(name) + 1)).save(tmp_path / "train/x" / folder / name)
            assert numbered(sorted(names))[: len(names) - (folder == "f")] == names[: len(names) - (folder == "f")], n
    index = build_index(tmp_path, progress=False, workers=1)
    frames = {file.name: file.frames for file in index.files}
    assert frames == {f"train/x/{folder}": 3 - (folder == "f") for folder in orders}
    for file in index.files:
        levels = ((read_video(file.place)[0, :, 0, 0] + 1) * 127.5).round().tolist()
        assert levels == [20.0, 40.0, 60.0][: file.frames], file.name
    assert numbered(["left.png", "right.png"]) == [] and numbered(["1a.png", "1b.png"]) == []


LEFT_OUT = {
    "data/stray.mp4": "a clip beside the folders of splits",
    "data/other/deep/0.mp4": "a clip beside the folders of splits",
    "data/train/1.mp4": "a clip beside the folders of classes",
    "data/train/cat/poster.jpg": "a picture that is no frame: a clip of pictures is a folder of numbered ones alone",
    "data/train/cat/0.heic": "a file of a kind that is not read, .heic",
    "data/train/cat/raw.h264": "a file of a kind that is not read, .h264",
    "data/old.tar": "a tar beside clips: data.layout=webdataset reads those",
}


def test_all_tell_of_what_is_left_out_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, *LEFT_OUT, "data/train/cat/a.txt", "data/list.csv", "data/train/cat/.hidden.mp4")
    for name in ("data/train/cat/a.mp4", "data/test/cat/b.mp4", "data/stray.mp4"):
        write_clip(tmp_path / name)
    stock = stock_of(tmp_path / "data")
    assert {f"data/{one.name}": one.reason for one in stock.left_out} == LEFT_OUT
    lines = account(stock.left_out, 9, str(tmp_path / "data"))
    assert lines[0] == f"7 of 9 files in {tmp_path}/data are left out:" and len(lines) == 7
    assert lines[1] == "       2  a clip beside the folders of splits, such as other/deep/0.mp4"
    index_of(DataConfig(str(tmp_path / "data")), tmp_path / "runs", "train", progress=False)
    said = capsys.readouterr().out.splitlines()
    assert [line.replace("7 of 8", "7 of 9") for line in said if line in lines or "7 of 8" in line] == lines
    assert doctor.main([str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--size", "16", "--frames", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line in lines] == lines
    assert "5 files: 3 readable" in told[0], "what lies elsewhere is examined as well"


def clips(*names: str) -> list[Clip]:
    return [Clip(name, Place(name)) for name in names]


def held(names: list[str]) -> set[str]:
    return {clip.name for clip in halves(clips(*names))[1]}


def test_other_clips_never_change_a_clips_side() -> None:
    assert [round(share_of(name), 4) for name in ("0.mp4", "5.mp4", "b/11.mp4")] == [0.8596, 0.0145, 0.0284]
    names = [f"class {n % 7}/clip-{n:04d}.mp4" for n in range(2000)]
    test = held(names)
    assert 70 <= len(test) <= 130 and test == {name for name in names if is_held_out(name)}
    assert held(names[::-1]) == test
    assert held(names[500:]) == test & {*names[500:]}  # others are removed
    assert held([*names, *(f"new/{n}.mp4" for n in range(500))]) & {*names} == test  # added
    assert held([f"{name}x" if n % 3 else name for n, name in enumerate(names)]) & {*names} == test & {*names[::3]}
    one, other = (unicodedata.normalize(form, "Café/é.mp4") for form in ("NFC", "NFD"))
    assert one != other and share_of(one) == share_of(other)  # as Linux and macOS write it
    assert 0 <= share_of(os.fsdecode(b"\xff.mp4")) < 1


def test_neither_side_is_empty_however_few_clips_there_are() -> None:
    """The one whose name comes nearest goes over, and all others stay where their names have them."""
    names = [f"{n}.mp4" for n in range(60)]
    sides = dict[str, list[bool]]()
    for count in range(1, 60):
        train, test, told = halves(clips(*names[:count]))
        assert train and test
        natural = {name for name in names[:count] if is_held_out(name)}
        if natural and count > 1:
            assert {clip.name for clip in test} == natural and not told
        elif count > 1:
            nearest = min(names[:count], key=share_of)
            assert [clip.name for clip in test] == [nearest] and nearest in told and f"of {count}, is held out" in told
        assert count == 1 or not {clip.name for clip in test} & {clip.name for clip in train}
        for clip in test:
            sides.setdefault(clip.name, []).append(True)
    train, test, told = halves(clips("0.mp4"))
    assert train == test and "the only clip that can be used" in told
    low = [name for name in (f"{n}.mp4" for n in range(2000)) if is_held_out(name)][:3]  # all would be held out
    train, test, told = halves(clips(*low))
    assert [clip.name for clip in train] == [max(low, key=share_of)] and len(test) == 2 and "is trained on" in told


@pytest.mark.parametrize("fault", ["truncated", "empty", "short", "listed"])
def test_a_held_out_clip_that_cannot_be_used(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes its place, in training as for the doctor, whose next command then trains; and going on tells."""
    monkeypatch.chdir(tmp_path)
    names = [f"{n}.mp4" for n in range(12)]
    assert [name for name in names if is_held_out(name)] == ["5.mp4"]
    for n, name in enumerate(names):
        write_clip(tmp_path / "my data" / name, n, frames=2 if fault == "short" and name == "5.mp4" else 8)
    whole = (tmp_path / "my data/0.mp4").read_bytes()
    if fault in BREAK:
        (tmp_path / "my data/5.mp4").write_bytes(BREAK[fault](whole))
    if fault == "listed":
        touch(tmp_path, "runs/index/quarantine.txt")
        Path("runs/index/quarantine.txt").write_text(f"{tmp_path}/my data/5.mp4\n")
    nearest = sorted(names, key=share_of)[1]
    data = DataConfig("my data", frames=4, max_broken=0.1)
    train_index, test_index = (index_of(data, Path("runs"), split, progress=False) for split in ("train", "test"))
    usable = [file.name for file in test_index.files if file.frames >= 4]
    assert usable == [nearest] and len(train_index.files) == 10
    assert f"{nearest}, the nearest of " in capsys.readouterr().out
    assert doctor.main(["my data", "--size", "16", "--frames", "2"]) == 0
    said = capsys.readouterr().out
    command = re.search(r"^next: (.*)$", said, re.M)
    assert command and ("1 left out" in said) == (fault in BREAK)
    recipe = "{kind: vae, name: tiny, device: cpu, batch: 2, data: {size: 16, frames: 4, workers: 1, max_broken: 0}, "
    recipe += "vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}, train: {steps: 1, precision: fp32}}"
    Path("tiny.yaml").write_text(recipe)
    words = shlex.split(command[1])
    assert words[:3] == ["vidiff", "train", "CONFIG"]
    assert train(["tiny.yaml", *words[3:]]) == 0
    assert nearest in Path("runs/tiny", SPLIT).read_text()
    if fault != "empty":
        return
    (tmp_path / "my data/5.mp4").write_bytes(whole)  # mended: it is held out again, and the other one trained on
    capsys.readouterr()
    assert train(["tiny.yaml", *words[3:], "train.steps=2"]) == 0
    said = capsys.readouterr().out
    assert f"runs/tiny is trained from here on on what it held out so far: '{nearest}'" in said
    assert "runs/tiny holds out what it did not hold out so far, '5.mp4'" in said
    Path("runs/tiny", SPLIT).unlink()  # as of a run by an earlier version
    assert train(["tiny.yaml", *words[3:], "train.steps=3"]) == 0
    assert "runs/tiny was begun when every twentieth clip was held out" in capsys.readouterr().out
    assert train(["tiny.yaml", *words[3:], "train.steps=4"]) == 0
    said = capsys.readouterr().out
    assert "held out so far" not in said and "twentieth" not in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/0.mp4", "val/0.mp4"], "data.root={} data.test_split=val runs="),
        (["train/0.mp4", "test/0.mp4"], "data.root={} runs="),
        (["a/0.mp4", "a/1.mp4"], "data.root={} runs="),
    ],
)
def test_the_doctor_names_the_splits(
    tmp_path: Path, names: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        write_clip(tmp_path / "data" / name)
    assert doctor.main([str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--size", "16", "--frames", "2"]) == 0
    said = capsys.readouterr().out
    assert f"next: vidiff train CONFIG {words.format(tmp_path / 'data')}" in said


def test_the_doctor_tells_what_training_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "data/train/0.mp4")
    options = ["--runs", str(tmp_path / "runs"), "--size", "16", "--frames", "2"]
    assert doctor.main([str(tmp_path / "data"), *options]) == 0
    said = capsys.readouterr().out
    assert (
        "next:" not in said
        and "before training: there are no other clips than these, and some are to be held out" in said
    )
    Image.new("L", (16, 16)).save(tmp_path / "data/train/0.png")
    Image.new("L", (16, 16)).save(tmp_path / "data/train/1.png")
    assert doctor.main([str(tmp_path / "data/train"), "--images", *options]) == 0
    assert "data.layout=images" in capsys.readouterr().out
