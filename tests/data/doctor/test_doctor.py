from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest
from indexes import build_index, case, clip_at, find_all, stock_of
from messy import BREAK, FRAMES, SIDE, WAYS, look, with_edit_list, write_broken, write_clip, write_uncommon

from vidiff.data.clip import Clip
from vidiff.data.doctor import scan as doctor
from vidiff.data.doctor.container import is_text, missing_bytes, read_container
from vidiff.data.doctor.examine import NOTES, PROBLEMS, examine
from vidiff.data.doctor.page import write_scan, write_sheet
from vidiff.data.doctor.record import VERSION, Record, read_records, write_records
from vidiff.data.doctor.scan import scan, summarise, thumbnails
from vidiff.data.find import is_held_out
from vidiff.data.quarantine import Entry, Quarantine
from vidiff.data.workers import at_once
from vidiff.store.copies import Copies
from vidiff.store.error import DataError
from vidiff.store.place import Place, Remote, Stamp, place_of
from vidiff.store.remote import Identity
from vidiff.video.reader import read_image, read_video
from vidiff.video.sources import stamp_of

NOWHERE = Place("nowhere")
TOOL = Path(__file__).parents[3] / "tools" / "doctor.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("whole") / "clip.mp4").read_bytes()


def messy(root: Path, whole: bytes, good: int, of_each: int) -> dict[str, str]:
    """A folder of classes; returns what each broken file is, by path."""
    for number in range(good):
        path = root / "ab"[number % 2] / f"{number:03d}.mp4"
        if number < 40:
            write_clip(path, number)
        else:
            os.link(root / "ab"[number % 2] / f"{number % 40:03d}.mp4", path)
    broken = {f"a/{way.replace(' ', '-')}-{n}.mp4": way for way in WAYS for n in range(of_each)}
    for name, way in broken.items():
        write_broken(root / name, way, whole)
    return broken


@pytest.mark.faults
@pytest.mark.parametrize("way", BREAK)
def test_each_way_of_breaking_has_its_name(tmp_path: Path, whole: bytes, way: str) -> None:
    path = write_broken(tmp_path / "x.mp4", way, whole)
    record = examine(case(path, "x.mp4"))
    assert (record.problem, record.readable) == (way, False)
    assert record.reason.startswith(PROBLEMS[way][0])
    told = {
        "text": "text, not a video: it begins '<html><body>404: nicht gefunden, schöne ",
        "truncated": f"truncated: {len(whole) - len(whole) * 2 // 3:,} of {len(whole):,} bytes are missing",
    }
    assert told.get(way, "") in record.reason
    if way == "frame count":
        assert record.reason.endswith(f" frames are promised, {FRAMES - 1} are there")


