from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import build_index, case, clip_at, find_all, find_files, size_and_change
from messy import write_clip
from PIL import Image
from torch import Tensor
from videos import number_of, numbered, write_numbered

from vidiff.data.buckets import Bucket, View
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset
from vidiff.data.doctor.examine import examine
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.probe import fingerprint, probe
from vidiff.store.error import DataError, VideoError
from vidiff.store.place import place_of
from vidiff.store.tree import Folder
from vidiff.video.reader import VideoReader, read_video
from vidiff.video.sources import clips_in
from vidiff.video.writer import write_image, write_video


def write_webp(path: Path, frames: int, milliseconds: int = 125) -> Path:
    pictures = [Image.new("RGB", (32, 32), (10 * (n + 1),) * 3) for n in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, lossless=True)
    return path


def write_frames(folder: Path, frames: int, suffix: str = ".png", height: int = 32, width: int = 32) -> Path:
    """Numbered without leading zeros: by name, 10 comes before 2."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, frame in enumerate(numbered(frames, height, width).unbind(1)):
        write_image(folder / f"shot_{n + 1}{suffix}", frame)
    return folder


def make(folder: Path, kind: str, frames: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "gif":
        write_video(folder / "clip.gif", numbered(frames), fps=8)
        return folder / "clip.gif"
    return write_webp(folder / "clip.webp", frames) if kind == "webp" else write_frames(folder / "clip", frames, kind)


KINDS = ["gif", "webp", ".png", ".jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_read_by_number(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind, 12)
    with VideoReader(path) as reader:
        assert (reader.frames, reader.fps, reader.size) == (12, pytest.approx(8, rel=0.02), (32, 32))
        assert number_of(reader.read()) == list(range(12))
        assert number_of(reader.read([11, 3, 3, 10])) == [11, 3, 3, 10]
        assert reader.read([2], size=(16, 24)).shape == (3, 1, 16, 24)
        with pytest.raises(VideoError, match="frames 5 to 12 asked for, but it has 12"):
            reader.read([5, 12])
        with pytest.raises(VideoError, match="no frames asked for"):
            reader.read([])
    found = probe(clip_at(path))
    assert isinstance(found, Clip)
    assert found.facts[:6] == [12, pytest.approx(8, rel=0.02), 32, 32, fingerprint(place_of(path)), "pillow"]
    assert found.facts[6:] == [(), (), ()]  # nothing is special about it, nothing damaged
    record = examine(case(path))
    assert (record.readable, record.frames, record.read, record.notes) == (True, 12, 12, [])


def test_lossless_pictures_come_back_exactly(tmp_path: Path) -> None:
    video = (torch.rand(3, 4, 20, 30) * 255).round() / 127.5 - 1
    for n in range(4):
        write_image(tmp_path / f"{n}.png", video[:, n])
    assert torch.allclose(read_video(tmp_path), video, atol=1e-6)


def test_single_pictures(tmp_path: Path) -> None:
    grey = np.full((6, 8), 200 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    turned = Image.new("RGB", (8, 6), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    palette = Image.new("P", (8, 6))
    palette.putpalette([level for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.bmp")
    assert ((read_video(tmp_path / "deep.png") + 1) * 127.5).unique().tolist() == [200]
    assert read_video(tmp_path / "turned.jpg").shape == (3, 1, 8, 6)
    assert read_video(tmp_path / "palette.bmp").shape == (3, 1, 6, 8)
    assert VideoReader(tmp_path / "deep.png").frames == 1


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_broken_pictures_are_named(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind, 6)
    file = sorted(path.iterdir())[-1] if path.is_dir() else path
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=f"{file.name}: (damaged or truncated|not a picture)"):
        read_video(path)
    assert examine(case(path)).problem in ("damaged", "unknown")
    file.write_bytes(b"no picture")
    with pytest.raises(VideoError, match=f"{file.name}: (damaged or truncated|not a picture)"):
        read_video(path)
    assert examine(case(path)).problem == ("damaged" if path.is_dir() else "text")


@pytest.mark.faults
def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, 3)
    write_image(tmp_path / "shot_3.png", torch.zeros(3, 32, 40))
    for size in (None, (16, 16)):
        with pytest.raises(VideoError, match=r"different sizes \(shot_1\.png 32x32, shot_3\.png 40x32\)"):
            read_video(tmp_path, size=size)


def test_what_counts_as_a_clip(tmp_path: Path) -> None:
    write_frames(tmp_path / "shot", 3)
    write_frames(tmp_path / "one", 1)
    write_frames(tmp_path / "class", 2)
    (tmp_path / "class" / "clip.mp4").touch()
    for name in ("a.mp4", "b.GIF", "c.png", "d.txt", ".e.mp4"):
        (tmp_path / name).touch()
    tree = Folder(tmp_path)
    assert clips_in("", *tree.inside()) == ["a.mp4", "b.GIF"]
    assert clips_in("shot", *tree.inside("shot")) == ["shot"]
    assert clips_in("", *tree.inside(), pictures=True) == ["a.mp4", "b.GIF", "c.png"]
    assert not clips_in("one", *tree.inside("one")) and not clips_in("", *tree.inside("shot"))
    assert {clip.name for clip in find_all(tmp_path)} == {
        "a.mp4", "b.GIF", "shot", "class/clip.mp4"}  # fmt: skip


def test_a_folder_of_pictures_has_a_stamp_and_a_fingerprint(tmp_path: Path) -> None:
    folder = write_frames(tmp_path, 4)
    before, mark = size_and_change(folder), fingerprint(place_of(folder))
    write_image(folder / "shot_2.png", torch.rand(3, 32, 32))
    assert size_and_change(folder) != before
    assert fingerprint(place_of(folder)) != mark


def test_every_kind_is_trained_on_alike(tmp_path: Path) -> None:
    for n, kind in enumerate(KINDS):
        make(tmp_path / "train" / f"class{n}", kind, 9)
    write_numbered(tmp_path / "train" / "class0" / "video.mp4", 9)
    index = build_index(tmp_path, progress=False)
    assert [(Path(f.name).name, f.label, f.frames) for f in index.files] == [
        ("clip.gif", 0, 9), ("video.mp4", 0, 9), ("clip.webp", 1, 9), ("clip", 2, 9), ("clip", 3, 9)]  # fmt: skip
    dataset = ClipDataset(index, View(Bucket(4, 16, 16)))
    for place in range(5):
        numbers = number_of(dataset[0, place]["video"])
        assert numbers == list(range(numbers[0], numbers[0] + 4))

    def encode(video: Tensor) -> tuple[Tensor, Tensor]:
        return video[..., ::8, ::8], torch.ones_like(video[..., ::8, ::8])

    plan = Plan(index, [(16, 16)] * 5, made_of={})
    folder = encode_latents(tmp_path / "latents", plan, encode, chunk=4, progress=False)
    assert folder is not None
    cache = LatentCache(folder)
    assert cache.frames == [9] * 5
    assert all(number_of(cache.read(n, 0, 9)[0]) == list(range(9)) for n in range(5))


def test_pictures_in_folders_of_classes(tmp_path: Path) -> None:
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "train" / f"{name}.jpg", torch.zeros(3, 20, 24))
    index = build_index(tmp_path, layout="images", progress=False)
    assert [(f.name, f.label, f.frames) for f in index.files] == [
        ("train/cat/1.jpg", 0, 1), ("train/cat/2.jpg", 0, 1), ("train/dog/1.jpg", 1, 1), ("train/dog/2.jpg", 1, 1)
    ]  # fmt: skip
    assert ClipDataset(index, View(Bucket(1, 16, 16)))[0, 3]["video"].shape == (3, 1, 16, 16)
    found, labels = find_files(tmp_path, "auto", "train", 1)
    assert (found, labels) == ([("train/cat", -1), ("train/dog", -1)], [])  # else they are the frames of two clips


KINETICS = """label,youtube_id,time_start,time_end,split
playing guitar,-abc_123,10,20,train
"juggling, balls",x_Y-9,3.0,13.0,train
playing guitar,gone,0,10,train
archery,zzz,7,17,val
"""


def test_kinetics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text(KINETICS)
    write_clip(tmp_path / "train" / "playing guitar" / "-abc_123_000010_000020.mp4")
    write_clip(tmp_path / "clips" / "x_Y-9_000003_000013.mp4", frames=5)
    write_clip(tmp_path / "zzz_000007_000017.mkv")
    index = build_index(tmp_path / "list.csv", progress=False)
    assert index.labels == ["archery", "juggling, balls", "playing guitar"]  # the same numbers in every split
    assert [(f.name, f.label, f.frames) for f in index.files] == [
        ("train/playing guitar/-abc_123_000010_000020.mp4", 2, 8), ("clips/x_Y-9_000003_000013.mp4", 1, 5)
    ]  # fmt: skip
    assert index.files[1].place.file == tmp_path / "clips" / "x_Y-9_000003_000013.mp4"
    told = capsys.readouterr().out
    assert f"       1  a clip of {tmp_path}/list.csv that is not there, such as gone\n" in told
    found, _ = find_files(tmp_path / "list.csv", "list", "val", 1)
    assert found == [("zzz_000007_000017.mkv", 0)]
    assert len(find_all(tmp_path / "list.csv")) == 3
    with pytest.raises(DataError, match=r"no clips of split 'test' in .*, but of train, val: add some"):
        build_index(tmp_path / "list.csv", split="test")


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_lists_of_paths(tmp_path: Path, name: str) -> None:
    rows = [{"path": f"{n:02d}.mp4", "label": "ab"[n % 2], "caption": "a pattern"} for n in range(21)]
    for row in rows:
        (tmp_path / row["path"]).touch()
    rows[20]["path"] = str(tmp_path / rows[20]["path"])  # may be absolute
    lines = [json.dumps(row) for row in rows] if name.endswith("l") else [
        "\ufeffPath, Label", *(f"{row['path']},{row['label']}" for row in rows)]  # fmt: skip
    (tmp_path / name).write_text("\n".join(lines))
    train, labels = find_files(tmp_path / name, "auto", "train", 1)
    test, _ = find_files(tmp_path / name, "auto", "test", 1)
    assert labels == ["a", "b"]
    assert test in ([("18.mp4", 0)], [(rows[20]["path"], 0)])  # the nearest, of which one lies wherever the tests do
    assert sorted(train + test) == sorted((row["path"], "ab".index(row["label"])) for row in rows)
    assert (tmp_path / train[-1][0]).is_file()


def test_mistakes_in_lists(tmp_path: Path) -> None:
    def expect(name: str, content: str, complaint: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=complaint):
            find_files(tmp_path / name, "list", "train", 1)

    expect("x.csv", "id,class\n1,2\n", r"x\.csv has the columns id, class: name each clip in a column path")
    expect("x.csv", "path,label\n", "lists no clips")
    expect("x.jsonl", '{"path": 1', r"cannot be read as jsonl")
    expect("x.jsonl", "[1]\n", r"cannot be read as jsonl: line 1, '\[1\]': no object")
    expect("x.csv", "path\nno.mp4\n", r"none of the 1 clips that .*x\.csv lists is there, such as no\.mp4")
    expect("x.csv", "youtube_id,time_start,time_end\na,b,c\n", "time_start and time_end of 'a' are not numbers")
    with pytest.raises(DataError, match=r"no list .*: set data\.root to a file named \.csv or \.jsonl"):
        find_files(tmp_path, "list", "train", 1)
