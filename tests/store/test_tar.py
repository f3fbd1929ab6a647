from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from indexes import (
    build_index,
    case,
    clip_at,
    find_all,
    find_clips,
    find_files,
    member,
    size_and_change,
    source,
    stock_of,
)
from messy import BREAK, write_clip
from tars import Parts, latents_of, pack
from videos import number_of, numbered, write_numbered

from vidiff.data import tars as module
from vidiff.data.buckets import Bucket, View
from vidiff.data.captions import read_captions
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.doctor.examine import examine
from vidiff.data.doctor.scan import scan
from vidiff.data.index import Index
from vidiff.data.order import Order
from vidiff.data.probe import fingerprint, probe
from vidiff.data.quarantine import Quarantine
from vidiff.data.tars import Contents, expand, read_contents
from vidiff.store.error import DataError
from vidiff.store.place import Place, Stamp, place_of
from vidiff.store.tar import TarError
from vidiff.video.reader import VideoReader, read_video
from vidiff.video.writer import write_image, write_video


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents_of(tar: Path) -> Contents:
    return read_contents(place_of(tar))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("whole") / "clip.mp4").read_bytes()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes, with a clip of every kind."""
    root = tmp_path_factory.mktemp("clips")
    for n in range(4):
        write_clip(root / "ab"[n % 2] / f"{n}.mp4", n, frames=8 + n)
    write_clip(root / "a" / "odd.avi", 9, codec="mpeg4")
    write_clip(root / "b" / "deep.mkv", 9)
    write_video(root / "b" / "moving.gif", numbered(9))
    return root


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_is_in_a_tar_is_what_is_in_a_folder(tmp_path: Path, clips: Path, form: int) -> None:
    long = "b/" + "x" * 90 + "é" * (form != tarfile.USTAR_FORMAT) * 60
    files = {path.relative_to(clips).as_posix(): path for path in sorted(clips.rglob("*.*"))}
    tar = pack(tmp_path / "0.tar", {**{n: p.read_bytes() for n, p in files.items()}, f"{long}.mp4": b""}, form)
    found, labels = find_files(tar, "auto", "train", 1)
    assert labels == ["a", "b"] and len(found) == 7
    for name, file in files.items():
        clip, own = Clip(name, member(tar, f"0.tar/{name}")), clip_at(file, name)
        assert probe(clip) == probe(own)
        assert fingerprint(clip.place) == fingerprint(own.place)
        assert torch.equal(read_video(clip.place), read_video(file))
        assert torch.equal(read_video(clip.place, [5, 2, 2], (20, 24)), read_video(file, [5, 2, 2], (20, 24)))
        assert size_and_change(clip.place) == (file.stat().st_size, tar.stat().st_mtime_ns)
        one, other = examine(case(clip.place)), examine(case(file))
        assert one.readable and replace(one, stamp=Stamp()) == replace(other, stamp=Stamp())
    assert member(tar, f"0.tar/{long}.mp4").size == 0


def test_training_sees_the_same_clips(tmp_path: Path, clips: Path) -> None:
    """Facts, clips and latents, bit for bit, in this process and in workers."""
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    for split in ("train", "test"):
        shutil.copytree(clips, folder / split)
        files = sorted((folder / split).rglob("*.*"))
        for n in range(2):
            parts = {path.relative_to(folder / split).as_posix(): path.read_bytes() for path in files[n::2]}
            pack(shards / split / f"{n}.tar", parts)
    plain, packed = (build_index(root, progress=False, workers=1) for root in (folder, shards))
    names = [Path(file.name) for file in packed.files]
    assert {name.parts[:2] for name in names} == {("train", "0.tar"), ("train", "1.tar")}
    by_name = {Path(file.name).name: file for file in plain.files}
    same_facts = [(by_name[name.name].facts, by_name[name.name].label) for name in names]
    assert [(file.facts, file.label) for file in packed.files] == same_facts
    assert [file.stamp.size for file in packed.files] == [by_name[name.name].stamp.size for name in names]
    same = Index(plain.root, [by_name[name.name] for name in names], plain.labels)
    data = [ClipDataset(index, View(Bucket(4, 16, 16), flip=True)) for index in (same, packed)]
    for place in range(len(names)):
        one, other = (each[0, place] for each in data)
        assert all(torch.equal(one[key], other[key]) for key in one)
    orders = [Order([range(len(names))], 4) for _ in data]
    batches = [make_loader(each, order, workers) for each, order, workers in zip(data, orders, (0, 1), strict=True)]
    for (one, other), _ in zip(zip(*batches, strict=True), range(2), strict=False):
        assert torch.equal(one["video"], other["video"])

    caches = [latents_of(index, tmp_path / name) for name, index in (("one", same), ("other", packed))]
    assert caches[0].frames == caches[1].frames
    for number in range(len(names)):
        one, other = (cache.read(number, 0, 8) for cache in caches)
        assert torch.equal(one[0], other[0])


def test_samples_are_grouped_as_webdataset_groups_them(tmp_path: Path, whole: bytes) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x-000.tar")) as sink:
        for n in range(3):
            sink.write({"__key__": f"{n:03d}", "mp4": whole, "cls": n + 3, "txt": f"clip {n}", "thumb.jpg": b"x"})
    parts: Parts = {}
    for name in ("b.x/c.d.mp4", "b.x/c.cls", "noext", ".hidden.mp4", "b.x/e.MP4", "b.x/e.json", "e.2.mp4", "e.3.mp4"):
        parts[name] = whole if name.lower().endswith("mp4") else "7" if name.endswith("cls") else '{"label": 8}'
    pack(tmp_path / "x-001.tar", parts)
    theirs = [
        (Path(sample["__url__"]).name, sample["__key__"], sample)
        for sample in webdataset.WebDataset(
            [str(tmp_path / f"x-00{n}.tar") for n in range(2)], shardshuffle=False, empty_check=False
        )
        if not sample["__key__"].startswith(".")
    ]
    found, labels = find_files(tmp_path / "x-{000..001}.tar", "auto", "train", 1)
    held_out, _ = find_files(tmp_path / "x-{000..001}.tar", "auto", "test", 1)
    found = sorted(found + held_out)
    assert labels == [str(n) for n in range(9)]
    ours = []
    for name, label in found:
        shard, member = Path(name).parts[0], "/".join(Path(name).parts[1:])
        stem = Path(member).name.partition(".")[0]
        ours.append((shard, str(Path(member).parent / stem), label))
    expected = [
        (url, key, int(sample["cls"]) if "cls" in sample else json.loads(sample.get("json", '{"label":-1}'))["label"])
        for url, key, sample in theirs
        if any(kind.endswith("mp4") for kind in sample)
    ]
    assert sorted(ours) == sorted(expected)
    there = source(tmp_path / "x-{000..001}.tar")
    clips = sorted(find_clips(there) + find_clips(there, split="test"), key=lambda clip: clip.name)[:3]
    assert read_captions(there, clips) == read_captions(there, clips, "txt") == ["clip 0", "clip 1", "clip 2"]


def test_labels_and_captions(tmp_path: Path, whole: bytes) -> None:
    def labels_of(**parts: str | bytes) -> tuple[list[str], list[int]]:
        tar = pack(
            tmp_path / f"{random.random()}.tar", {k.replace("__", "/").replace("_", "."): v for k, v in parts.items()}
        )
        found, labels = find_files(tar, "webdataset", "train", 1)
        rest, _ = find_files(tar, "webdataset", "test", 1)
        return labels, [label for _, label in sorted({*found, *rest})]

    assert labels_of(a_mp4=whole, b_mp4=whole) == ([], [-1, -1])
    assert labels_of(a_mp4=whole, a_cls="1\n", b_mp4=whole) == (["0", "1"], [1, -1])
    assert labels_of(a_mp4=whole, a_cls="dog", b_mp4=whole, b_cls="cat") == (["cat", "dog"], [1, 0])
    assert labels_of(a_mp4=whole, a_json='{"label": "dog"}', b_mp4=whole, b_json='{"label": "1"}') == (
        ["1", "dog"],
        [1, 0],
    )
    assert labels_of(cat__a_mp4=whole, dog__a_mp4=whole, e_mp4=whole) == (["cat", "dog"], [0, 1, -1])
    with pytest.raises(DataError, match=r"labels in .* are numbers, such as 3, and names, such as dog"):
        labels_of(a_mp4=whole, a_cls="dog", b_mp4=whole, b_cls="3")
    with pytest.raises(DataError, match=r"label 100000 in .*: labels are numbered from 0, to 99999 at most"):
        labels_of(a_mp4=whole, a_cls="100000")
    tar = pack(tmp_path / "c.tar", {"a.mp4": whole, "a.json": '{"caption": " A  dog\\nruns "}', "b.mp4": whole})
    clips = find_all(tar)
    assert [clip.caption for clip in clips] == ["A dog runs", ""]
    with pytest.raises(DataError, match=r"the caption of c\.tar/b\.mp4 is empty"):
        read_captions(source(tar), clips)


def test_a_sample_is_one_clip(tmp_path: Path, whole: bytes) -> None:
    write_image(tmp_path / "x.png", torch.zeros(3, 16, 16))
    png = (tmp_path / "x.png").read_bytes()
    tar = pack(
        tmp_path / "0.tar", {"a.jpg": png, "a.mp4": whole, "a.left.mp4": whole, "b.png": png, "c.png": png, "c.txt": ""}
    )
    names = [each.name for each in contents_of(tar).clips]
    assert names == ["a.mp4", "b.png", "c.png"]
    assert contents_of(tar).skipped == [("a.left.mp4", "another clip of its sample comes first")]
    assert read_video(member(tar, "0.tar/b.png")).shape == (3, 1, 16, 16)


def test_splits(tmp_path: Path, whole: bytes) -> None:
    for n in range(40):
        pack(tmp_path / "all" / f"{n:02d}.tar", {"x.mp4": whole})
    train, test = (find_files(tmp_path / "all", "auto", split, 1)[0] for split in ("train", "test"))
    assert (len(train), [path for path, _ in test]) == (38, ["02.tar/x.mp4", "19.tar/x.mp4"])
    for name in ("train-0.tar", "train-1.tar", "val-0.tar"):
        pack(tmp_path / "named" / name, {f"{'cat' if name[0] == 'v' else 'dog'}/x.mp4": whole})
    found, labels = find_files(tmp_path / "named", "auto", "train", 1)
    assert found == [("train-0.tar/dog/x.mp4", 1), ("train-1.tar/dog/x.mp4", 1)] and labels == ["cat", "dog"]
    assert find_files(tmp_path / "named", "auto", "val", 1)[0] == [("val-0.tar/cat/x.mp4", 0)]
    with pytest.raises(DataError, match=r"no clips of split 'test' in .*named, but of train, val: add some"):
        find_files(tmp_path / "named", "auto", "test", 1)
    pack(tmp_path / "one" / "test" / "0.tar", {"x.mp4": whole})
    with pytest.raises(DataError, match="no clips of split 'train'"):
        find_files(tmp_path / "one", "auto", "train", 1)
    write_numbered(tmp_path / "all" / "dog" / "x.mp4", 8)  # an archive beside what was unpacked from it
    assert find_files(tmp_path / "all", "auto", "train", 1)[0] == [("dog/x.mp4", 0)]


def test_patterns() -> None:
    assert expand("x-{008..011}.tar") == ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]
    assert expand("{a,b}-{8..10}.tar") == [f"{w}-{n}.tar" for w in "ab" for n in (8, 9, 10)]
    assert expand("plain.tar") == ["plain.tar"]
    for wrong in ("x-{3..1}.tar", "x-{a..b}.tar", "x-{}.tar"):
        with pytest.raises(DataError, match=r"(counts no numbers|stands for nothing): expected such as"):
            expand(wrong)


UNSAFE: dict[str, tuple[tarfile.TarInfo | None, str]] = {
    "/etc/passwd.mp4": (None, "an absolute name"),
    "../out.mp4": (None, "a name that leads out of the tar"),
    "a/../../out.mp4": (None, "a name that leads out of the tar"),
    "c:/x.mp4": (None, "an absolute name"),
    "new\nline.mp4": (None, "an improper name"),
    "soft.mp4": (special("soft.mp4", tarfile.SYMTYPE, "/etc/passwd"), "a link: pack what it leads to"),
    "hard.mp4": (special("hard.mp4", tarfile.LNKTYPE, "good.mp4"), "a link: pack what it leads to"),
    "fifo.mp4": (special("fifo.mp4", tarfile.FIFOTYPE), "a device, a pipe or the like"),
    "disk.mp4": (special("disk.mp4", tarfile.BLKTYPE), "a device, a pipe or the like"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_members_are_left_out(tmp_path: Path, whole: bytes, name: str) -> None:
    info, reason = UNSAFE[name]
    tar = pack(tmp_path / "0.tar", {"good.mp4": whole, name: info or whole})
    contents = contents_of(tar)
    assert [each.name for each in contents.clips] == ["good.mp4"] and not contents.cut
    assert [(n, r.startswith(reason)) for n, r in contents.skipped] == [(name, True)]


def test_a_colon_makes_no_absolute_name(tmp_path: Path) -> None:
    names = ["a:b.mp4", "12:30/c.mp4", "d:e/f.mp4"]
    contents = contents_of(pack(tmp_path / "0.tar", dict.fromkeys([*names, "g:/h.mp4"], b"")))
    assert [clip.name for clip in contents.clips] == names
    assert contents.skipped == [("g:/h.mp4", "an absolute name")]


@pytest.mark.faults
def test_more_that_is_left_out(tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sparse.mp4").touch()
    os.truncate(tmp_path / "sparse.mp4", 1 << 20)
    hidden = ["._good.mp4", ".DS_Store", "__MACOSX/good.mp4", "a/.cache/x.mp4"]
    parts: Parts = {"./good.mp4": whole, **dict.fromkeys(hidden, whole)}
    parts |= {f"{n}.mp4": whole for n in range(5)}
    parts |= {"0.json": "{", "1.json": "[]", "2.json": '{"label": 1.5}', "3.cls": b"\xff", "4.cls": "-1"}
    tar = pack(tmp_path / "0.tar", parts)
    with tarfile.open(tar, "a") as file:
        file.addfile(tarfile.TarInfo("good.mp4"))
    contents = contents_of(tar)
    assert [each.name for each in contents.clips] == ["good.mp4"]
    assert dict(contents.skipped) == {
        "good.mp4": "there twice: the first is taken",
        "0.mp4": "its 0.json is not JSON",
        "1.mp4": "its 1.json is no JSON object",
        "2.mp4": "the label in its 2.json is neither a number nor a name",
        "3.mp4": "its 3.cls is not UTF-8 text",
        "4.mp4": "its label is -1: labels are numbered from 0",
    }
    assert read_video(member(tar, "0.tar/good.mp4")).shape == (3, 8, 32, 32)
    build_index(tar, progress=False)
    said = capsys.readouterr().out
    assert f"6 of 7 files in {tar} are left out:" in said
    assert "       1  a member of a tar: there twice: the first is taken, such as 0.tar/good.mp4" in said
    if shutil.which("tar"):
        os.system(f"cd {tmp_path} && tar --sparse --format=gnu -cf s.tar sparse.mp4")
        assert contents_of(tmp_path / "s.tar").skipped == [("sparse.mp4", "sparse: pack it without --sparse")]


@pytest.mark.faults
def test_what_is_no_tar_is_refused(tmp_path: Path, whole: bytes) -> None:
    def expect(path: Path, complaint: str) -> None:
        with pytest.raises(DataError, match=complaint):
            find_files(path, "auto", "train", 1)

    for mode in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"{mode}.tar", f"w:{mode}") as file:  # type: ignore[call-overload]
            file.addfile(tarfile.TarInfo("x.mp4"))
        expect(tmp_path / f"{mode}.tar", rf"{mode}\.tar is compressed, so that no clip .*: (gunzip|bunzip2|unxz) it;")
    shutil.copy(tmp_path / "gz.tar", tmp_path / "x.tar.gz")
    expect(tmp_path / "x.tar.gz", r"x\.tar\.gz is compressed")
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "gz.tar", tmp_path / "only" / "x.tar.gz")
    with pytest.raises(DataError, match=r"x\.tar\.gz is compressed"):
        find_files(tmp_path / "only", "webdataset", "train", 1)
    (tmp_path / "text.tar").write_text("<html>404</html>" * 100)
    expect(tmp_path / "text.tar", r"text\.tar is no tar file \(.*\): download it again, or remove it")
    (tmp_path / "empty.tar").touch()
    expect(tmp_path / "empty.tar", r"empty\.tar is no tar file")
    expect(tmp_path / "no.tar", r"no .*no\.tar: set data\.root to what is there")
    expect(tmp_path / "no-{0..3}.tar", r"no 4 of 4 tars of the pattern, such as .*no-0\.tar")
    expect(tmp_path / "{a,b}" / "x.tar", r"has braces in a folder's name")
    expect(Path("pipe:curl x.tar"), "is a command, and data are never read by one")
    expect(pack(tmp_path / "text-only.tar", {"a.txt": "x"}), r"no videos in the tars of .*text-only\.tar")


@pytest.mark.faults
def test_a_tar_that_is_cut_off_is_used_as_far_as_it_goes(
    tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = pack(tmp_path / "0.tar", {f"{n}.mp4": whole for n in range(4)})
    content = tar.read_bytes()
    starts = [each.start for each in contents_of(tar).clips]
    for end, members, problem in (
        (starts[2] + len(whole) * 2 // 3, 3, "truncated"),
        (starts[2] - 300, 2, ""),  # within a header
        (starts[2] - 512, 2, ""),  # before one
        (starts[2], 3, "empty"),
    ):
        tar.write_bytes(content[:end])
        contents = contents_of(tar)
        assert len(contents.clips) == members and contents.cut, end
        assert all(examine(case(member(tar, f"0.tar/{n}.mp4"))).readable for n in range(2))
        if problem:
            assert examine(case(member(tar, "0.tar/2.mp4"))).problem == problem
            assert isinstance(probe(Clip("x", member(tar, "0.tar/2.mp4"))), str)
    tar.write_bytes(content[: starts[2] - 512] + b"\xff" * 512 + content[starts[2] :])
    assert [each.name for each in contents_of(tar).clips] == ["0.mp4", "1.mp4"]
    index = build_index(tar, progress=False)
    index = Index("", [*index.files, *build_index(tar, "test", progress=False).files], [])
    assert sorted(file.name for file in index.files) == ["0.tar/0.mp4", "0.tar/1.mp4"]
    said = "".join(capsys.readouterr())
    assert (
        f"0.tar: it is damaged at byte {starts[2] - 512:,}; the 2 clips before that are used: download it aga" in said
    )


@pytest.mark.faults
def test_no_tar_makes_the_reader_fall(tmp_path: Path, whole: bytes) -> None:
    """Bytes are changed at random, in headers above all: whatever comes is a listing or a refusal, and soon."""
    parts: Parts = {f"{n}.mp4": whole[:700] for n in range(3)} | {
        "ü" * 120 + ".mp4": whole[:700],
        "0.json": '{"label": 1}',
    }
    content = pack(tmp_path / "0.tar", parts).read_bytes()
    generator = random.Random(0)
    tar = tmp_path / "x.tar"
    outcomes = set()
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(0, len(content) // 512) * 512 + generator.randrange(0, 512)
            broken[place] = generator.choice([0, 32, 48, 0x80, 0xFF])
        tar.write_bytes(bytes(broken[: generator.choice([len(content), generator.randrange(512, len(content))])]))
        try:
            contents = contents_of(tar)
        except TarError:
            outcomes.add("refused")
            continue
        outcomes.add("cut" if contents.cut else "listed")
        for each in contents.clips:
            assert each.start >= 0 and each.start + each.size <= tar.stat().st_size
            assert not each.name.startswith("/") and ".." not in each.name.split("/")
    assert outcomes == {"refused", "cut", "listed"}


@pytest.mark.faults
def test_a_header_that_leads_back_is_found(tmp_path: Path, whole: bytes) -> None:
    content = bytearray(pack(tmp_path / "0.tar", {"a.mp4": whole, "b.mp4": whole}, tarfile.GNU_FORMAT).read_bytes())
    begin = 512 + (len(whole) + 511) // 512 * 512
    header = content[begin : begin + 512]
    header[124:136] = b"\xff" * 8 + (-(begin + 1024)).to_bytes(4, "big", signed=True)  # a size below 0
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content[begin : begin + 512] = header
    tar = tmp_path / "1.tar"
    tar.write_bytes(content)
    contents = contents_of(tar)
    assert [each.name for each in contents.clips] == ["a.mp4"] and contents.cut


def test_headers_are_read_once(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they say is kept with the index, for every split, until the tar changes."""
    tar = pack(tmp_path / "0.tar", {f"{n}.mp4": whole for n in range(4)} | {"0.txt": "A dog"})
    cache = tmp_path / "index.jsonl"
    scans: list[str] = []

    def watched(place: Place) -> Contents:
        scans.append(place.name)
        return read_contents(place)

    monkeypatch.setattr(module, "read_contents", watched)
    first = build_index(tar, progress=False, cache=cache)
    for split in ("train", "test"):
        build_index(tar, split=split, progress=False, cache=cache)
    again = build_index(tar, progress=False, cache=cache)
    assert (
        scans == [str(tar)]
        and again == first
        and [file.place for file in again.files] == [f.place for f in first.files]
    )
    for damage in ("no index", cache.read_text()[:500], ""):
        cache.write_text(damage)
        assert build_index(tar, progress=False, cache=cache) == first
    assert len(scans) == 4
    pack(tar, {"9.mp4": whole, "a.mp4": whole})
    assert len(find_all(tar)) == 2 and build_index(tar, progress=False, cache=cache).files != first.files
    assert len(scans) == 6