def test_a_trimmed_clip_has_the_frames_that_are_shown(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(with_edit_list(whole))
    record = examine(case(path, "x.mp4"))
    assert (record.problem, record.frames, record.read, record.decoder) == ("", FRAMES - 3, FRAMES - 3, "pyav")
    assert record.notes == [f"header: promises {FRAMES} frames, {FRAMES - 3} are there"]


@pytest.mark.faults
def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would hang
    (tmp_path / "link.mp4").symlink_to("gone.mp4")
    assert examine(case(tmp_path / "pipe.mp4", "pipe.mp4")).problem == "special"
    assert examine(case(tmp_path / "link.mp4", "link.mp4")).problem == "missing"


def test_a_clip_elsewhere_of_untold_size_is_not_empty(tmp_path: Path, whole: bytes) -> None:
    copies = Copies(tmp_path / "copies", 1 << 20)
    for name, content, problem in (("whole.mp4", whole, ""), ("none.mp4", b"", "empty")):
        (tmp_path / name).write_bytes(content)
        place = Place(name, remote=Remote(f"file://{tmp_path}", name, Identity(), copies))
        assert examine(case(place, name)).problem == problem


@pytest.mark.faults
@pytest.mark.parametrize("name", ["x.avi", "x.mkv", "x.webm"])
def test_a_cut_is_found_in_every_container(tmp_path: Path, name: str) -> None:
    codec = {".avi": "mpeg4", ".mkv": "libx264", ".webm": "libvpx-vp9"}[Path(name).suffix]
    path = write_clip(tmp_path / name, codec=codec)
    assert examine(case(path, name)).readable
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    record = examine(case(path, name))
    assert record.problem == "truncated"
    assert missing_bytes(place_of(path), content[:4096]) == len(content) - len(content) * 3 // 4


def test_what_is_uncommon_is_noted_and_kept(tmp_path: Path) -> None:
    records = {}
    for path, note in write_uncommon(tmp_path).items():
        record = records[path.name] = examine(case(path, path.name))
        assert record.readable
        assert [each.partition(":")[0] for each in record.notes] == [note]
        assert note in NOTES
    assert (records["odd.webm"].height, records["odd.webm"].width) == (31, 33)
    assert records["header.avi"].notes == [f"header: promises 99 frames, {FRAMES} are there"]
    assert abs(records["turned.mp4"].rotation) == 90
    assert (records["deep.mp4"].bits, records["deep.mp4"].pixel_format) == (10, "yuv420p10le")


def test_the_facts_of_a_clip(tmp_path: Path) -> None:
    record = examine(case(write_clip(tmp_path / "x.mp4", frames=9, height=32, width=48, keys=4), "x.mp4"))
    assert (record.frames, record.read, record.declared, record.fps, record.duration) == (9, 9, 9, 8.0, 1.125)
    assert (record.height, record.width, record.codec, record.pixel_format) == (32, 48, "h264", "yuv420p")
    assert (record.bits, record.rotation) == (8, 0)
    container = read_container(place_of(tmp_path / "x.mp4"))
    assert (record.key_frames, record.key_spacing) == (container.key_frames, container.key_spacing)
    assert 9 / container.key_frames <= container.key_spacing <= 4
    assert record.moves is not None and 0 < record.moves <= 1
    assert not record.notes


def test_a_long_file_is_read_in_windows_and_on_request_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "x.mp4", frames=280, height=16, width=16, keys=250)
    assert examine(case(path, "x.mp4")).read == 3 * 64
    record = examine(case(path, "x.mp4", whole=True))
    assert record.read == 280
    assert [note.partition(":")[0] for note in record.notes] in ([], ["few key frames"])


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"plain\r\nwords\t", True),
        ("schön".encode()[:4], True),  # cut inside a letter
        (b"\xef\xbb\xbf{}", True),
        (b"RIFF\x00\x00", False),
        (b"\xff\xfe\xfd\xfc words", False),
    ],
)
def test_text_is_told_from_video(head: bytes, expected: bool) -> None:
    assert is_text(head) == expected


