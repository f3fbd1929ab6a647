from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from indexes import build_index, find_all, find_clips, find_files, source, stock_of
from messy import write_clip
from server import Server, serving
from tars import latents_of, pack
from videos import numbered, run

from vidiff.data import index as index_module
from vidiff.data import root as module
from vidiff.data.buckets import Bucket, View
from vidiff.data.captions import read_captions
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.doctor.scan import scan
from vidiff.data.index import Index, index_of
from vidiff.data.options import DataConfig
from vidiff.data.order import Order
from vidiff.data.probe import Unfetched, fingerprint, probe
from vidiff.data.quarantine import Quarantine
from vidiff.data.root import copies_of, name_of, root_of
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.data.workers import Begin
from vidiff.store import copies as copies_module
from vidiff.store import remote
from vidiff.store.copies import Copies
from vidiff.store.error import DataError, Unreachable
from vidiff.store.place import Stamp
from vidiff.store.tree import Folder
from vidiff.video.reader import read_video
from vidiff.video.sources import stamp_of
from vidiff.video.writer import write_video


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(remote, "TICK", 0.1)
    monkeypatch.setattr(copies_module, "_room", {})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes with clips of several kinds, captions, and names that a URL cannot have as they are."""
    root = tmp_path_factory.mktemp("clips")
    for split in ("train", "test"):
        for n in range(3):
            write_clip(root / split / ("a b", "ü%41")[n % 2] / f"{n} #1.mp4", n)
            (root / split / ("a b", "ü%41")[n % 2] / f"{n} #1.txt").write_text(f"clip {n}")
    write_video(root / "train" / "a b" / "moving.gif", numbered(9))
    write_video(f"{root}/train/a b/pictures/", numbered(9))
    (root / "train" / "readme.md").write_text("not a clip")
    return root


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return copies_of(tmp_path / "runs")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as found:
        yield found


def facts(index: Index) -> list[object]:
    return [(file.name, file.label, file.stamp.size, *file.facts) for file in index.files]


def url_of(kind: str, clips: Path, place: Path, server: Server) -> str:
    if kind == "zip":
        with zipfile.ZipFile(place / "all.zip", "w") as file:
            for path in sorted(clips.rglob("*")):
                file.write(path, path.relative_to(clips))
        return f"zip://::file://{place}/all.zip"
    if kind == "memory":
        import fsspec

        fsspec.filesystem("memory").put(f"{clips}/", f"/{place.name}/", recursive=True)
        return f"memory://{place.name}"
    server.folder = clips
    return {"file": f"file://{clips}", "http": f"{server.url}"}[kind]


@pytest.mark.parametrize("kind", ["file", "zip", "memory", "http"])
def test_a_folder_elsewhere_is_as_one_here(
    tmp_path: Path, clips: Path, copies: Copies, server: Server, kind: str
) -> None:
    here = find_clips(clips)
    far = root_of(url_of(kind, clips, tmp_path, server), copies)
    there = find_clips(far)
    assert [(clip.name, clip.label) for clip in there] == [(clip.name, clip.label) for clip in here] and len(here) == 5
    assert find_files(far)[1] == ["a b", "ü%41"]
    assert not copies.folder.exists()  # nothing has been fetched
    before = [stamp_of(clip.place) for clip in there]
    assert [stamp.size for stamp in before] == [stamp_of(clip.place).size for clip in here]
    for one, other in zip(there, here, strict=True):
        assert probe(one) == probe(other)
        with one.place.held() as place:
            assert fingerprint(place) == fingerprint(other.place)
        assert torch.equal(read_video(one.place), read_video(other.place))
        records = [replace(examine(Case(clip)), stamp=Stamp()) for clip in (one, other)]
        assert records[0].problem == "" and records[0] == records[1]
    assert [stamp_of(clip.place) for clip in find_clips(far)] == before
    named = [[clip for clip in clips if clip.name.endswith("#1.mp4")] for clips in (there, here)]
    assert read_captions(far, named[0]) == read_captions(source(clips), named[1]) == ["clip 0", "clip 2", "clip 1"]
    assert {clip.name for clip in find_all(far)} == {clip.name for clip in find_all(clips)}


LATIN = os.fsdecode(b"caf\xe9")  # of a file system that was written in Latin-1
ODD = (f"train/{LATIN}/12:30.mp4", "train/a:b/x::y.mp4", f"train/a:b/{LATIN}.mp4", f"test/{LATIN}/c:.mp4")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips whose names have colons, or are not UTF-8."""
    root = tmp_path_factory.mktemp("odd")
    for n, name in enumerate(ODD):
        write_clip(root / f"{n}.mp4", n)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{n}.mp4").rename(root / name)
    return root


