from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from indexes import build_index, find_files, stock_of
from videos import look, write_avi, write_numbered

from vidiff.data import index as module
from vidiff.data.clip import Clip, LeftOut
from vidiff.data.index import Index, index_of, other_data
from vidiff.data.options import DataConfig
from vidiff.data.probe import probe_all
from vidiff.store.error import DataError
from vidiff.store.place import place_of


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Files are looked into in this process; returns the names of those of each search."""
    searches: list[list[str]] = []

    def probe_here(clips: list[Clip], processes: int, patience: float):  # type: ignore[no-untyped-def]
        searches.append([Path(clip.name).name for clip in clips])
        return ((clip, look(clip)) for clip in clips)

    monkeypatch.setattr(module, "probe_all", probe_here)
    return searches


def content(index: Index) -> list[tuple[str, int, int]]:
    return [(file.name, file.label, file.frames) for file in index.files]


def test_folders_of_splits_and_classes(tmp_path: Path, quiet: list[list[str]]) -> None:
    for number, name in enumerate(["train/b/1", "train/b/0", "train/a/x", "test/b/0", "test/c/0"]):
        write_numbered_in(tmp_path, f"{name}.mp4", 3 + number)
    touch(tmp_path, "train/a/notes.txt", "train/a/.hidden.mp4", "train/.cache/x.mp4")
    train = build_index(tmp_path, split="train", progress=False)
    assert train.labels == ["a", "b", "c"]  # a class that one split lacks keeps its number in the other
    assert content(train) == [("train/a/x.mp4", 0, 5), ("train/b/0.mp4", 1, 4), ("train/b/1.mp4", 1, 3)]
    assert (train.files[0].fps, train.files[0].height, train.files[0].width) == (8, 32, 32)
    assert train.files[1].place.file == tmp_path / "train/b/0.mp4"
    test = build_index(tmp_path, split="test", progress=False)
    assert test.labels == train.labels
    assert content(test) == [("test/b/0.mp4", 1, 6), ("test/c/0.mp4", 2, 7)]


def write_numbered_in(root: Path, name: str, frames: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_numbered(root / name, frames)


def test_without_splits_one_file_in_twenty_is_held_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i:02d}.mp4" for name in "ab" for i in range(30)))
    train, labels = find_files(tmp_path, "auto", "train", 1)
    test, _ = find_files(tmp_path, "auto", "test", 1)
    assert labels == ["a", "b"]
    assert test == [("b/11.mp4", 1), ("b/19.mp4", 1)]
    assert sorted(train + test) == [(f"{name}/{i:02d}.mp4", n) for n, name in enumerate("ab") for i in range(30)]
    assert not set(train) & set(test)


def test_flat_folders(tmp_path: Path) -> None:
    touch(tmp_path / "one", "0.mp4", "1.MKV", "2.webm", "readme.txt")
    assert find_files(tmp_path / "one", "auto", "train", 1) == ([("0.mp4", -1), ("2.webm", -1)], [])
    assert find_files(tmp_path / "one", "auto", "test", 1) == ([("1.MKV", -1)], [])
    touch(tmp_path / "two", "train/0.mp4", "test/1.mp4")
    assert find_files(tmp_path / "two", "auto", "train", 1) == ([("train/0.mp4", -1)], [])
    assert find_files(tmp_path / "two", "flat", "test", 1) == ([("test/1.mp4", -1)], [])
    touch(tmp_path / "three", "only.mp4")
    assert find_files(tmp_path / "three", "auto", "train", 1) == find_files(tmp_path / "three", "auto", "test", 1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "bicycle/0.mp4", "train/0.mp4", "train/1.mp4")
    pairs, labels = find_files(tmp_path, "auto", "train", 1)
    assert labels == ["bicycle", "train"]
    assert pairs == [("bicycle/0.mp4", 0), ("train/1.mp4", 1)]


def test_videos_beside_the_classes_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.mp4", "b/0.mp4", "stray.mp4")
    assert find_files(tmp_path, "folders", "train", 1)[0] == [("b/0.mp4", 1)]
    assert stock_of(tmp_path).left_out == [
        LeftOut("stray.mp4", "a clip beside the folders of classes", place=place_of(tmp_path / "stray.mp4"))
    ]


def ucf(root: Path) -> Path:
    videos = root / "UCF-101"
    for name in ("Archery/v_Archery_g01_c01", "Archery/v_Archery_g08_c01", "Biking/v_Biking_g08_c01"):
        write_avi(videos / f"{name}.avi", 12)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\r\n2 Biking\r\n\r\n")
    for fold, (train, test) in enumerate([("08", "01"), ("01", "08")], 1):
        names = ["Archery/v_Archery_g{}_c01.avi", "Biking/v_Biking_g{}_c01.avi"]
        (lists / f"trainlist{fold:02d}.txt").write_text(
            "".join(f"{n.format(train)} {i}\r\n" for i, n in enumerate(names, 1))
        )
        (lists / f"testlist{fold:02d}.txt").write_text("".join(f"{n.format(test)}\r\n" for n in names))
    return root


def test_ucf101(tmp_path: Path, quiet: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    root = ucf(tmp_path)
    train = build_index(root, layout="ucf101", split="train", progress=False)
    assert train.labels == ["Archery", "Biking"]
    assert content(train) == [
        ("UCF-101/Archery/v_Archery_g08_c01.avi", 0, 12),
        ("UCF-101/Biking/v_Biking_g08_c01.avi", 1, 12),
    ]
    assert (train.files[0].height, train.files[0].width, train.files[0].fps) == (48, 64, 25)
    said = capsys.readouterr().out
    assert f"1 of 3 files in {root} are left out:\n" in said
    assert f"       1  a video of testlist01.txt that is not in {root}/UCF-101, such as Biking/v_Biking_g01_c" in said
    test = build_index(root, split="test", progress=False)
    assert content(test) == [("UCF-101/Archery/v_Archery_g01_c01.avi", 0, 12)]
    assert content(build_index(root, split="train", fold=2, progress=False)) == content(test)

    with pytest.raises(DataError, match="fold is 4; choose 1, 2 or 3, the folds of UCF-101"):
        build_index(root, fold=4)
    with pytest.raises(DataError, match=r"no .*trainlist03\.txt: download UCF101\.rar and .*unpack both into"):
        build_index(root, fold=3)
    with pytest.raises(DataError, match=r"no clips of split 'val' in .*, but of train, test"):
        build_index(root, split="val")
    (root / "ucfTrainTestlist/trainlist01.txt").write_text("Diving/v.avi 3\n")
    with pytest.raises(DataError, match="names class 'Diving'"):
        build_index(root)
    (root / "ucfTrainTestlist/trainlist01.txt").write_text("Biking/v.avi 2\n")
    with pytest.raises(DataError, match=r"none of the 1 videos of trainlist01\.txt is in"):
        build_index(root)


def test_ucf101_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"UCF101TrainTestSplits.*nowhere/UCF-101/<class>/\*\.avi"):
        build_index(tmp_path / "nowhere", layout="ucf101")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere: set data\.root"):
        build_index(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no videos in .*expected <label>/\*\.mp4, or other videos"):
        build_index(tmp_path)
    with pytest.raises(DataError, match="'tree'; choose auto, folders, ucf101, flat"):
        build_index(tmp_path, layout="tree")
    touch(tmp_path, "one/a/0.mp4", "train/a/0.mp4")
    with pytest.raises(
        DataError, match=r"no clips of split 'test' in .*, but of train: add some, or .*data\.test_split"
    ):
        build_index(tmp_path, split="test")
    touch(tmp_path / "plain", "a/0.mp4", "a/1.mp4")
    with pytest.raises(DataError, match="no folders, rows or tars tell of splits there are train and test alone"):
        build_index(tmp_path / "plain", split="holdout")
    with pytest.raises(DataError, match="limit is -1"):
        build_index(tmp_path / "plain", limit=-1)


@pytest.mark.faults
def test_broken_files_are_named_and_counted(
    tmp_path: Path, quiet: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        write_numbered(tmp_path / f"{number}.mp4", 4)
    whole = (tmp_path / "0.mp4").read_bytes()
    (tmp_path / "0.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "1.mp4").write_bytes(b"")
    (tmp_path / "2.mp4").write_text("a text by another name\n" * 50)
    (tmp_path / "4.mp4").unlink()
    (tmp_path / "4.mp4").symlink_to("gone.mp4")
    index = build_index(tmp_path, max_broken=0.8, progress=False)
    assert [path for path, _ in index.broken] == ["0.mp4", "1.mp4", "2.mp4", "4.mp4"]
    assert [file.name for file in index.files] == ["3.mp4"]  # 5.mp4 is held out
    assert [re.split(r"[,:] ?", reason)[0] for _, reason in index.broken] == [
        "not a video",
        "is empty (0 bytes)",
        "not a video",
        "no such file",
    ]
    said = "".join(capsys.readouterr())
    assert "left out 1.mp4: is empty" in said
    assert f"4 of 5 files in {tmp_path} are left out:\n       4  a file that cannot be read, such as 0.mp4\n" in said
    with pytest.raises(DataError, match=r"(?s)4 of 6 files .*max_broken=0.6 allows.*\n  1\.mp4: is empty"):
        build_index(tmp_path, max_broken=0.6, progress=False)
    (tmp_path / "3.mp4").write_bytes(b"")
    (tmp_path / "5.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"6 of 6 files .* cannot be read, none can"):
        build_index(tmp_path, max_broken=1, progress=False)


@pytest.mark.faults
def test_a_crash_of_the_decoder_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "crash", "d"):
        write_numbered_in(tmp_path, f"train/{name}.mp4", 3)
    monkeypatch.setattr(module, "probe_all", partial(probe_all, look=look))
    index = build_index(tmp_path, max_broken=0.4, progress=False)
    assert [file.name for file in index.files] == ["train/a.mp4", "train/d.mp4"]
    assert index.broken == [("train/crash.mp4", "its decoder crashed (exit code -11)")]


def test_the_cache_opens_only_what_has_changed(tmp_path: Path, quiet: list[list[str]]) -> None:
    cache = tmp_path / "cache" / "index.jsonl"
    for number in range(3):
        write_numbered_in(tmp_path, f"train/{number}.mp4", 3)
    first = build_index(tmp_path, cache=cache, progress=False)
    assert build_index(tmp_path, cache=cache, progress=False) == first
    write_numbered(tmp_path / "train/1.mp4", 5)
    again = build_index(tmp_path, cache=cache, progress=False)
    assert [file.frames for file in again.files] == [3, 5, 3]
    assert again.digest != first.digest
    assert quiet == [["0.mp4", "1.mp4", "2.mp4"], [], ["1.mp4"]]
    for damage in ("not json", json.dumps({"index": 0}) + "\n", ""):
        cache.write_text(damage)
        assert build_index(tmp_path, cache=cache, progress=False) == again
    assert [path.name for path in cache.parent.iterdir()] == ["index.jsonl"]


def test_an_interrupted_search_keeps_what_it_found(
    tmp_path: Path, quiet: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_numbered_in(tmp_path, f"train/{number}.mp4", 3)

    def interrupted(clips: list[Clip], processes: int, patience: float):  # type: ignore[no-untyped-def]
        yield clips[0], look(clips[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "probe_all", interrupted)
        build_index(tmp_path, cache=tmp_path / "index.jsonl", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.jsonl", "train"]
    build_index(tmp_path, cache=tmp_path / "index.jsonl", progress=False)
    assert quiet == [["1.mp4", "2.mp4"]]


def test_nothing_is_made_where_there_are_no_clips(tmp_path: Path, quiet: list[list[str]]) -> None:
    (tmp_path / "data").mkdir()
    for root in ("data", "nowhere", "nowhere.csv", "nowhere.tar"):
        with pytest.raises(DataError):
            index_of(DataConfig(str(tmp_path / root)), tmp_path / "runs", "train")
    assert not (tmp_path / "runs").exists()
    write_numbered_in(tmp_path, "data/0.mp4", 3)
    index_of(DataConfig(str(tmp_path / "data")), tmp_path / "runs", "train", progress=False)
    assert sorted(path.name for path in (tmp_path / "runs/index").iterdir()) == [".turn", "data.jsonl"]


def test_runs_that_cannot_be_written_are_evaluated_all_the_same(
    tmp_path: Path, quiet: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_numbered_in(tmp_path, "data/0.mp4", 3)
    (tmp_path / "runs").touch()  # no folder can be made in it
    index = index_of(DataConfig(str(tmp_path / "data")), tmp_path / "runs", "train", progress=False)
    assert content(index) == [("0.mp4", -1, 3)]
    assert "what is known of the files is not kept for the next time" in capsys.readouterr().out


def test_a_clip_that_is_listed_often_is_looked_into_once(tmp_path: Path, quiet: list[list[str]]) -> None:
    write_numbered_in(tmp_path, "0.mp4", 3)
    (tmp_path / "list.csv").write_text("path,split\n0.mp4,train\n0.mp4,train\n")
    assert content(build_index(tmp_path / "list.csv", progress=False)) == [("0.mp4", -1, 3)] * 2
    assert quiet == [["0.mp4"]]


def test_the_digest_tells_content_and_not_the_place(tmp_path: Path, quiet: list[list[str]]) -> None:
    for place in ("here", "there"):
        write_numbered_in(tmp_path, f"{place}/train/a/0.mp4", 3)
    here, there = (build_index(tmp_path / place, progress=False) for place in ("here", "there"))
    assert here.digest == there.digest
    path = tmp_path / "there/train/a/0.mp4"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # as long as before
    path.write_bytes(content)
    assert build_index(tmp_path / "there", progress=False).digest != here.digest


def test_a_limit_takes_files_evenly(tmp_path: Path, quiet: list[list[str]]) -> None:
    for number in range(6):
        write_numbered_in(tmp_path, f"train/{'ab'[number // 3]}/{number}.mp4", 2)
    assert [f.name[-5] for f in build_index(tmp_path, limit=3, progress=False).files] == ["0", "2", "4"]
    assert len({f.name for f in build_index(tmp_path, limit=9, progress=False).files}) == 6, "each once"


def test_other_data_is_laid_out_alike_or_is_what_its_name_tells() -> None:
    seen = DataConfig("data/ucf", layout="ucf101", fold=2, fps=12.0)
    assert other_data(seen, "data/more") == replace(seen, root="data/more")
    assert other_data(DataConfig("data/shapes", layout="shapes"), "data/more").layout == "folders"
    for name in ("clips.csv", "clips.JSONL", "part-0.tar"):
        assert other_data(seen, name) == replace(seen, root=name, layout="auto")


def test_a_class_whose_name_is_not_utf_8_has_a_digest(tmp_path: Path, quiet: list[list[str]]) -> None:
    label = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / label).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    write_numbered(tmp_path / label / "0.mp4", 4)
    index = build_index(tmp_path, progress=False)
    assert index.labels == [label] and len(index.digest) == 64
