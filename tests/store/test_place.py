from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidiff.store.copies import Copies
from vidiff.store.error import VideoError
from vidiff.store.place import Place, Remote, Stamp, place_of
from vidiff.store.remote import Identity
from vidiff.store.tree import Folder, Listed


def test_a_part_of_a_file_reads_as_a_file(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(1000)
    (tmp_path / "x").write_bytes(content)
    part = place_of(tmp_path / "x").part("y", 100, 300)
    with part.open() as file:
        assert file.read() == content[100:400]
        assert file.seek(-10, os.SEEK_END) == 290 and file.read(50) == content[390:400] and file.read() == b""
        assert file.seek(5) == 5 and file.read(5) == content[105:110] and file.tell() == 10
        assert file.seek(10, os.SEEK_CUR) == 20 and file.read(1) == content[120:121]
        assert file.seek(400) == 400 and file.read() == b""
    assert part.read() == content[100:400] and place_of(part) is part
    assert (str(part), part.url) == (f"{tmp_path}/x/y", f"subfile,,start,100,end,400,,:{tmp_path}/x")
    os.utime(tmp_path / "x", ns=(7, 7))
    assert place_of(tmp_path / "x").stamp() == Stamp(1000, 7) and part.stamp() == Stamp(300, 7)
    assert place_of(tmp_path / "gone").stamp() == Stamp(0, 0)


def test_a_key_is_the_same_from_wherever_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    keys = {place_of(folder / "x.tar").part("a/b.mp4", 0, 1).key for folder in (tmp_path / "real", Path("link"))}
    assert keys == {f"{tmp_path.resolve()}/real/x.tar/a/b.mp4"}


def test_what_is_elsewhere_is_fetched_when_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x y").write_bytes(b"0123456789")
    copies = Copies(tmp_path / "copies", 1 << 20)
    remote = Remote(f"file://{tmp_path}/there", "x y", Identity(10, 5, "v"), copies)
    place = Place("far", remote=remote)
    assert place.is_elsewhere and place.stamp() == Stamp(10, 5) and not copies.folder.exists()
    part = place.part("p", 2, 3)
    with part.held() as here:
        assert not here.is_elsewhere and here.open().read() == b"234"
        assert (str(here), here.stamp(), here.key) == ("far/p", Stamp(3, 5), part.key)  # as before it was here
    assert place.read() == b"0123456789" and len(list(copies.folder.iterdir())) == 1
    assert Place("far", remote=Remote(remote.url, "x y", Identity(10, 5, "w"), copies)).version != place.version
    with pytest.raises(VideoError, match="no such file"):
        Place("far", remote=Remote(f"file://{tmp_path}/there", "gone", Identity(), copies)).read()


def test_a_tree_is_the_same_here_and_elsewhere(tmp_path: Path) -> None:
    files = ["a/b/1", "a/2", "a-b/3", "4", "c/d/e/5"]
    for name in [*files, ".hidden", "a/.hidden/6"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    here, there = Folder(tmp_path), Listed("far", {name: Place(name) for name in files})
    assert list(here.walk()) == list(there.walk())
    assert [folder for folder, _, _ in here.walk()] == ["", "a", "a/b", "a-b", "c", "c/d", "c/d/e"]
    assert here.inside("a") == there.inside("a") == (["a/2"], ["a/b"])
    assert here.inside("no") == there.inside("no") == ([], [])
    assert here.place("no") is there.place("no") is None
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    assert [folder for folder, _, _ in here.walk()] == ["", "a", "a/b", "a-b", "c", "c/d", "c/d/e"]
    for name, target in (("circle", "circle"), ("through", "4/x"), ("gone", "no")):  # files that do not open
        (tmp_path / "c" / name).symlink_to(target)
        (tmp_path / "c" / "4").touch()
    assert here.inside("c") == (["c/4", "c/circle", "c/gone", "c/through"], ["c/d"])
    spared = []
    for folder, _, folders in there.walk():
        spared.append(folder)
        folders[:] = [inner for inner in folders if inner != "c"]
    assert spared == ["", "a", "a/b", "a-b"]


def test_a_folder_that_may_not_be_read_is_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "lost+found/2", "z/3"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    locked, scandir = "lost+found", os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"/lost\+found is left out: Permission denied"):
        assert [folder for folder, _, _ in Folder(tmp_path).walk()] == ["", "a", "z"]
    locked = tmp_path.name
    with pytest.raises(PermissionError):
        list(Folder(tmp_path).walk())