@pytest.mark.parametrize("kind", ["folder", "relative", "file", "memory", "http", "tar", "list"])
def test_names_with_colons_and_names_that_are_not_utf8(
    tmp_path: Path, odd: Path, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found and read wherever they lie, by the same names, and what is known of them is kept."""
    where, prefix, options = str(odd), "", {}
    if kind == "relative":
        monkeypatch.chdir(odd)
        where = "."
    elif kind == "tar":
        where = str(tmp_path / "12:30.tar")
        prefix, options = "12:30.tar/", {"max_broken": 0}
        pack(Path(where), {name: (odd / name).read_bytes() for name in ODD[:3]})
    elif kind == "list":
        monkeypatch.chdir(odd / "train")
        rows = "".join(json.dumps({"path": name.removeprefix("train/")}) + "\n" for name in ODD[:3])
        Path("a:b.jsonl").write_text(rows)
        where = "a:b.jsonl"
    elif kind != "folder":
        where = url_of(kind, odd, tmp_path, server)
        if kind == "memory":  # which is this process's own
            monkeypatch.setattr(index_module, "probe_all", lambda clips, *_: ((clip, probe(clip)) for clip in clips))
    common = {"progress": False, "workers": 1, "copies": copies_of(tmp_path / "runs")}
    index, again = (build_index(where, cache=tmp_path / "index.jsonl", **common, **options) for _ in range(2))
    if kind in ("tar", "list"):  # which tell of no splits
        index = Index(index.root, [*index.files, *build_index(where, "test", **common).files], [])
    else:
        assert index.labels == ["a:b", LATIN] and again == index
    names = {name.removeprefix("train/") if kind == "list" else f"{prefix}{name}" for name in ODD[:3]}
    assert len(index.files) == 3 and {file.name for file in index.files} == names
    for file in index.files:
        name = file.name.removeprefix(prefix) if kind != "list" else f"train/{file.name}"
        assert torch.equal(read_video(file.place), read_video(odd / name))
    Path("a:b.jsonl").unlink(missing_ok=True)
    held = Quarantine(tmp_path / "quarantine.txt")
    held.add(index.files[0], "broken")
    assert list(held.held(index.files)) == [index.files[0].name]


@pytest.mark.parametrize("kind", ["file", "http"])
def test_what_is_not_read_is_told_elsewhere_too(tmp_path: Path, copies: Copies, server: Server, kind: str) -> None:
    for name in ("a/0.mp4", "a/x.heic", "a/.x.mp4", ".DS_Store", "notes.md", "stray.ts"):
        (server.folder / name).parent.mkdir(exist_ok=True)
        (server.folder / name).touch()
    far = root_of(server.url if kind == "http" else f"file://{server.folder}", copies)
    told = [one[:2] for one in stock_of(far).left_out]
    assert told == [one[:2] for one in stock_of(server.folder).left_out] == [
        ("a/x.heic", "a file of a kind that is not read, .heic"), ("stray.ts", "a clip beside the folders of classes")
    ]  # fmt: skip
    assert not any(name.endswith((".heic", ".md")) for name in server.heads)


@pytest.mark.parametrize("folder", ["12:30", "a:b", "a::b", "http:", LATIN])
def test_a_relative_root_may_have_colons(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "x.mp4")
    Path(folder).mkdir()
    (tmp_path / "x.mp4").rename(Path(folder) / "0:0.mp4")
    index = index_of(DataConfig(folder), Path("runs"), "train", progress=False)
    assert [(file.name, file.frames) for file in index.files] == [("0:0.mp4", 8)]
    assert read_video(Path(folder) / "0:0.mp4").shape == (3, 8, 32, 32)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_clip(tmp_path / "clips" / "0.mp4")
    (tmp_path / "list.csv").write_text("path\nclips/0.mp4\n")
    pack(tmp_path / "x.tar", {"0.mp4": (tmp_path / "clips/0.mp4").read_bytes()})
    for root, name in (("clips", "0.mp4"), ("list.csv", "clips/0.mp4"), ("x.tar", "x.tar/0.mp4")):
        index = index_of(DataConfig(f"~/{root}"), tmp_path / "runs", "train", progress=False)
        assert [file.name for file in index.files] == [name]
        assert [clip.name for clip in find_all(f"~/{root}")] == [name]
    make_shapes(tmp_path / "shapes", ShapesSpec(size=32, frames=2, train=1, test=1), progress=False)
    data = DataConfig("~/shapes", layout="shapes")
    assert len(index_of(data, tmp_path / "runs", "train", progress=False).files) == 12
    assert name_of("~/clips") == "clips" and name_of("~") == tmp_path.name
    data = DataConfig("~/clips", images="~/a.jpg", latents="~/latents")
    data.check()
    assert [data.root, data.images, data.latents] == [f"{tmp_path}/{name}" for name in ("clips", "a.jpg", "latents")]
    monkeypatch.delenv("HOME")
    assert str(root_of("~nobody-of-this-name/x", copies_of(tmp_path)).tree) == "~nobody-of-this-name/x"


def test_training_sees_the_same_clips(tmp_path: Path, clips: Path, server: Server) -> None:
    """In this process and in others, even where hardly any copy may be kept; each file is fetched when it is needed."""
    server.folder = clips
    small = copies_of(tmp_path / "runs", 20e-6)  # 20 kB: some clips at a time
    cache = tmp_path / "index.jsonl"
    plain = build_index(clips, progress=False, workers=1)
    far = build_index(server.url, progress=False, workers=1, copies=small, cache=cache)
    assert facts(far) == facts(plain) and far.digest == plain.digest
    videos = {name for name, _ in server.gets if not name.endswith(("/", ".txt")) and "." in Path(name).name}
    assert "train/a b/0 #1.mp4" in videos and not any(name.startswith("test") for name in videos)
    count = len(server.gets)
    assert facts(build_index(server.url, progress=False, copies=small, cache=cache)) == facts(plain)
    assert len(server.gets) == count  # neither listed nor fetched again
    data = [ClipDataset(index, View(Bucket(4, 16, 16), flip=True)) for index in (plain, far)]
    batches = [
        make_loader(each, Order([range(len(each))], 5), workers) for each, workers in zip(data, (0, 1), strict=True)
    ]
    for (one, other), _ in zip(zip(*batches, strict=True), range(2), strict=False):
        assert torch.equal(one["video"], other["video"])
    assert sum(each.stat().st_size for each in small.folder.iterdir()) <= 20e3

    caches = [latents_of(index, tmp_path / name) for name, index in (("one", plain), ("other", far))]
    shards = [next(each.folder.glob("*.safetensors")).read_bytes() for each in caches]
    assert shards[0] == shards[1]


def test_tars_elsewhere(tmp_path: Path, clips: Path, copies: Copies, server: Server) -> None:
    whole = (clips / "train" / "a b" / "0 #1.mp4").read_bytes()
    for n in range(3):
        pack(server.folder / "train" / f"x-{n}.tar", {f"{n}.mp4": whole, f"{n}.cls": str(n), f"{n}.txt": "A dog"})
    pack(server.folder / "test" / "x-0.tar", {"9.mp4": whole, "9.cls": "1"})
    index = build_index(server.url, progress=False, workers=1, copies=copies)
    assert [(file.name, file.label) for file in index.files] == [(f"train/x-{n}.tar/{n}.mp4", n) for n in range(3)]
    assert read_captions(root_of(server.url, copies), index.files) == ["A dog"] * 3
    pattern = f"{server.url}/train/x-{{0..2}}.tar"
    both = [find_files(root_of(pattern, copies), split=split)[0] for split in ("train", "test")]
    assert both == [[("x-1.tar/1.mp4", 1), ("x-2.tar/2.mp4", 2)], [("x-0.tar/0.mp4", 0)]]
    assert find_files(root_of(f"{server.url}/test/x-0.tar", copies))[0] == [("x-0.tar/9.mp4", 1)]
    shutil.rmtree(copies.folder)
    assert torch.equal(read_video(index.files[1].place), read_video(clips / "train" / "a b" / "0 #1.mp4"))
    with pytest.raises(DataError, match=rf"no 2 of 5 tars, such as {server.url}/train/x-3\.tar: set data\.root"):
        root_of(f"{server.url}/train/x-{{0..4}}.tar", copies)


@pytest.mark.parametrize("name", ["list.csv", "captions.jsonl"])
@pytest.mark.parametrize("far", [True, False])
def test_lists_that_name_urls(
    tmp_path: Path, clips: Path, copies: Copies, server: Server, name: str, far: bool
) -> None:
    shutil.copytree(clips, server.folder / "clips")
    other = server.url.replace("127.0.0.1", "localhost")
    rows = [
        {"path": f"{server.url}/clips/train/a%20b/0%20%231.mp4?sig=secret", "label": "x", "caption": "one, two"},
        {"path": f"{other}/clips/train/a%20b/2%20%231.mp4", "label": "y", "caption": "b"},
        {"path": f"{server.url}/clips/gone.mp4", "label": "y", "caption": "c"},
        {"path": "clips/train/ü%2541/1 %231.mp4" if far else str(clips / "train/ü%41/1 #1.mp4"), "label": "y",
         "caption": "d"},
    ]  # fmt: skip
    file = (server.folder if far else tmp_path) / name
    lines = [json.dumps(row) for row in rows]
    if name.endswith("csv"):
        lines = ["path,label,caption", *(f'{row["path"]},{row["label"]},"{row["caption"]}"' for row in rows)]
    file.write_text("\n".join(lines))
    root = f"{server.url}/{name}" if far else str(file)
    listed = root_of(root, copies)
    found = sorted(find_clips(listed) + find_clips(listed, split="test"), key=lambda clip: clip.name)
    labels = find_files(listed)[1]
    assert str(listed) == root
    assert (labels == ["x", "y"] and [clip.label for clip in found] == [1, 0, 1]) or len(found) == 3
    contents = [read_video(clip.place) for clip in found]
    expected = [
        read_video(clips / path) for path in ("train/a b/0 #1.mp4", "train/a b/2 #1.mp4", "train/ü%41/1 #1.mp4")
    ]
    assert all(any(torch.equal(one, two) for two in contents) for one in expected)
    assert not any("secret" in text for clip in found for text in (clip.name, clip.place.name))
    if name.startswith("captions"):
        assert sorted(read_captions(listed, found)) == ["b", "d", "one, two"]
    count = len(server.gets)
    assert find_clips(root_of(root, copies)) == find_clips(listed)
    assert len(server.gets) == count
    plain = tmp_path / "plain.csv"
    plain.write_text(f"path\n{clips}/train/a b/0 #1.mp4\n")
    assert isinstance(root_of(plain, copies).tree, Folder)  # nothing in it is elsewhere


def test_names_that_look_like_others(tmp_path: Path) -> None:
    """A folder may end as a list or a tar does, a tar may be given as a folder, and have a question mark."""
    for name in ("set.csv/train/0.mp4", "set.tar/train/0.mp4", "one.tar", "why?.tar", "list.csv/0.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("set.csv", "set.tar"):
        assert [clip.name for clip in find_clips(tmp_path / name)] == ["train/0.mp4"]
    roots = [source(f"{tmp_path}/{name}") for name in ("one.tar/", "why?.tar", "list.csv/")]
    assert [str(root.tree) for root in roots] == [str(tmp_path), str(tmp_path), f"{tmp_path}/list.csv"]
    assert [root.name for root in roots] == ["one.tar", "why?.tar", ""]


def test_listings(tmp_path: Path, clips: Path, copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served"
    shutil.copytree(clips / "train", served)

    def listed() -> dict[str, Clip]:
        return {clip.name: clip for clip in find_all(root_of(f"file://{served}", copies))}

    old = listed()
    first = read_video(old["a b/0 #1.mp4"].place)
    write_clip(served / "a b" / "0 #1.mp4", 7)
    (served / "a b" / "2 #1.mp4").unlink()
    (served / "ü%41" / "1 #1.mp4").rename(served / "new.mp4")
    (served / "ü%41" / "1 #1.txt").unlink()
    assert listed().keys() == old.keys()
    monkeypatch.setattr(module, "SERVES", -1.0)
    new = listed()
    assert {*new} == {"a b/0 #1.mp4", "a b/moving.gif", "a b/pictures", "new.mp4"}
    assert root_of(f"file://{served}", copies).tree.inside("ü%41") == ([], [])
    assert new["a b/0 #1.mp4"].place != old["a b/0 #1.mp4"].place
    assert not torch.equal(read_video(new["a b/0 #1.mp4"].place), first)
    with pytest.raises(DataError, match=r"no videos, lists or tars below file://.*nothing: set data\.root"):
        (tmp_path / "nothing").mkdir()
        root_of(f"file://{tmp_path}/nothing", copies)
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9: cannot be fetched in 3 tries, Cannot connect"):
        root_of("http://127.0.0.1:9", copies)
    with pytest.raises(ValueError, match=r"s3://b/c cannot be opened by what is installed: pip install s3fs"):
        build_index("s3://b/c", copies=copies)


@pytest.mark.faults
def test_names_that_no_file_may_have(tmp_path: Path, copies: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    content = write_clip(tmp_path / "x.mp4").read_bytes()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in (
            "good.mp4",
            "../out.mp4",
            "/abs.mp4",
            "a/../../out.mp4",
            "new\nline.mp4",
            ".hidden.mp4",
            "d.mp4/x.mp4",
        ):
            file.writestr(name, content)
    url = f"zip://::file://{tmp_path}/all.zip"
    tree = root_of(url, copies).tree
    names = {file for _, files, _ in tree.walk() for file in files}
    assert "good.mp4" in names and names <= {"good.mp4", "abs.mp4", "d.mp4/x.mp4"}
    assert "whose names no file here can have" in "".join(capsys.readouterr())


@pytest.mark.faults
def test_what_cannot_be_fetched_is_no_fault_of_the_file(
    tmp_path: Path, clips: Path, copies: Copies, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder = clips
    name = "train/a b/0 #1.mp4"
    cache = tmp_path / "index.jsonl"
    monkeypatch.setattr(index_module, "probe_all", lambda clips, *_: ((clip, probe(clip)) for clip in clips))
    root = root_of(server.url, copies)
    (clip,) = (clip for clip in find_clips(root) if clip.name == name)
    server.faults[name] = [500] * 3
    assert isinstance(probe(clip), Unfetched)
    server.faults[name] = [500] * 3
    index = build_index(server.url, progress=False, copies=copies, cache=cache, max_broken=0.5)
    reason = (
        f"{server.url}/train/a%20b/0%20%231.mp4: cannot be fetched in 3 tries, 500, message='Internal Server Error'"
    )
    assert [path for path, _ in index.broken] == [name] and index.broken[0][1].startswith(reason)
    assert build_index(server.url, progress=False, copies=copies, cache=cache).broken == []  # it was tried again
    shutil.rmtree(copies.folder)
    server.faults[name] = [500] * 3

    record = examine(Case(clip))
    assert (record.problem, record.readable, record.held_back) == ("unreachable", False, False)
    server.faults[name] = [404]
    assert examine(Case(clip)).problem == "missing"
    server.faults[name] = [500] * 99
    quarantine = Quarantine(tmp_path / "quarantine.txt")

    def records() -> dict[str, str]:
        found = scan(stock_of(root), tmp_path / "out", quarantine, processes=1, progress=False, look=examine_soon)
        return {record.name: record.problem for record in found if record.problem}

    assert records() == {name: "unreachable"} and quarantine.entries() == {}
    server.faults.clear()
    assert records() == {}


def examine_soon(case: Case, begin: Begin):  # type: ignore[no-untyped-def]
    remote.WAITS = (0.01, 0.01)
    return examine(case, begin)


@pytest.mark.faults
def test_an_outage_ends_the_search_soon(
    clips: Path, copies: Copies, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "probe_all", lambda clips, *_: ((clip, probe(clip)) for clip in clips))
    for n in range(30):
        shutil.copy(clips / "train" / "a b" / "0 #1.mp4", server.folder / f"{n:02d}.mp4")
        server.faults[f"{n:02d}.mp4"] = [503] * 99
    with pytest.raises(DataError, match=r"^8 files, one after the other, cannot be fetched; run again when they can"):
        build_index(server.url, progress=False, copies=copies)
    assert len(server.gets) == 1 + 8 * 3


@pytest.mark.slow  # the process that decodes waits between its tries
@pytest.mark.faults
def test_an_outage_leaves_no_mark_in_latents(
    tmp_path: Path, clips: Path, copies: Copies, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder = clips
    index = build_index(server.url, progress=False, copies=copies, workers=1)
    shutil.rmtree(copies.folder)
    for file in index.files[2:]:
        server.faults[file.name] = [500] * 99

    with pytest.raises(Unreachable, match="cannot be fetched in 5 tries"):
        latents_of(index, tmp_path, shard_bytes=1)
    server.faults.clear()
    assert latents_of(index, tmp_path, shard_bytes=1).frames == [file.frames for file in index.files]


@pytest.mark.slow
@pytest.mark.faults
def test_fetching_takes_nobodys_patience(tmp_path: Path, clips: Path, copies: Copies, server: Server) -> None:
    server.folder = clips
    index = build_index(server.url, progress=False, copies=copies, workers=1)
    shutil.rmtree(copies.folder)
    for file in index.files[:2]:
        server.faults[file.name] = ["slow"]
    server.pause = 3.0
    dataset = ClipDataset(index, View(Bucket(4, 16, 16)), patience=2.0, quarantine=Quarantine(tmp_path / "q.txt"))
    batch = next(iter(make_loader(dataset, [[(0, 0), (0, 1)]], 1)))
    assert batch["key"].tolist() == [0, 1] and not (tmp_path / "q.txt").exists()
    shutil.rmtree(copies.folder)
    server.faults[index.files[0].name] = ["slow"]
    assert not build_index(server.url, progress=False, copies=copies, workers=1, patience=2.0).broken


@pytest.mark.faults
def test_secrets_stay_where_only_their_owner_reads(tmp_path: Path, clips: Path, copies: Copies, server: Server) -> None:
    server.folder = clips
    url = server.url.replace("//", "//me:hush@")
    (tmp_path / "list.csv").write_text(f"path\n{url}/train/a%20b/0%20%231.mp4?sig=hush\n")
    build_index(
        tmp_path / "list.csv", progress=False, copies=copies, cache=tmp_path / "runs" / "index.jsonl", workers=1
    )
    assert "hush" not in name_of(url)
    for path in (tmp_path / "runs").rglob("*"):
        assert "hush" not in path.name
        if path.is_file() and b"hush" in path.read_bytes():
            assert path.parent.name == "remote" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.faults
def test_processes_share_copies(tmp_path: Path, clips: Path, server: Server) -> None:
    server.folder = clips
    code = """
        import sys
        from pathlib import Path
        from vidiff.data.doctor.scan import find_all
        from vidiff.data.find import take_stock
        from vidiff.data.root import copies_of, root_of
        from vidiff.video.reader import read_video
        for clip in find_all(take_stock(root_of(sys.argv[1], copies_of(Path(sys.argv[2]))), "auto")):
            print(clip.name, float(read_video(clip.place).double().sum()))
    """
    both = [run(code, server.url, tmp_path / "runs") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    expected = [f"{clip.name} {float(read_video(clip.place).double().sum())}" for clip in find_all(clips)]
    assert said[0][0] == said[1][0] and said[0][0].splitlines() == expected, said
    files = [name for name, _ in server.gets if name.endswith((".mp4", ".gif", ".png"))]
    assert len(files) == len(set(files))