def test_files_are_found_in_every_folder_once(tmp_path: Path) -> None:
    for name in ("a/b/0.mp4", "1.MKV", ".hidden/2.mp4", "a/.3.mp4", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    assert [clip.place.file for clip in find_all(tmp_path)] == [tmp_path / "1.MKV", tmp_path / "a/b/0.mp4"]
    with pytest.raises(DataError, match=r"no folder .*nowhere: set data\.root"):
        find_all(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no videos in .*empty \(layout auto\): expected"):
        find_all(tmp_path / "empty")


def check(root: Path, out: Path, whole: bytes, good: int, of_each: int) -> list[Record]:
    """Makes a messy folder, and expects the doctor to name every broken file rightly, and no other."""
    broken = messy(root, whole, good, of_each)
    uncommon = {f"a/{path.name}": note for path, note in write_uncommon(root / "a").items()}
    quarantine = Quarantine(out / "quarantine.txt")
    records = scan(stock_of(root), out, quarantine, patience=6, look=look, progress=False)
    assert len(records) == good + len(broken) + len(uncommon)
    assert {r.name: r.problem for r in records if r.problem} == broken
    assert {r.name: r.notes[0].partition(":")[0] for r in records if r.notes and not r.problem} == uncommon
    assert all((r.frames, r.read) == (FRAMES, FRAMES) for r in records if r.readable)
    held = quarantine.held(find_all(root))
    assert held == {r.name: r.reason for r in records if r.problem}
    return records


@pytest.mark.faults
def test_a_messy_folder(tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "data", tmp_path / "runs"
    records = check(root, out, whole, good=45, of_each=1)
    said = summarise(records)
    assert said[0].startswith("60 files: 50 readable (") and said[0].endswith(" 10 left out")
    assert "       1  no moov atom: download it again: an mp4 that lost its table cannot be played" in said
    assert read_records(out / "index.jsonl") == {record.name: record for record in records}
    assert all(json.loads(line)["version"] == VERSION for line in (out / "index.jsonl").read_text().splitlines())

    # A training honours the list, counts nothing as broken, and opens nothing again.
    quarantine = Quarantine(out / "quarantine.txt")
    cache = out / "cache.jsonl"
    index = build_index(
        root, max_broken=0, cache=cache, quarantine=quarantine, records=out / "index.jsonl", progress=False
    )
    assert index.broken == [] and not cache.exists()
    found = {file.name: file for file in index.files}
    assert found["a/turned.mp4"].frames == FRAMES
    printed = "".join(capsys.readouterr())
    assert "left out a/text-0.mp4: text, not a video: it begins" in printed
    held_out = sum(is_held_out(record.name) for record in records)  # without folders of splits
    left_out = sum(is_held_out(record.name) is record.readable is False for record in records)
    assert printed.count("left out a/") == left_out
    assert f"{left_out} of {60 - held_out} files in {root} are left out:\n" in printed
    assert f"{left_out:8}  a file that {out}/quarantine.txt lists, such as a/" in printed
    assert len(index.files) == 60 - held_out - left_out


@pytest.mark.slow
@pytest.mark.faults
def test_five_hundred_files(tmp_path: Path, whole: bytes) -> None:
    check(tmp_path / "data", tmp_path / "runs", whole, good=445, of_each=5)


@pytest.fixture
def small(tmp_path: Path, whole: bytes) -> Path:
    root = tmp_path / "data"
    for number in range(3):
        write_clip(root / f"{number}.mp4", number)
    write_broken(root / "bad.mp4", "truncated", whole)
    return root


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Files are looked at in this process; returns the names of those of each scan that were opened."""
    scans: list[list[str]] = []

    def ask_here(cases, look, processes, patience):  # type: ignore[no-untyped-def]
        scans.append([Path(case.place.name).name for case in cases])
        return ((case, look(case, at_once)) for case in cases)

    monkeypatch.setattr(doctor, "ask_all", ask_here)
    return scans


def test_a_second_scan_touches_only_what_has_changed(
    tmp_path: Path, small: Path, whole: bytes, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    first = scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert scan(stock_of(small), tmp_path, quarantine, progress=False) == first
    os.utime(small / "0.mp4", ns=(5, 5))  # a copy of the folder: known by its fingerprint, and not decoded
    with monkeypatch.context() as patch:
        patch.setattr("vidiff.data.doctor.examine.VideoReader", None)
        second = scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert second[0].stamp.changed == 5 and second[1:] == first[1:]
    shutil.copy(small / "1.mp4", small / "2.mp4")
    (small / "bad.mp4").write_bytes(whole)
    third = scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert third[:2] == second[:2] and all(record.readable for record in third)
    assert asked == [["0.mp4", "1.mp4", "2.mp4", "bad.mp4"], [], ["0.mp4"], ["2.mp4", "bad.mp4"]]


def test_a_mended_file_is_let_in_again(tmp_path: Path, small: Path, whole: bytes, asked: list[list[str]]) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert list(quarantine.held(find_all(small))) == ["bad.mp4"]
    (small / "bad.mp4").write_bytes(whole)
    assert not quarantine.held(find_all(small))  # the line is of a file that is no more
    quarantine.add(Clip("1.mp4", place_of(small / "1.mp4")), "its decoder hung in a training")
    with (tmp_path / "list.txt").open("a") as file:
        file.write(f"{small.resolve()}/2.mp4\n")  # by hand
    records = scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert asked[1] == ["1.mp4", "2.mp4", "bad.mp4"]
    assert all(record.readable for record in records)
    assert quarantine.held(find_all(small)) == {"2.mp4": "listed by hand"}


def test_one_of_several_clips_of_a_file_is_left_out_alone(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As episodes of LeRobot share files: the last asks for more frames than there are."""
    place, stops = place_of(small / "1.mp4"), (4, 8, 80)
    clips = [Clip(f"episode_{stop}", place, part=(stop - 4, stop), shared=True) for stop in stops]
    monkeypatch.setattr(doctor, "find_all", lambda stock: clips)
    quarantine = Quarantine(tmp_path / "list.txt")
    quarantine.replace({place.key: Entry("of an earlier version", str(stamp_of(place)))})
    assert len(quarantine.held(clips)) == 3, "a line without a name is of the whole file"
    for _ in range(2):
        scan(stock_of(small), tmp_path, quarantine, progress=False)
        assert [*quarantine.held(clips)] == ["episode_80"]
    quarantine.add(clips[0], "its decoder hung in a training")
    assert [*quarantine.held(clips)] == ["episode_4", "episode_80"]
    with quarantine.file.open("a") as file:
        file.write(f"{place.key}\n")  # by hand
    assert len(quarantine.held(clips)) == 3


def test_an_interrupted_scan_goes_on(
    tmp_path: Path, small: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(cases, look, processes, patience):  # type: ignore[no-untyped-def]
        yield cases[3], look(cases[3], at_once)
        raise KeyboardInterrupt

    quarantine = Quarantine(tmp_path / "list.txt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(doctor, "ask_all", interrupted)
        scan(stock_of(small), tmp_path, quarantine, progress=False)
    assert list(quarantine.held(find_all(small))) == ["bad.mp4"]
    assert len(scan(stock_of(small), tmp_path, quarantine, progress=False)) == 4
    assert asked == [["0.mp4", "1.mp4", "2.mp4"]]


def test_the_sheet_shows_what_a_model_sees(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", frames=5, height=32, width=64)
    found = thumbnails([clip_at(path), clip_at(tmp_path / "gone.mp4")], size=16, frames=3)
    assert list(found) == [str(path)]
    video = read_video(path, [0, 2, 4], size=(16, 32))[..., 8:24]  # as a clip is resized and cropped
    picture = read_image(write_sheet(tmp_path / "sheet.png", found.values()))
    assert picture.shape == (3, 16, 48)
    for n in range(3):
        assert picture[:, :, 16 * n : 16 * n + 16].equal(video[:, n])


def test_the_page_names_every_file(tmp_path: Path) -> None:
    records = [
        Record("a/<odd>.mp4", NOWHERE, notes=["odd size: 33x31"], frames=8, fps=8, height=31, width=33, codec="h264"),
        Record("b.mp4", NOWHERE, problem="text", reason="text, not a video: it begins '<html>'"),
        Record("caf\udce9/0.mp4", NOWHERE, problem="empty", reason="no bytes"),  # a name that is not UTF-8
    ]
    page = write_scan(tmp_path / "page.html", str(tmp_path), records, [], None).read_text()
    assert r"caf\udce9/0.mp4" in page
    assert "a/&lt;odd&gt;.mp4" in page and "begins &#x27;&lt;html&gt;" in page
    assert "<html>'" not in page
    assert PROBLEMS["text"][0] in page and "33x31" in page and "8 to 15" in page


def test_records_go_to_parquet_as_well(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [
        Record("a.mp4", NOWHERE, stamp=Stamp(7), notes=["odd size: 33x31"], fps=23.976),
        Record(os.fsdecode(b"\xff.mp4"), NOWHERE),
    ]
    files = write_records(tmp_path, records)
    assert [file.name for file in files] == ["index.jsonl", "index.parquet"]
    rows = parquet.read_table(files[1]).to_pylist()
    assert [row["path"] for row in rows] == ["a.mp4", "\\udcff.mp4"]
    assert {key: rows[0][key] for key in ("bytes", "notes", "fps", "version")} == {
        "bytes": 7,
        "notes": ["odd size: 33x31"],
        "fps": 23.976,
        "version": VERSION,
    }
    assert list(read_records(files[0]).values()) == records  # the JSON lines lose nothing


def run(*arguments: object) -> int:
    try:
        return int(runpy.run_path(str(TOOL))["main"]([str(each) for each in arguments]))
    except SystemExit as end:
        return int(end.code or 0)


def test_the_command(tmp_path: Path, small: Path, asked: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small, "--runs", tmp_path / "runs", "--size", 16, "--frames", 2) == 0
    said = capsys.readouterr().out
    assert "4 files: 3 readable" in said and "1 left out" in said and "1  truncated: download it again" in said
    assert f"next: vidiff train CONFIG data.root={small}" in said
    folder = tmp_path / "runs" / "index" / "data"
    assert {path.name for path in folder.iterdir()} >= {"doctor.html", "index.jsonl", "thumbnails.png"}
    assert "data:image/png;base64," in (folder / "doctor.html").read_text()
    assert (tmp_path / "runs" / "index" / "quarantine.txt").read_text().count("bad.mp4\ttruncated") == 1
    assert read_image(folder / "thumbnails.png").shape == (3, 3 * 16, 2 * 16)

    for name in ("0", "1", "2"):
        (small / f"{name}.mp4").write_bytes(b"")
    assert run(small, "--runs", tmp_path / "runs") == 2
    assert "error: none of the files can be read" in capsys.readouterr().err
    assert run(tmp_path / "nowhere") == 2
    assert "error: no folder" in capsys.readouterr().err
    assert run(small, "--patience", 0) == 2
    assert "--patience is 0.0; give a number above 0" in capsys.readouterr().err
    assert SIDE == 32
