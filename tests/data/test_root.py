from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from indexes import build_index
from messy import write_clip
from server import Server, serving
from tars import latents_of, pack
from videos import numbered, run

from vidiff.data import index as index_module
from vidiff.data import root as module
from vidiff.data.buckets import Bucket, View
from vidiff.data.captions import read_captions
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.doctor.scan import find_all, scan
from vidiff.data.find import find_files
from vidiff.data.index import Index
from vidiff.data.order import Order
from vidiff.data.probe import fingerprint, probe
from vidiff.data.quarantine import Quarantine
from vidiff.data.root import copies_of, local_root, name_of
from vidiff.store import copies as copies_module
from vidiff.store import remote
from vidiff.store.copies import Copies
from vidiff.store.error import DataError, Unreachable
from vidiff.store.mirror import FACTS, is_there, link_of
from vidiff.store.remote import Unfetched
from vidiff.video.reader import read_video
from vidiff.video.sources import size_and_change
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


def facts(index: Index) -> list[dict[str, object]]:
    return [vars(file) for file in index.files]


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
    here, _ = find_files(clips, "auto", "train", 1)
    mirror = local_root(url_of(kind, clips, tmp_path, server), copies)
    assert mirror.parent == tmp_path / "runs" / "remote"
    there, labels = find_files(mirror, "auto", "train", 1)
    assert (there, labels) == (here, ["a b", "ü%41"]) and len(here) == 5
    assert not copies.folder.exists()  # nothing has been fetched
    before = [size_and_change(mirror / name) for name, _ in there]
    assert [size for size, _ in before] == [size_and_change(clips / name)[0] for name, _ in there]
    for name, _ in there:
        assert probe(mirror / name) == probe(clips / name)
        assert fingerprint(mirror / name) == fingerprint(clips / name)
        assert torch.equal(read_video(mirror / name), read_video(clips / name))
        one, other = (vars(examine(Case(root / name, name))) for root in (mirror, clips))
        assert one["problem"] == "" and {**one, "changed": 0} == {**other, "changed": 0}
    assert [size_and_change(mirror / name) for name, _ in there] == before
    names = [name for name, _ in there if name.endswith("#1.mp4")]
    assert read_captions(mirror, names) == read_captions(clips, names) == ["clip 0", "clip 2", "clip 1"]
    assert {path.relative_to(mirror) for path in find_all(mirror)} == {p.relative_to(clips) for p in find_all(clips)}


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
    assert [(file.path, file.label) for file in index.files] == [(f"train/x-{n}.tar/{n}.mp4", n) for n in range(3)]
    assert read_captions(index.root, [file.path for file in index.files]) == ["A dog"] * 3
    pattern = f"{server.url}/train/x-{{0..2}}.tar"
    by_pattern, _ = find_files(local_root(pattern, copies), "auto", "train", 1)
    assert by_pattern == [("x-0.tar/0.mp4", 0), ("x-2.tar/2.mp4", 2)]
    found, _ = find_files(local_root(f"{server.url}/test/x-0.tar", copies), "auto", "train", 1)
    assert found == [("x-0.tar/9.mp4", 1)]
    shutil.rmtree(copies.folder)
    assert torch.equal(read_video(index.path(1)), read_video(clips / "train" / "a b" / "0 #1.mp4"))
    with pytest.raises(DataError, match=rf"no 2 of 5 tars, such as {server.url}/train/x-3\.tar: set data\.root"):
        local_root(f"{server.url}/train/x-{{0..4}}.tar", copies)


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
    root = local_root(f"{server.url}/{name}" if far else str(file), copies)
    found, labels = find_files(root, "auto", "train", 1)
    held_out, _ = find_files(root, "auto", "test", 1)
    found = sorted(found + held_out)
    assert (labels == ["x", "y"] and [label for _, label in found] == [1, 0, 1]) or len(found) == 3
    contents = [read_video(root.parent / path) for path, _ in found]
    expected = [
        read_video(clips / path) for path in ("train/a b/0 #1.mp4", "train/a b/2 #1.mp4", "train/ü%41/1 #1.mp4")
    ]
    assert all(any(torch.equal(one, two) for two in contents) for one in expected)
    assert not any("secret" in path for path, _ in found)
    if name.startswith("captions"):
        paths = [path for path, _ in found]
        assert sorted(read_captions(root.parent, paths)) == ["b", "d", "one, two"]
    count = len(server.gets)
    assert local_root(f"{server.url}/{name}" if far else str(file), copies) == root
    assert len(server.gets) == count + 0
    plain = tmp_path / "plain.csv"
    plain.write_text(f"path\n{clips}/train/a b/0 #1.mp4\n")
    assert local_root(plain, copies) == plain  # nothing in it is elsewhere