def test_a_folder_may_be_named_as_a_tar(tmp_path: Path, whole: bytes) -> None:
    folder = tmp_path / "clips.tar"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(whole)
    assert [clip.name for clip in find_all(folder)] == ["a.mp4"]
    (folder / "a.mp4").unlink()
    tar = pack(folder / "x.tar", {"y.tar/a.mp4": whole})
    assert read_video(member(tar, "x.tar/y.tar/a.mp4")).shape == (3, 8, 32, 32)
    awkward = pack(tmp_path / "a,b: c%d,,:.tar", {"x,,:y.mp4": whole})
    assert read_video(member(awkward, "a,b: c%d,,:.tar/x,,:y.mp4")).shape == (3, 8, 32, 32)
    os.chdir(tmp_path)
    assert read_video(member("clips.tar", "x.tar/y.tar/a.mp4")).shape == (3, 8, 32, 32)


@pytest.mark.faults
def test_the_doctor_names_members(tmp_path: Path, whole: bytes) -> None:
    parts: Parts = {f"{way}.mp4": make(whole) for way, make in BREAK.items()}
    tar = pack(tmp_path / "data" / "0.tar", {**parts, "good.mp4": whole, "more.mp4": whole})
    quarantine = Quarantine(tmp_path / "quarantine.txt")
    records = scan(stock_of(tmp_path / "data"), tmp_path / "out", quarantine, processes=1, progress=False)
    assert {r.name: r.problem for r in records} == {
        **{f"0.tar/{way}.mp4": way for way in BREAK}, "0.tar/good.mp4": "", "0.tar/more.mp4": ""}  # fmt: skip
    held = quarantine.entries()
    assert {Path(name).name for name in held} == {f"{way}.mp4" for way in BREAK}
    assert str(tar / "text.mp4") in held
    index = build_index(tmp_path / "data", quarantine=quarantine, progress=False, max_broken=0)
    assert {file.name for file in index.files} <= {"0.tar/good.mp4", "0.tar/more.mp4"} and not index.broken
    pack(tar, {**parts, "text.mp4": whole})  # the whole of it has changed
    records = scan(stock_of(tmp_path / "data"), tmp_path / "out", quarantine, processes=1, progress=False)
    assert {r.name for r in records if r.readable} == {"0.tar/text.mp4"}
    assert str(tar / "text.mp4") not in quarantine.entries()


@pytest.mark.faults
def test_a_damaged_member_costs_one_clip(tmp_path: Path, whole: bytes) -> None:
    parts: Parts = {f"{name}.mp4": whole for name in "abcd"}
    tar = pack(tmp_path / "0.tar", parts)
    index = build_index(tar, layout="webdataset", progress=False)
    dataset = ClipDataset(index, View(Bucket(8, 32, 32)), max_broken=0.6)
    pack(tar, {**parts, "b.mp4": BREAK["damaged"](whole)})
    broken = next(n for n, file in enumerate(index.files) if file.name == "0.tar/b.mp4")
    with pytest.warns(UserWarning, match=r"another clip is drawn .* .*0\.tar/b\.mp4: not a video, or cut off"):
        assert int(dataset[0, broken]["key"]) != broken
    with VideoReader(index.files[0].place) as reader:
        assert reader.frames == 8


def test_numbers_survive(tmp_path: Path) -> None:
    write_numbered(tmp_path / "x.mp4", 12)
    tar = pack(tmp_path / "0.tar", {"x.mp4": (tmp_path / "x.mp4").read_bytes()})
    assert number_of(read_video(member(tar, "0.tar/x.mp4"), [11, 0, 5])) == [11, 0, 5]