def test_listings(tmp_path: Path, clips: Path, copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    shutil.copytree(clips / "train", source)
    root = local_root(f"file://{source}", copies)
    first = read_video(root / "a b" / "0 #1.mp4")
    old = link_of(root / "a b" / "0 #1.mp4")
    write_clip(source / "a b" / "0 #1.mp4", 7)
    (source / "a b" / "2 #1.mp4").unlink()
    (source / "ü%41" / "1 #1.mp4").rename(source / "new.mp4")
    (source / "ü%41" / "1 #1.txt").unlink()
    assert local_root(f"file://{source}", copies) == root and is_there(root / "a b" / "2 #1.mp4")
    monkeypatch.setattr(module, "SERVES", -1.0)
    assert local_root(f"file://{source}", copies) == root
    assert {p.relative_to(root).as_posix() for p in find_all(root)} == {
        "a b/0 #1.mp4", "a b/moving.gif", "a b/pictures", "new.mp4"}  # fmt: skip
    assert not (root / "ü%41").exists() and link_of(root / "a b" / "0 #1.mp4") != old
    assert not torch.equal(read_video(root / "a b" / "0 #1.mp4"), first)
    with pytest.raises(DataError, match=r"no videos, lists or tars below file://.*nothing: set data\.root"):
        (tmp_path / "nothing").mkdir()
        local_root(f"file://{tmp_path}/nothing", copies)
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9: cannot be fetched in 3 tries, Cannot connect"):
        local_root("http://127.0.0.1:9", copies)
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
    root = local_root(url, copies)
    inside = {path for path in root.rglob("*") if path.is_symlink()}
    assert {path.relative_to(root).as_posix() for path in inside} <= {"good.mp4", "abs.mp4", "d.mp4/x.mp4"}
    assert not [path for path in tmp_path.rglob("out.mp4")] and "whose names no file here can have" in "".join(
        capsys.readouterr()
    )


@pytest.mark.faults
def test_what_cannot_be_fetched_is_no_fault_of_the_file(
    tmp_path: Path, clips: Path, copies: Copies, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder = clips
    name = "train/a b/0 #1.mp4"
    cache = tmp_path / "index.jsonl"
    monkeypatch.setattr(index_module, "probe_all", lambda paths, *_: ((path, probe(path)) for path in paths))
    root = local_root(server.url, copies)
    server.faults[name] = [500] * 3
    assert isinstance(probe(root / name), Unfetched)
    server.faults[name] = [500] * 3
    index = build_index(server.url, progress=False, copies=copies, cache=cache, max_broken=0.5)
    reason = (
        f"{server.url}/train/a%20b/0%20%231.mp4: cannot be fetched in 3 tries, 500, message='Internal Server Error'"
    )
    assert [path for path, _ in index.broken] == [name] and index.broken[0][1].startswith(reason)
    assert build_index(server.url, progress=False, copies=copies, cache=cache).broken == []  # it was tried again
    shutil.rmtree(copies.folder)
    server.faults[name] = [500] * 3

    record = examine(Case(root / name, name))
    assert (record.problem, record.readable, record.held_back) == ("unreachable", False, False)
    server.faults[name] = [404]
    assert examine(Case(root / name, name)).problem == "missing"
    server.faults[name] = [500] * 99
    quarantine = Quarantine(tmp_path / "quarantine.txt")

    def records() -> dict[str, str]:
        found = scan(root, tmp_path / "out", quarantine, processes=1, progress=False, look=examine_soon)
        return {record.path: record.problem for record in found if record.problem}

    assert records() == {name: "unreachable"} and quarantine.entries() == {}
    server.faults.clear()
    assert records() == {}


def examine_soon(case: Case):  # type: ignore[no-untyped-def]
    remote.WAITS = (0.01, 0.01)
    return examine(case)


@pytest.mark.faults
def test_an_outage_ends_the_search_soon(
    clips: Path, copies: Copies, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "probe_all", lambda paths, *_: ((path, probe(path)) for path in paths))
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
        server.faults[file.path] = [500] * 99

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
        server.faults[file.path] = ["slow"]
    server.pause = 3.0
    dataset = ClipDataset(index, View(Bucket(4, 16, 16)), patience=2.0, quarantine=Quarantine(tmp_path / "q.txt"))
    batch = next(iter(make_loader(dataset, [[(0, 0), (0, 1)]], 1)))
    assert batch["key"].tolist() == [0, 1] and not (tmp_path / "q.txt").exists()
    shutil.rmtree(copies.folder)
    server.faults[index.files[0].path] = ["slow"]
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
            assert path.name == FACTS and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.faults
def test_processes_share_a_mirror(tmp_path: Path, clips: Path, server: Server) -> None:
    server.folder = clips
    code = """
        import sys
        from pathlib import Path
        from vidiff.data.doctor import find_all
        from vidiff.data.root import copies_of, local_root
        from vidiff.video.reader import read_video
        root = local_root(sys.argv[1], copies_of(Path(sys.argv[2])))
        for path in find_all(root):
            print(path.relative_to(root), float(read_video(path).double().sum()))
    """
    both = [run(code, server.url, tmp_path / "runs") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    expected = [f"{path.relative_to(clips)} {float(read_video(path).double().sum())}" for path in find_all(clips)]
    assert said[0][0] == said[1][0] and said[0][0].splitlines() == expected, said
    files = [name for name, _ in server.gets if name.endswith((".mp4", ".gif", ".png"))]
    assert len(files) == len(set(files))
